"""From what `penstock inspect` says to what rendering needs: the model's numbers, and the machine it is placed on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

from penstock.deploy.catalog import Catalog
from penstock.deploy.fit import DEFAULT_UTILIZATION, Option, Request
from penstock.deploy.render.inputs import Model, Placement
from penstock.deploy.settings import Settings
from penstock.deploy.size import describe, size
from penstock.errors import UsageError
from penstock.model.memory import Memory


def model_facts(inspection: Mapping[str, object]) -> Model:
    """The numbers of a model, out of `penstock inspect --json`. Raises UsageError where that has no sizes."""
    facts, origin = _mapping(inspection, "facts"), _mapping(inspection, "origin")
    files = inspection.get("files")
    sizes = {}
    for file in files if isinstance(files, list) else ():
        path, size_bytes = (file.get("path"), file.get("size_bytes")) if isinstance(file, Mapping) else (None, None)
        if isinstance(path, str) and type(size_bytes) is int and size_bytes >= 0:
            sizes[path] = size_bytes
    weights = [found for path, found in sizes.items() if path.endswith(".safetensors")] or list(sizes.values())
    if not sum(weights):
        raise UsageError(
            f"{inspection.get('ref')}: no file of it has a size", hint="penstock inspect shows what is there"
        )
    commit = origin.get("commit")
    chat = facts.get("has_chat_template")
    return Model(
        weight_bytes=sum(weights),
        largest_file_bytes=max(weights),
        commit=commit if isinstance(commit, str) else None,
        gated=bool(origin.get("gated")),
        needs_remote_code=facts.get("needs_remote_code") is True,
        has_chat_template=chat if isinstance(chat, bool) else None,
    )


def request_of(settings: Settings, model: Model) -> Request:
    """What the settings ask of sizing. One pod is a server, unless its kind can have several."""
    server = settings.server
    return Request(
        platform=settings.platform,
        context=server.context or server.max_model_len,
        concurrency=server.concurrency,
        gpu=server.gpu,
        gpus=server.gpus,
        nodes=1 if settings.kind == "deployment" else server.nodes,
        machine=server.machine,
        spot=settings.capacity.spot,
        region=settings.cloud.region,
        utilization=server.gpu_memory_utilization or DEFAULT_UTILIZATION,
        cache_element_bytes=1 if server.kv_cache_dtype.startswith("fp8") else 2,
        eager=server.enforce_eager,
        batched_tokens=server.max_num_batched_tokens,
        sequences=server.max_num_seqs,
        largest_file_bytes=model.largest_file_bytes or 0,
    )


def choose_option(settings: Settings, model: Model, memory: Memory, catalog: Catalog) -> Option:
    """The cheapest placement that the settings leave. Raises UsageError where there is none, with what would do."""
    request = request_of(settings, model)
    try:
        return size(memory, catalog, request)[0]
    except UsageError as error:
        several = _on_several(memory, catalog, request) if settings.kind == "deployment" else None
        if several is None:
            raise
        raise UsageError(str(error), hint=f"{describe(several)}: --kind lws or --kind rayservice") from None


def _on_several(memory: Memory, catalog: Catalog, request: Request) -> Option | None:
    with contextlib.suppress(UsageError):
        return size(memory, catalog, dataclasses.replace(request, nodes=None))[0]
    return None


def placement_of(option: Option, settings: Settings) -> Placement:
    """A placement as manifests have it. Autopilot chooses the machine by what pods ask for, unless one is named."""
    machine = option.machine
    chosen = not machine.any_node and (settings.platform != "gke-autopilot" or settings.server.machine is not None)
    return Placement(
        gpu=option.gpu.name,
        gpus=option.gpus,
        nodes=option.nodes,
        machine=(machine.type or machine.name) if chosen else None,
        machine_gpus=machine.gpus if chosen else None,
        machine_cpu=machine.pod_cpus if chosen else None,
        machine_memory_bytes=machine.pod_memory_bytes if chosen else None,
        max_model_len=option.max_model_len,
        gpu_memory_utilization=option.utilization,
        dtype=option.dtype,
        ray_accelerator=option.gpu.ray,
        product=option.gpu.product,
    )


def _mapping(inspection: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = inspection.get(key)
    return found if isinstance(found, Mapping) else {}
