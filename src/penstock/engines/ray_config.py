"""Configurations for Ray Serve LLM, made from a ref: as a mapping, as YAML for `serve deploy`, as Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from penstock.deploy.fields import check_variable
from penstock.deploy.ray_llm import BUILDER, application, callback_config, delivery_engine, llm_config, ray_source
from penstock.deploy.settings import merge
from penstock.deploy.yaml_text import write_yaml
from penstock.engines.ray_schema import is_remote
from penstock.errors import UsageError
from penstock.ref import Ref

TESTED: Final = "2.60"
# Source: `callback_config` is in the wheel of 2.51.1 and not in that of 2.50.1 (ray-project/ray#57257).
_CALLBACKS_SINCE: Final = (2, 51)

Delivery = Literal["stream", "pull", "ray"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One model as Ray is to serve it. `written`: the ref as its user spelled it.

    `delivery`: `stream` into the engine, `pull` onto each node first, or `ray`: its own download, without penstock.
    `more`: any keys of `LLMConfig`, laid over the rest.
    """

    ref: Ref
    written: str
    model_id: str
    delivery: Delivery = "stream"
    accelerator_type: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    engine: Mapping[str, object] = dataclasses.field(default_factory=dict)
    lora: str | None = None
    more: Mapping[str, object] = dataclasses.field(default_factory=dict)


def make_config(wanted: Wanted) -> dict[str, Any]:
    """The `LLMConfig`, as a mapping. Raises UsageError for a place that Ray cannot read, and for secrets."""
    source = ray_source(wanted.ref, as_written=wanted.written)
    engine: dict[str, object] = {}
    callback = None
    if wanted.delivery == "ray":
        _check_readable(wanted.ref, source)
        if wanted.ref.revision:
            engine["revision"] = wanted.ref.revision
    else:
        if wanted.ref.query:
            raise UsageError(f"{wanted.ref}: a signed address ends while servers still start from it")
        engine.update(delivery_engine(wanted.delivery))
        callback = callback_config(str(wanted.ref), wanted.delivery)
    config = llm_config(
        model_id=wanted.model_id,
        model_source=source,
        engine=engine | dict(wanted.engine),
        accelerator_type=wanted.accelerator_type,
        deployment=_deployment(wanted),
        callback=callback,
    )
    if wanted.lora is not None:
        config = merge([config, {"lora_config": {"dynamic_lora_loading_path": wanted.lora}}])
    config = merge([config, wanted.more])
    if config.get("lora_config"):  # an engine without it refuses the first request for an adapter
        config = merge([{"engine_kwargs": {"enable_lora": True}}, config])
    check_secrets(config)
    return _in_order(config)


