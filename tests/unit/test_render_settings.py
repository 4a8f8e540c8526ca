"""Settings: every key explained, every value checked, and what was probably meant."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.names import check_name, name_from
from penstock.deploy.settings import Settings, make_settings, merge, parse_assignment, parse_settings
from penstock.deploy.yaml_text import read_yaml, write_yaml
from penstock.errors import UsageError

ROOT = Path(__file__).parent.parent.parent


def test_reference_of_settings_is_fresh() -> None:
    command = [sys.executable, ROOT / "tools/generate_settings_reference.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_every_key_is_explained() -> None:
    schema = Settings.model_json_schema()
    sections = {**schema["$defs"], "": schema}
    silent = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, each in section.get("properties", {}).items()
        if not each.get("description") and "$ref" not in each
    ]
    assert silent == []


def test_settings_that_are_accepted_are_valid_by_the_schema() -> None:
    made = make_settings({"model": "hf://org/name", "bucket": "gs://a-bucket/m", "server": {"gpu": "nvidia-l4"}})
    schema = {**Settings.model_json_schema(), "required": ["model"]}
    jsonschema.validate(made.model_dump(mode="json"), schema)


@pytest.mark.parametrize(
    ("model", "name", "served"),
    [
        (
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "meta-llama-3-1-8b-instruct",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
        ),
        ("hf://openai/gpt-oss-120b", "gpt-oss-120b", "openai/gpt-oss-120b"),
        ("gs://bucket/models/Gemma_3", "gemma-3", "Gemma_3"),
        ("s3://a-bucket", "a-bucket", "a-bucket"),
        ("hf://org/4bit", "model-4bit", "org/4bit"),
    ],
)
def test_names_are_made_from_the_model(model: str, name: str, served: str) -> None:
    made = make_settings({"model": model})
    assert (made.name, made.served_name) == (name, served)


@given(st.text(min_size=1, max_size=200))
def test_any_text_makes_a_name_that_is_accepted(text: str) -> None:
    assert check_name(name_from(text)) == name_from(text)


def test_long_names_that_differ_stay_different() -> None:
    first, second = (name_from("a-very-long-name-of-a-model-that-somebody-made-" + end) for end in ("one", "two"))
    assert first != second


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sever": {}}, "there is no key sever; did you mean server?"),
        ({"server": {"max_model_length": 1}}, "did you mean server.max_model_len?"),
        ({"gpu": "nvidia-l4"}, "did you mean server.gpu"),
        ({"server": {"gpus": 0}}, "server.gpus: input should be greater than or equal to 1"),
        ({"server": {"gpus": True}}, "server.gpus"),
        ({"server": {"memory": "lots"}}, "server.memory: 'lots'"),
        ({"server": {"env": {"PATH": "x"}}}, "PATH is not among the variables"),
        ({"server": {"env": {"NCCL_DEBUG": "${X}"}}}, "Kubernetes does not expand"),
        ({"server": {"env": {"HF_HUB_ENABLE_HF_TRANSFER": "1"}}}, "HF_XET_HIGH_PERFORMANCE"),
        ({"server": {"args": ["--model=x"]}}, "set from a key of its own"),
        ({"server": {"args": ["--tensor_parallel_size=2"]}}, "set from a key of its own"),
        ({"name": "a" * 41}, "41 characters, 40 at most"),
        ({"name": "1a"}, "a letter first"),
        ({"namespace": "-a"}, "namespace"),
        ({"labels": {"Team": "a"}}, "label Team=a"),
        ({"labels": {"app": "a"}}, "is set by penstock"),
        ({"kubernetes": "latest"}, "kubernetes"),
        ({"kubernetes": 1.3}, "kubernetes"),
        ({"cloud": {"zones": ["Zone A"]}}, "is not a zone"),
        ({"images": {"server": "a/b@sha256:1"}}, "64 hexadecimal digits"),
        ({"identity": {"role_arn": "arn:aws:iam::1:role/x"}}, "identity.role_arn"),
        ({"bucket": "gs://ab"}, "3 to 63 characters"),
        ({"bucket": "gs://goog-models/x"}, "'goog'"),
        ({"bucket": "s3://a..b/x"}, "no name for a bucket"),
        ({"bucket": "s3://192.168.0.1/x"}, "IP address"),
        ({"bucket": "s3://xn--a/x"}, "reserved"),
        ({"model": 7}, "model"),
        ({"model": "ftp://x"}, "unknown scheme"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_settings({"model": "hf://org/name", **values})
    assert says in str(caught.value)


def test_all_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        make_settings({"model": "hf://org/name", "a": 1, "server": {"b": 2}})
    assert "key a" in str(caught.value)
    assert "key server.b" in str(caught.value)


def test_version_of_kubernetes_may_be_a_number() -> None:
    assert make_settings({"model": "a/b", "kubernetes": 1.36}).kubernetes == "1.36"


@pytest.mark.parametrize("text", ["a: 1\nb:\n  c: [x, 'y']\n", "{}", "a: ~\n"])
def test_yaml_that_is_written_is_read(text: str) -> None:
    found = read_yaml(text, what="x")
    assert isinstance(found, dict)
    assert read_yaml(write_yaml([found]), what="x") == found


@given(st.text())
def test_yaml_from_anybody_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_settings(text, variables={}), dict)


@pytest.mark.parametrize("text", ["a: &a [x]\nb: [*a, *a]\n", "? [a]\n: b\n", "? {a: b}\n: c\n", "a: " + "[" * 3000])
def test_odd_yaml_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        read_yaml(text, what="x")


def test_later_layers_win_key_by_key() -> None:
    layers = [{"server": {"gpu": "a", "gpus": 1}}, parse_assignment("server.gpus=2"), {"name": "n"}]
    assert merge(layers) == {"server": {"gpu": "a", "gpus": 2}, "name": "n"}
