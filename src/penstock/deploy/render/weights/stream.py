"""Delivery `stream`: from the bucket into the GPU, no disk between."""

from __future__ import annotations

import dataclasses
import json
from typing import Final

from penstock.deploy.ray_llm import callback_config, delivery_engine
from penstock.deploy.render.identity import Secrets, access_to, hmac_keys
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import EnvVar
from penstock.deploy.render.weights.base import Weights
from penstock.units import GiB, MiB

# Of each process, ours to choose: the streamer's own default is 40 GB, and none at all where ranks share the reading,
# and then loading ends by the container's memory limit.
_STREAMER_BYTES: Final = 4 * GiB
_RING_BYTES: Final = 256 * MiB


def deliver_stream(context: Context) -> Weights:
    """By our loader, or by Run:ai's."""
    return _penstock(context) if context.settings.loader == "penstock" else _runai(context)


def _penstock(context: Context) -> Weights:
    source = str(context.weights)
    return Weights(
        model=source,
        program=("penstock", "serve"),
        secrets=access_to(context, context.weights),
        memory_bytes=_RING_BYTES * context.placement.gpus,
        plugin=True,
        offline=context.weights.scheme != "hf",
        engine=delivery_engine("stream"),
        callback=callback_config(source, "stream"),
    )


def _runai(context: Context) -> Weights:
    loader = context.settings.loader
    ref = context.weights
    hmac = context.settings.identity.hmac_secret if ref.scheme == "gs" else None
    if hmac:
        ref = dataclasses.replace(ref, scheme="s3")
    extra: dict[str, object] = {"concurrency": 16, "memory_limit": _STREAMER_BYTES}
    if context.placement.gpus > 1 and loader == "runai_streamer":
        extra["distributed"] = True
    secrets = access_to(context, context.weights)
    return Weights(
        model=str(dataclasses.replace(ref, anonymous=False)),
        args=(f"--load-format={loader}", f"--model-loader-extra-config={json.dumps(extra)}"),
        secrets=secrets + Secrets(env=(hmac_keys(hmac) if hmac else ()) + _anonymous(context)),
        memory_bytes=_STREAMER_BYTES * context.placement.gpus,
        offline=True,
        engine={"load_format": loader, "model_loader_extra_config": extra},
    )


def _anonymous(context: Context) -> tuple[EnvVar, ...]:
    if not context.weights.anonymous:
        return ()
    name = (
        "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS"
        if context.weights.scheme == "gs"
        else "RUNAI_STREAMER_S3_UNSIGNED"
    )
    return ({"name": name, "value": "1"},)