def check_version(version: str, config: Mapping[str, Any]) -> list[str]:
    """What is known of this Ray and such a configuration, as warnings. Raises UsageError where it cannot work."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise UsageError(f"Ray {version!r} is no version", hint=f"write for example {TESTED}")
    number = (int(found[1]), int(found[2]))
    load_format = str(config.get("engine_kwargs", {}).get("load_format", ""))
    source = config["model_loading_config"].get("model_source")
    bucket = source.get("bucket_uri") if isinstance(source, Mapping) else source
    in_bucket = isinstance(bucket, str) and is_remote(bucket)
    warnings = []
    if config.get("callback_config"):
        if number < _CALLBACKS_SINCE:
            raise UsageError(
                f"Ray {version} has no callbacks, by which penstock brings the model to the nodes; 2.51 has",
                hint=f"use Ray {TESTED}, with which this is tested, or --delivery ray",
            )
    elif in_bucket and load_format.startswith("runai_streamer"):
        if number == (2, 57):
            raise UsageError(
                f"Ray {version} hands model_id to the streamer in place of the bucket (ray-project/ray#65477)",
                hint="use Ray 2.58 or later",
            )
        if number < (2, 52):
            warnings.append(
                f"Ray {version} downloads the model to disk before it streams it (ray-project/ray#58024); 2.52 does not"
            )
    elif in_bucket:
        warnings.append(
            "Ray's own download goes on after files that failed, fetches everything again at each start of a replica, "
            "and checks no content; --delivery pull does not"
        )
    if number < (2, 49):
        warnings.append(
            f"Ray {version} does not pass HF_TOKEN of runtime_env on to vLLM's workers (ray-project/ray#54812): "
            "put it into the environment of Ray's processes"
        )
    if number != tuple(map(int, TESTED.split("."))):
        warnings.append(f"penstock is tested with Ray {TESTED}, this is for {version}")
    return warnings


def check_secrets(config: Mapping[str, Any]) -> None:
    """Raise UsageError for a variable that sounds like a secret, or a token anywhere."""
    variables = (config.get("runtime_env") or {}).get("env_vars") or {}
    hint = "tokens and keys come from the environment of Ray's processes: a Secret in Kubernetes, or --pass-env"
    for name, value in variables.items():
        try:
            check_variable(str(name), str(value))
        except ValueError as error:
            raise UsageError(f"runtime_env.env_vars: {error}", hint=hint) from None
    if re.search(r"\bhf_[A-Za-z0-9]{20,}", repr(config)):
        raise UsageError("a Hub token stands among the values; files hold none", hint=hint)


def as_yaml(config: Mapping[str, Any], *, name: str, route_prefix: str) -> str:
    """For `serve deploy`."""
    return write_yaml([{"applications": [application(name, [config], route_prefix=route_prefix)]}])


def as_python(config: Mapping[str, Any], *, name: str, route_prefix: str, pass_env: Sequence[str] = ()) -> str:
    """A program that serves it, and a module for `serve run`. `pass_env`: variables taken over when it starts."""
    fields = dict(config)
    if pass_env:
        passed = {variable: _FromEnvironment(variable) for variable in pass_env}
        fields = _in_order(merge([fields, {"runtime_env": {"env_vars": passed}}]))
    builder = BUILDER.partition(":")[2]
    body = "".join(f"    {key}={_literal(value, 1)},\n" for key, value in fields.items())
    imports = "import os\n\n" if pass_env else ""
    return (
        f"{imports}from ray import serve\nfrom ray.serve.llm import LLMConfig, {builder}\n\n"
        f"llm_config = LLMConfig(\n{body})\n\n"
        f'app = {builder}({{"llm_configs": [llm_config]}})\n\n'
        f'if __name__ == "__main__":\n'
        f"    serve.run(app, name={_literal(name)}, route_prefix={_literal(route_prefix)}, blocking=True)\n"
    )


class _FromEnvironment:
    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--pass-env {name!r}: the name of a variable is wanted, without its value")
        self.name = name


def _literal(value: object, depth: int = 0) -> str:
    if isinstance(value, _FromEnvironment):
        return f'os.environ["{value.name}"]'
    indent, end = "    " * (depth + 1), "    " * depth
    if isinstance(value, Mapping) and value:
        pairs = [f"{indent}{_literal(key)}: {_literal(each, depth + 1)},\n" for key, each in value.items()]
        return "{\n" + "".join(pairs) + end + "}"
    if isinstance(value, list) and any(isinstance(each, (Mapping, list)) for each in value):
        return "[\n" + "".join(f"{indent}{_literal(each, depth + 1)},\n" for each in value) + end + "]"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(each) for each in value) + "]"
    if isinstance(value, str) and '"' not in value and "\\" not in value and value.isprintable():
        return f'"{value}"'
    return repr(value)


def _check_readable(ref: Ref, source: object) -> None:
    if ref.scheme == "az" and not isinstance(source, Mapping):
        raise UsageError(
            f"{ref}: Ray wants to be told the account",
            hint=f"write az://{ref.place}@ACCOUNT/{ref.path}, or azure://{ref.place}@ACCOUNT.blob.core.windows.net/…",
        )
    if ref.scheme in ("http", "https"):
        raise UsageError(f"{ref}: Ray reads the Hub, buckets and folders", hint="--delivery stream or pull reads it")


def _deployment(wanted: Wanted) -> dict[str, object]:
    if wanted.min_replicas is None and wanted.max_replicas is None:
        return {}
    least = wanted.min_replicas
    most = wanted.max_replicas if wanted.max_replicas is not None else max(1, least or 1)
    return {"autoscaling_config": {"min_replicas": 1 if least is None else least, "max_replicas": most}}


_ORDER: Final = (
    "model_loading_config",
    "accelerator_type",
    "engine_kwargs",
    "lora_config",
    "deployment_config",
    "runtime_env",
    "placement_group_config",
    "callback_config",
)


def _in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """As the guides write it: the model first, its machinery last."""
    known = [key for key in _ORDER if key in config]
    return {key: config[key] for key in (*known, *(key for key in config if key not in _ORDER))}
