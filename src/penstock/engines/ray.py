"""Ray Serve LLM: models brought to Ray's nodes by penstock, in place of Ray's own download.

    from ray import serve
    from ray.serve.llm import build_openai_app
    from penstock.engines.ray import llm_config

    config = llm_config("gs://bucket/model", model_id="llama-3-8b", accelerator_type="L4")
    serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)

Needs penstock on every node, in the image; `PenstockCallback` is named in configurations and made by Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from penstock.arguments import resolve
from penstock.engines import ray_installed
from penstock.engines.bring import NodeModel, bring, foresee
from penstock.engines.ray_config import Delivery, Wanted, check_version, make_config
from penstock.errors import MissingExtra, PenstockError, UsageError
from penstock.hops.copy.report import Observer
from penstock.units import format_duration

try:
    import ray
    from ray.llm._internal.common.callbacks.base import CallbackBase
    from ray.llm._internal.common.utils.download_utils import NodeModelDownloadable
    from ray.serve.llm import LLMConfig
except ImportError as error:
    raise MissingExtra(
        f"penstock.engines.ray needs Ray Serve LLM 2.51 or later, which is not here: {error}",
        hint='pip install "ray[llm]", or use a rayproject/ray-llm image',
    ) from error

_log: Final = logging.getLogger("ray.serve.penstock")  # Serve's own handlers print it, and keep it


def llm_config(
    source: str | os.PathLike[str],
    *,
    model_id: str,
    delivery: Delivery = "stream",
    accelerator_type: str | None = None,
    min_replicas: int | None = None,
    max_replicas: int | None = None,
    engine_kwargs: Mapping[str, object] | None = None,
    lora: str | None = None,
    **more: object,
) -> LLMConfig:
    """An `LLMConfig` of Ray's own for the model at `source`, which penstock brings to the nodes that serve it.

    `delivery`: `stream` into the engine, or `pull` onto each node first. `more`: any other field of `LLMConfig`.
    Raises UsageError for what this Ray or this vLLM does not take.
    """
    written = os.fspath(source)
    wanted = Wanted(
        ref=resolve(written),
        written=written,
        model_id=model_id,
        delivery=delivery,
        accelerator_type=accelerator_type,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        engine=engine_kwargs or {},
        lora=lora,
        more=more,
    )
    config = make_config(wanted)
    check_version(ray.__version__, config)
    ray_installed.check(config)
    return LLMConfig(**config)


class PenstockCallback(CallbackBase):  # type: ignore[misc]  # Ray has no types
    """Brings the model to every node of a replica before its engine starts; Ray itself fetches nothing.

    `source`: where the model is, a ref as everywhere in penstock. `delivery`: `stream` makes the metadata directory,
    and the engine streams the weights; `pull` fills the node cache. `cache`: its folder, if not that of the node's
    environment. Each node fetches once, goes on where it was killed, verifies, and raises for any file that failed.

    Ray makes one in the process of the replica, and hands it to a task on each node. `on_before_node_init` decides the
    folder and tells the engine; the tasks fill it, each on its node, at the same time.
    """

    def __init__(
        self,
        llm_config: LLMConfig,
        raise_error_on_callback: bool = True,  # noqa: FBT001, FBT002  as Ray calls it
        ctx_kwargs: dict[str, Any] | None = None,
        *,
        source: str,
        delivery: str = "stream",
        cache: str | None = None,
    ) -> None:
        super().__init__(llm_config, raise_error_on_callback, ctx_kwargs)
        if not raise_error_on_callback:
            raise UsageError("raise_error_on_callback=False: a replica would start without its model")
        if delivery not in ("stream", "pull"):
            raise UsageError(f"delivery {delivery!r} is not known", hint="stream or pull")
        load_format = llm_config.engine_kwargs.get("load_format")
        if delivery == "stream" and load_format != "penstock":
            raise UsageError(
                f"delivery stream with load_format {load_format!r}: there are no weights on disk for that to load",
                hint='engine_kwargs: {"load_format": "penstock"}, or delivery pull',
            )
        self.model = NodeModel(source=source, delivery=delivery, cache=cache)
        self.ctx.worker_node_download_model = NodeModelDownloadable.NONE

    async def on_before_node_init(self) -> None:
        """In the replica: the folder is known, and told to the engine, before any node has filled it."""
        self.model = await asyncio.to_thread(_explained, foresee, self.model)
        engine = self.llm_config.get_engine_config()
        engine.hf_model_id = self.model.path
        engine.mirror_config = _only_extra_files(engine.mirror_config)
        for warning in self.model.warnings:
            _log.warning("penstock: %s", warning)

    def on_before_download_model_files_distributed(self) -> None:
        """On each node."""
        began = time.monotonic()
        path = _explained(bring, self.model, observer=Observer(note=lambda text: _log.warning("penstock: %s", text)))
        _log.info("penstock: %s is at %s, %s", self.model.source, path, format_duration(time.monotonic() - began))


def _explained(deed: Any, *args: object, **more: object) -> Any:
    """Ray prints the text of an error and drops the rest: the hint becomes part of it."""
    try:
        return deed(*args, **more)
    except PenstockError as error:
        raise RuntimeError(f"{error}\nhint: {error.hint}" if error.hint else str(error)) from error


def _only_extra_files(mirror: Any) -> Any:
    """Extra files beside the model stay Ray's to fetch; its bucket is ours."""
    return mirror.model_copy(update={"bucket_uri": None}) if mirror is not None and mirror.extra_files else None
