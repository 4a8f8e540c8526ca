"""The Ray that is installed here: what it takes, and what it says of a configuration. To import it takes seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.engines.ray_schema import RaySchema
from penstock.errors import MissingExtra, UsageError


def is_installed() -> bool:
    """Ray with its LLM library; nothing is imported."""
    return importlib.util.find_spec("ray") is not None and importlib.util.find_spec("vllm") is not None


def describe() -> RaySchema:
    """What this Ray takes, by its own models. Raises MissingExtra."""
    try:
        with _quietly():
            import ray
            import vllm
            from ray import serve
            from ray.llm._internal.common.callbacks.base import CallbackConfig
            from ray.llm._internal.serve.core.configs import accelerators
            from ray.serve.config import AutoscalingConfig
            from ray.serve.llm import CloudMirrorConfig, LLMConfig, LoraConfig, ModelLoadingConfig
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.cli_args import FrontendArgs
    except ImportError as error:
        raise _missing(error) from error
    not_options = {"_func_or_class", "version", "route_prefix"}
    engine = {field.name for args in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(args)}
    types: type[enum.Enum] = accelerators.AcceleratorType
    return RaySchema(
        ray=ray.__version__,
        vllm=vllm.__version__,
        llm_config=sorted(LLMConfig.model_fields),
        model_loading_config=sorted(ModelLoadingConfig.model_fields),
        model_source=sorted(CloudMirrorConfig.model_fields),
        lora_config=sorted(LoraConfig.model_fields),
        callback_config=sorted(field.name for field in dataclasses.fields(CallbackConfig)),
        deployment_config=sorted(
            name for name in inspect.signature(serve.deployment).parameters if name not in not_options
        ),
        autoscaling_config=sorted(AutoscalingConfig.model_fields),
        # `model` and `served_model_name` are Ray's own to fill in, and refused.
        engine_kwargs=sorted(engine - {"model", "served_model_name"}),
        accelerator_types=sorted(str(member.value) for member in types if not member.name.startswith("__")),
    )


def check(config: Mapping[str, Any]) -> None:
    """Let this Ray read `config` as it will when it serves. Raises UsageError with what it says, MissingExtra."""
    try:
        with _quietly():
            import ray
            from pydantic import ValidationError
            from ray.serve.llm import LLMConfig
    except ImportError as error:
        raise _missing(error) from error
    try:
        LLMConfig(**config).get_engine_config()
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'LLMConfig'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False)
        )
        raise UsageError(f"Ray {ray.__version__} refuses it: {said}") from None
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise UsageError(f"Ray {ray.__version__} refuses it: {error}") from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """While they are imported they say what they miss; on a machine that writes a file that is no news."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _missing(error: ImportError) -> MissingExtra:
    return MissingExtra(
        f"Ray Serve LLM is not installed here, or not whole: {error}",
        hint='pip install "ray[llm]", or run inside a rayproject/ray-llm image',
    )
