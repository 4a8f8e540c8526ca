"""`penstock render`: flags, files and facts in, YAML out, and every refusal with what would work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rendering
import typer.main
import yaml

from penstock.cli import app, run
from penstock.model.memory import measure
from penstock.testing.models import write_model

SHARDS = {
    "model-00001-of-00004.safetensors": 4_976_698_672,
    "model-00002-of-00004.safetensors": 4_999_802_720,
    "model-00003-of-00004.safetensors": 4_915_916_176,
    "model-00004-of-00004.safetensors": 1_168_138_808,
}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """What `penstock inspect meta-llama/Meta-Llama-3-8B --json` prints, shortened."""
    path = tmp_path / "facts.json"
    found = {
        "ref": "hf://meta-llama/Meta-Llama-3-8B",
        "origin": {"repo": "meta-llama/Meta-Llama-3-8B", "commit": rendering.COMMIT, "gated": "manual"},
        "files": [{"path": name, "size_bytes": size} for name, size in SHARDS.items()],
        "facts": {"weight_bytes": 16_060_522_496, "context_length": 8192, "needs_remote_code": False},
        "memory": measure(config=CONFIG, tensors_by_file={}, file_bytes=SHARDS).as_json(),
        "warnings": [],
        "problems": [],
    }
    path.write_text(json.dumps(found))
    return path


def render(facts: Path, *words: str, expect: int = 0) -> None:
    assert run(["render", "--facts", str(facts), "--gpu", "nvidia-l4", *words]) == expect


def test_render_prints_yaml_that_kubectl_takes(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--registry", "registry.example.org/ours"]
    render(facts, "gs://bucket/model", "--delivery", "stream", "--platform", "gke-autopilot", *words)
    printed = capsys.readouterr()
    found = list(yaml.safe_load_all(printed.out))
    assert {each["kind"] for each in found} == {"ServiceAccount", "Deployment", "Service", "PodDisruptionBudget"}
    assert [problem for each in found for problem in rendering.problems(each)] == []
    assert printed.err == (
        "placed on g2-standard-8 (1 x nvidia-l4), requests of up to 8192 tokens, 0.85 dollars an hour (us-central1)\n"
    )


def test_render_of_a_hub_model_names_a_bucket_and_asks_no_cloud(
    facts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render(facts, "meta-llama/Meta-Llama-3-8B", "--bucket", "gs://my-bucket/model")
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    job = rendering.one(found, "Job")["spec"]["template"]["spec"]["containers"][0]
    assert job["args"][:2] == [f"hf://meta-llama/Meta-Llama-3-8B@{rendering.COMMIT}", "gs://my-bucket/model"]


def test_head_of_the_output_is_a_command_that_prints_it_again(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(facts, "org/name", "--bucket", "gs://my-bucket/model", "--spot", "--set", "server.args=[--seed=1, -x]")
    first = capsys.readouterr().out
    _, *words = shlex.split(first.splitlines()[1].removeprefix("#"))
    assert run([*words, "--facts", str(facts)]) == 0
    assert capsys.readouterr().out == first


def test_render_into_a_folder_makes_the_same_again(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    render(facts, "org/name", "--bucket", "s3://my-bucket/m", "--delivery", "pvc", "--platform", "eks", "--machine",
           "g6.2xlarge", "-o", str(folder))  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [str(path) for path in sorted(folder.iterdir())]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert "40-weights.yaml" in before
    assert run(["render", "-f", str(folder / "penstock.yaml"), "-o", str(folder), "--facts", str(facts)]) == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_settings_written_by_hand_stay_as_they_are(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_text("# of mine\nmodel: gs://bucket/m\nserver: {gpu: nvidia-l4}\n")
    assert run(["render", "-f", str(path), "-o", str(tmp_path), "--facts", str(facts)]) == 0
    assert path.read_text().startswith("# of mine")
    assert (tmp_path / "50-server.yaml").exists()
    capsys.readouterr()
    assert run(["render", "-f", str(path), "-o", str(tmp_path), "--facts", str(facts), "--spot"]) == 2
    assert "written by hand" in capsys.readouterr().err


def test_facts_of_another_model_are_warned_of(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(facts, "org/name", "--bucket", "gs://bucket/m")
    assert "facts of meta-llama/Meta-Llama-3-8B, not of org/name" in capsys.readouterr().err


def test_render_removes_files_of_its_own_that_are_no_more(facts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    render(facts, "gs://bucket/model", "--delivery", "fuse", "--kubernetes", "1.36", "-o", str(folder))
    (folder / "90-mine.yaml").write_text("kind: ConfigMap\n")
    assert (folder / "40-weights.yaml").exists()
    render(facts, "gs://bucket/model", "-o", str(folder))
    assert not (folder / "40-weights.yaml").exists()
    assert (folder / "90-mine.yaml").exists()


def test_render_leaves_files_of_others_alone(facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "50-server.yaml").write_text("kind: Deployment\n")
    render(facts, "gs://bucket/model", "-o", str(tmp_path), expect=2)
    assert "50-server.yaml, not made by penstock" in capsys.readouterr().err
    assert (tmp_path / "50-server.yaml").read_text() == "kind: Deployment\n"
    render(facts, "gs://bucket/model", "-o", str(tmp_path), "--force")
    assert "Made by penstock" in (tmp_path / "50-server.yaml").read_text()


def test_flags_win_over_assignments_and_those_over_the_file(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_text("model: gs://bucket/model\nname: of-the-file\nnamespace: a\nserver: {replicas: 2, gpus: 1}\n")
    render(facts, "-f", str(path), "--set", "name=of-set", "--set", "namespace=b", "--namespace", "c", "--json")
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["name"], settings["namespace"], settings["server"]["replicas"]) == ("of-set", "c", 2)


def test_render_json_holds_objects_and_files(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(facts, "gs://bucket/model", "--json")
    found = json.loads(capsys.readouterr().out)
    texts = [
        each for name, text in found["files"].items() if name != "penstock.yaml" for each in yaml.safe_load_all(text)
    ]
    assert found["objects"] == texts
    assert found["settings"]["served_name"] == "meta-llama/Meta-Llama-3-8B"


def test_render_reads_facts_of_a_folder_for_a_bucket_that_is_only_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", size_bytes=900_000, shards=2)
    words = ["--bucket", "gs://my-bucket/m", "--set", "transfer.enabled=false", "--set", "served_name=a"]
    assert run(["render", str(model), "--name", "a", "--gpu", "nvidia-l4", *words]) == 0
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    assert (
        rendering.one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"][0] == "gs://my-bucket/m"
    )


def test_facts_are_what_inspect_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model", size_bytes=900_000, shards=2)
    assert run(["inspect", str(model), "--json"]) == 0
    (tmp_path / "facts.json").write_text(capsys.readouterr().out)
    assert run(["render", "gs://bucket/m", "--facts", str(tmp_path / "facts.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["placement"]["max_model_len"]


REFUSED: tuple[tuple[list[str], str, str], ...] = (
    (["--gpu", "nvidia-l5"], "nvidia-l5", "nvidia-l4"),
    (
        ["--gpu", "nvidia-tesla-t4", "--machine", "g2-standard-8"],
        "has nvidia-l4, not nvidia-tesla-t4",
        "--gpu nvidia-l4",
    ),
    (["--gpu", "nvidia-a10g"], "gke-autopilot has no machine with nvidia-a10g", "nvidia-l4"),
    (["--gpu", "nvidia-l4", "--machine", "g6.xlarge"], "gke-autopilot has no g6.xlarge", "--platform"),
    (["--gpu", "nvidia-l4", "--machine", "g2-standard-9"], "g2-standard-9", "--catalog"),
    (["--gpu", "nvidia-l4", "--bucket", "az://models/x"], "of which account", "az://models@ACCOUNT/x"),
    (["--gpu", "nvidia-l4", "--set", "identity.workload_pool=a.global"], "Autopilot", "gke-standard"),
    (["--gpu", "nvidia-l4", "--gpus", "16"], "do not fit 16 of nvidia-l4", "g2-standard-8"),
    (
        ["--gpu", "nvidia-l4", "--platform", "kubernetes", "--delivery", "fuse"],
        "no driver",
        "stream, pvc, disk and hub",
    ),
    (["--gpu", "nvidia-l4", "--platform", "eks", "--delivery", "fuse"], "s3://", "--bucket s3://"),
    (["--gpu", "nvidia-l4", "--delivery", "hub"], "reads no bucket", "--bucket"),
    (["--gpu", "nvidia-l4", "--delivery", "flash"], "delivery", "stream"),
    (["--gpu", "nvidia-l4", "--name", "Big_Name"], "lower-case", ""),
    (["--gpu", "nvidia-l4", "--name", "vllm"], "VLLM_PORT", ""),
    (["--gpu", "nvidia-l4", "--namespace", "a.b"], "namespace", ""),
    (["--gpu", "nvidia-l4", "--bucket", "gs://google-models/x"], "google", ""),
    (["--gpu", "nvidia-l4", "--bucket", "/a/folder"], "is no bucket", "gs://"),
    (["--gpu", "nvidia-l4", "--set", "server.replica=2"], "there is no key server.replica", "server.replicas"),
    (["--gpu", "nvidia-l4", "--set", "replicas=2"], "there is no key replicas", "server.replicas"),
    (["--gpu", "nvidia-l4", "--set", "server.env={HF_TOKEN: x}"], "sounds like a secret", ""),
    (["--gpu", "nvidia-l4", "--set", "server.args=[--disable-log-requests]"], "removed", ""),
    (["--gpu", "nvidia-l4", "--set", "server.args=[--api-key=x]"], "secret", ""),
    (["--gpu", "nvidia-l4", "--set", "images.server=vllm/vllm-openai:latest"], "names no version", ""),
    (["--gpu", "nvidia-l4", "--set", "server"], "write --set key=value", ""),
    (["--gpu", "nvidia-l4", "--set", "a={"], "--set a", ""),
    (["--gpu", "nvidia-l4", "--set", "server.gpu_memory_utilization=1.5"], "less than or equal", ""),
    (["--gpu", "nvidia-l4", "--set", "scaling.max=1", "--set", "scaling.min=3"], "below", ""),
    (["--gpu", "nvidia-l4", "--set", "scaling={min: 0, max: 2, prometheus: 'http://p'}"], "no queue", "wake_query"),
    (["--gpu", "nvidia-l4", "--set", "cloud={region: us-east1, zones: [us-central1-a]}"], "not in cloud.region", ""),
    (["--gpu", "nvidia-l4", "--delivery", "disk", "-o", "x"], "none is named", "cloud.zones"),
    (["--gpu", "nvidia-l4", "--delivery", "disk", "--set", "disk={source: image}"], "which image", "disk.image"),
    (["--gpu", "nvidia-l4", "--delivery", "pvc", "--set", "pvc.size=1Gi"], "less than the model", "Gi"),
    (["--gpu", "nvidia-l4", "--context", "4096", "--set", "server.max_model_len=9000"], "room for 8192", ""),
)


@pytest.mark.parametrize(("words", "says", "hints"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_refused_with_what_would(
    words: list[str], says: str, hints: str, facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["render", "org/name", "--bucket", "gs://my-bucket/m", "--facts", str(facts), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert hints in printed.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: gs://b-b/m\nmodel: gs://c-c/m\n", "line 2: the key 'model' is written twice, first on line 1"),
        ("- a\n", "keys and values are wanted"),
        ("model: [\n", "line 2"),
        ("model: !!python/object/apply:os.system [ls]\n", "line 1"),
        ("model: hf://${HOME}/x\n", "${HOME} may not be used here"),
        ("model: gs://${BUCKET_NAME}/x\n", "${BUCKET_NAME} is not set"),
        ("{}\n", "which model?"),
    ],
)
def test_a_settings_file_that_says_nothing_clear_is_refused(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUCKET_NAME", raising=False)
    (tmp_path / "penstock.yaml").write_text(text)
    assert run(["render", "-f", str(tmp_path / "penstock.yaml")]) == 2
    assert says in capsys.readouterr().err


def test_a_settings_file_may_name_where_things_are(
    facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET_NAME", "a-bucket")
    (tmp_path / "penstock.yaml").write_text("model: gs://${BUCKET_NAME}/m\n")
    render(facts, "-f", str(tmp_path / "penstock.yaml"), "--json")
    assert json.loads(capsys.readouterr().out)["settings"]["model"] == "gs://a-bucket/m"


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert run(["render", "-f", str(tmp_path / "no.yaml")]) == 5
    assert run(["render", "a/b", "--facts", str(tmp_path / "no.json")]) == 5


EMPTY = {"origin": {}, "files": [{"path": 1}, 7], "facts": {"weight_bytes": "1"}, "warnings": [], "problems": []}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"facts": 1}', json.dumps(EMPTY), json.dumps({**EMPTY, "origin": 1})]
)
def test_facts_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    assert run(["render", "a/b", "--facts", str(tmp_path / "facts.json"), "--gpu", "nvidia-l4"]) == 2


def test_the_cheapest_gpu_that_holds_the_model_is_taken(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "gs://bucket/m", "--facts", str(facts), "--json", "--concurrency", "2"]) == 0
    placement = json.loads(capsys.readouterr().out)["placement"]
    assert (placement["gpu"], placement["gpus"], placement["max_model_len"]) == ("nvidia-l4", 1, 8192)


def test_a_model_too_large_for_one_node_wants_a_kind_with_several(
    facts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(facts.read_text())
    found["memory"]["weight_bytes"] = 1400 * 10**9
    facts.write_text(json.dumps(found))
    words = ["render", "gs://bucket/m", "--facts", str(facts), "--platform", "gke-standard", "--gpu", "h200", "--spot"]
    assert run(words) == 2
    assert "--kind lws" in capsys.readouterr().err
    assert run([*words, "--kind", "lws", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    server = rendering.one(made["objects"], "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert server["size"] == made["placement"]["nodes"] > 1


def test_a_model_that_fits_nowhere_is_refused(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(facts.read_text())
    found["memory"]["weight_bytes"] = 2000 * 10**9
    facts.write_text(json.dumps(found))
    render(facts, "gs://bucket/m", expect=2)
    assert "nvidia-l4" in capsys.readouterr().err


def test_a_gpu_without_bfloat16_serves_in_half_precision(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["render", "gs://bucket/m", "--facts", str(facts), "--gpu", "t4", "--platform", "gke-standard", "--json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    args = rendering.one(found["objects"], "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--dtype=half", "--tensor-parallel-size=2"} <= set(args)
    assert found["placement"]["machine"].startswith("n1-")


def test_a_catalogue_of_ones_own_adds_machines(facts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[machines.box]\ncloud = "other"\ngpu = "nvidia-l4"\ngpus = 3\ncpus = 64\nmemory_gib = 256\n')
    render(facts, "gs://bucket/m", "--platform", "kubernetes", "--machine", "box", "--catalog", str(path), "--json")
    assert json.loads(capsys.readouterr().out)["placement"]["machine_gpus"] == 3
    render(facts, "gs://bucket/m", "--catalog", str(tmp_path / "no.toml"), expect=5)


def test_a_bucket_elsewhere_is_warned_of(facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(facts, "gs://bucket/m", "--set", "cloud={region: us-central1, bucket_location: europe-west4}")
    assert "europe-west4" in capsys.readouterr().err


def commands_of(each: dict[str, Any]) -> list[list[str]]:
    found = [one for _, pod in rendering.pod_specs(each) for one in rendering.containers(pod)]
    return [[*one["command"], *one["args"]] for one in found if one.get("command", [""])[0] == "penstock"]


def test_rendered_commands_are_those_of_this_program() -> None:
    more = {"transfer": {"lanes": 4, "max_rate": "100MB", "versioned": True, "include": ["*"], "exclude": ["x"]}}
    made = [rendering.scene("eks", "pvc", "deployment", **more), rendering.scene("gke-standard", "hub", "deployment")]
    group: Any = typer.main.get_command(app)
    seen = set()
    for words in (words for scene in made for each in rendering.objects(scene) for words in commands_of(each)):
        command = group.commands[words[1]]
        known = {name for param in command.params for name in param.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
        seen.add(words[1])
    assert seen == {"copy", "pull"}


def test_other_verbs_do_not_wait_for_the_settings_library() -> None:
    code = "import sys, penstock.cli; print([name for name in ('pydantic', 'yaml') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
