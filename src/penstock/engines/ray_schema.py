"""What Ray Serve LLM takes, known without Ray: a table made from its own models, and the checks it makes of values.

Where Ray is quiet we are not: a key of the autoscaling that it does not know has no effect there, and one of the
deployment ends the start.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from penstock.errors import UsageError

TABLE: Final = "ray_schema.json"
# Source: `is_remote_path` in ray/llm/_internal/common/utils/cloud_utils.py.
_REMOTE: Final = ("s3://", "gs://", "abfss://", "azure://", "pyarrow-")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RaySchema:
    """Keys by section, and values where there is a list of them, of one version of Ray and the vLLM beside it."""

    ray: str
    vllm: str
    llm_config: Sequence[str]
    model_loading_config: Sequence[str]
    model_source: Sequence[str]
    lora_config: Sequence[str]
    callback_config: Sequence[str]
    deployment_config: Sequence[str]
    autoscaling_config: Sequence[str]
    engine_kwargs: Sequence[str]
    accelerator_types: Sequence[str]


def bundled() -> RaySchema:
    """Of the version that penstock is tested with. Made by tools/generate_ray_schema.py."""
    return RaySchema(**json.loads(resources.files("penstock.engines").joinpath(TABLE).read_text()))


def check(config: Mapping[str, Any], schema: RaySchema) -> None:
    """Raise UsageError that names every key and value of an `LLMConfig` that Ray will not take."""
    try:
        _LLM.model_validate(config, context=schema)
    except ValidationError as error:
        details = error.errors(include_url=False)
        telling = [detail for detail in details if detail["loc"][-1:] != ("str",)] or details  # of a text or a mirror
        said = "; ".join(_say(detail["loc"], detail["msg"]) for detail in telling)
        raise UsageError(f"Ray {schema.ray} does not take this: {said}") from None


def is_remote(text: str) -> bool:
    """A bucket, as Ray sees it."""
    return text.startswith(_REMOTE)


def _say(location: Sequence[int | str], message: str) -> str:
    where = ".".join(str(part) for part in location if not str(part).startswith(("function-", "str", "_")))
    message = message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


class _Section(BaseModel):
    """Keys beyond its own fields are those of the table; `_KEYS` names the list."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping):
            known = getattr(_schema(info), _KEYS[cls.__name__])
            check_known(value, known, "key")
        return value


class _Mirror(_Section):
    bucket_uri: str | None = None

    @field_validator("bucket_uri")
    @classmethod
    def _check_remote(cls, uri: str | None) -> str | None:
        return None if uri is None else _remote(uri)


class _ModelLoading(_Section):
    model_id: Annotated[str, Field(min_length=1)]
    model_source: str | _Mirror | None = None


class _Lora(_Section):
    dynamic_lora_loading_path: str | None = None
    max_num_adapters_per_replica: PositiveInt = 16

    @field_validator("dynamic_lora_loading_path")
    @classmethod
    def _check_remote(cls, uri: str | None) -> str | None:
        return None if uri is None else _remote(uri)


class _Autoscaling(_Section):
    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    initial_replicas: Annotated[int, Field(ge=0)] | None = None
    target_ongoing_requests: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        if self.initial_replicas is not None and not self.min_replicas <= self.initial_replicas <= self.max_replicas:
            raise ValueError(
                f"initial_replicas {self.initial_replicas} is not between {self.min_replicas} and {self.max_replicas}"
            )
        return self


class _Deployment(_Section):
    autoscaling_config: _Autoscaling | None = None
    num_replicas: Annotated[int, Field(ge=0)] | str | None = None
    max_ongoing_requests: PositiveInt = 100

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if isinstance(self.num_replicas, str) and self.num_replicas != "auto":
            raise ValueError(f"num_replicas {self.num_replicas!r}: a number, or auto")
        if isinstance(self.num_replicas, int) and self.autoscaling_config is not None:
            raise ValueError("num_replicas and autoscaling_config cannot both say how many there are")
        return self


class _LLM(_Section):
    model_loading_config: _ModelLoading
    llm_engine: str = "vLLM"
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    accelerator_type: str | None = None
    lora_config: _Lora | None = None
    deployment_config: _Deployment | None = None
    runtime_env: dict[str, Any] | None = None
    placement_group_config: dict[str, Any] | None = None

    @field_validator("llm_engine")
    @classmethod
    def _check_engine(cls, engine: str) -> str:
        if engine != "vLLM":
            raise ValueError(f"{engine!r} is not known; Ray serves with vLLM")
        return engine

    @field_validator("engine_kwargs")
    @classmethod
    def _check_engine_kwargs(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if taken := {"model", "served_model_name"} & kwargs.keys():
            raise ValueError(f"{min(taken)} is Ray's to fill in, from model_loading_config")
        schema = _schema(info)
        check_known(kwargs, schema.engine_kwargs, f"argument of vLLM {schema.vllm}")
        return kwargs

    @field_validator("accelerator_type")
    @classmethod
    def _check_accelerator(cls, kind: str | None, info: ValidationInfo) -> str | None:
        if kind is not None and kind != "A10":  # which Ray reads as A10G
            check_known([kind], _schema(info).accelerator_types, "accelerator of Ray")
        return kind

    @field_validator("placement_group_config")
    @classmethod
    def _check_placement(cls, config: dict[str, Any] | None) -> dict[str, Any] | None:
        if config is not None:
            check_known(config, ("bundle_per_worker", "bundles", "strategy"), "key")
            if ("bundles" in config) == ("bundle_per_worker" in config):
                raise ValueError("it says either bundles or bundle_per_worker")
        return config

    @model_validator(mode="after")
    def _check_hardware(self) -> Self:
        placement = self.placement_group_config
        if self.accelerator_type and placement is not None:
            bundles = placement.get("bundles") or [placement.get("bundle_per_worker") or {}]
            if not any(bundle.get("GPU") or bundle.get("TPU") for bundle in bundles):
                raise ValueError(f"accelerator_type {self.accelerator_type} with bundles that have no GPU and no TPU")
        return self


_KEYS: Final = {
    "_LLM": "llm_config",
    "_ModelLoading": "model_loading_config",
    "_Mirror": "model_source",
    "_Lora": "lora_config",
    "_Autoscaling": "autoscaling_config",
    "_Deployment": "deployment_config",
}


def check_known(names: Iterable[object], known: Sequence[str], what: str) -> None:
    """Raise ValueError for a name that is not `known`, with those that are near."""
    for name in names:
        if name not in known:
            by_lower = {each.lower(): each for each in known}
            near = difflib.get_close_matches(str(name).lower(), by_lower, n=2, cutoff=0.5)
            listed = f"; did you mean {' or '.join(by_lower[each] for each in near)}?" if near else ""
            if not near and len(known) < 100:
                listed = f"; there are {', '.join(known)}"
            raise ValueError(f"{name!r} is no {what}{listed}")


def _remote(uri: str) -> str:
    if not is_remote(uri):
        raise ValueError(f"{uri!r} is not in a bucket; Ray wants s3://, gs://, abfss:// or azure://")
    return uri


def _schema(info: ValidationInfo) -> RaySchema:
    assert isinstance(info.context, RaySchema)
    return info.context
