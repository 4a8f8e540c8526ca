"""How weights reach the server: what each way costs at a start, and which one to take, with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

from penstock.errors import UsageError
from penstock.units import GiB, MiB, format_rate, parse_size

Delivery = Literal["stream", "fuse", "pvc", "disk", "hub"]
DELIVERIES: Final[tuple[Delivery, ...]] = ("stream", "fuse", "pvc", "disk", "hub")

_MANY_REPLICAS: Final = 8  # guess: from here on one provisioned disk is cheaper than as many reads of the bucket
_SMALL_BYTES: Final = 10 * GiB  # guess: what an image registry takes without complaint
_IMAGE_VOLUMES: Final = (1, 36)  # GA: https://kubernetes.io/docs/tasks/configure-pod-container/image-volumes
_BUCKETS: Final = ("gs", "s3", "az")
_REFERENCE: Final = "https://github.com/GoogleCloudPlatform/accelerated-platforms"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast one pod has its weights. `source`: a measurement of somebody's, or that it is a guess."""

    bytes_per_s: float
    source: str


# One pod at a time. What is measured was on an H100 in the bucket's region; `--rate` replaces a rate by your own.
RATES: Final[Mapping[Delivery, Rate]] = {
    "stream": Rate(bytes_per_s=1.22 * GiB, source=f"measured, Gemma 31B streamed from a bucket: {_REFERENCE}"),
    "fuse": Rate(bytes_per_s=0.30 * GiB, source=f"measured, Llama 3.1 8B over GCSFuse, read eagerly: {_REFERENCE}"),
    "pvc": Rate(bytes_per_s=240 * MiB, source="guess: what a balanced disk of some hundred GiB writes and reads"),
    "disk": Rate(bytes_per_s=1.2 * GiB, source="guess: half of the 2400 MiB/s that a Hyperdisk ML is provisioned with"),
    "hub": Rate(bytes_per_s=200 * MiB, source="guess: the Hub to one pod; it is not under your control"),
}
_NODE: Final = (150.0, "guess: a GPU node from nothing, its driver included")
_IMAGE: Final = (60.0, "guess: an engine's image of 10 GB, streamed or in the node's cache for a part")
_ENGINE: Final = (225.0, f"measured, compiling, capturing graphs and warming up take 200 to 250 s: {_REFERENCE}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of a start, and where its length is from."""

    what: str
    seconds: float
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """From no node to the first token, by one way. `again_s`: the weights alone, when a pod starts once more."""

    delivery: Delivery
    steps: tuple[Step, ...]
    again_s: float

    @property
    def total_s(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Every field under its name, and the sum."""
        return {**dataclasses.asdict(self), "total_s": self.total_s}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the choice depends on. `scheme`: of the place where the weights are. `gpus`: tensor parallel size.

    `near`: bucket and cluster share a region.
    """

    scheme: str
    platform: str
    weight_bytes: int
    safetensors: bool = True
    gpus: int = 1
    replicas: int = 1
    kubernetes: str = "1.34"
    near: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One way, why, and what else is worth a thought. `copy_first`: the weights belong into a bucket before."""

    delivery: Delivery
    reason: str
    copy_first: bool = False
    advice: tuple[str, ...] = ()


def possible(situation: Situation) -> tuple[Delivery, ...]:
    """The ways that work there at all; a bucket is taken for granted, since `penstock copy` fills one."""
    there: list[Delivery] = ["stream"] if situation.safetensors else []
    if situation.platform != "kubernetes":
        there.append("fuse")
    there += ["pvc", "disk"]
    return (*there, "hub") if situation.scheme == "hf" else tuple(there)


def estimate(situation: Situation, rates: Mapping[Delivery, float] | None = None) -> tuple[ColdStart, ...]:
    """A start by each way that is possible. `rates`: bytes a second that replace ours."""
    return tuple(_estimate(each, situation.weight_bytes, rates or {}) for each in possible(situation))


def recommend(situation: Situation) -> Recommendation:
    """The way to take, by what decides first: the files, then how many read them, then from where."""
    on_gke = situation.platform.startswith("gke")
    advice = tuple(_advice(situation))
    if not situation.safetensors:
        way: Delivery = "pvc" if situation.platform == "kubernetes" else "fuse"
        reason = "the files are no safetensors, and no engine streams others"
    elif on_gke and situation.replicas >= _MANY_REPLICAS:
        way = "disk"
        reason = f"{situation.replicas} replicas read one Hyperdisk ML together, and none of them the bucket"
    elif not situation.near and situation.replicas == 1:
        way = "pvc"
        reason = "one replica, and the bucket is in another region: fetched once, then from the disk beside the GPU"
    else:
        way = "stream"
        reason = "safetensors go from a bucket to the GPU, over no disk: 48 s where GCSFuse took 379 s (Gemma 31B)"
    return Recommendation(delivery=way, reason=reason, copy_first=situation.scheme not in _BUCKETS, advice=advice)


def parse_rate(text: str) -> tuple[Delivery, float]:
    """`stream=2GiB/s` as (delivery, bytes a second). Raises UsageError."""
    name, equals, value = text.partition("=")
    delivery = next((each for each in DELIVERIES if each == name), None)
    if delivery is None or not equals:
        raise UsageError(f"--rate {text}: write --rate DELIVERY=SIZE/s", hint=f"DELIVERY is {', '.join(DELIVERIES)}")
    try:
        rate = float(parse_size(value.removesuffix("/s")))
    except ValueError as error:
        raise UsageError(f"--rate {error}") from None
    if rate <= 0:
        raise UsageError(f"--rate {text}: nothing would ever start")
    return delivery, rate


def _estimate(delivery: Delivery, weight_bytes: int, rates: Mapping[Delivery, float]) -> ColdStart:
    ours = RATES[delivery]
    rate, source = (rates[delivery], "as given by --rate") if delivery in rates else (ours.bytes_per_s, ours.source)
    seconds = weight_bytes / rate
    weights = Step(what="weights", seconds=seconds, source=f"{format_rate(rate)}, {source}")
    steps = [
        Step(what="node", seconds=_NODE[0], source=_NODE[1]),
        Step(what="image", seconds=_IMAGE[0], source=_IMAGE[1]),
    ]
    if delivery == "pvc":
        steps.append(Step(what="onto the volume, once", seconds=seconds, source=weights.source))
    steps += [weights, _step("engine", _ENGINE)]
    return ColdStart(delivery=delivery, steps=tuple(steps), again_s=seconds)


def _step(what: str, known: tuple[float, str]) -> Step:
    return Step(what=what, seconds=known[0], source=known[1])


def _advice(situation: Situation) -> list[str]:
    found = []
    if situation.scheme not in _BUCKETS:
        found.append("first copy it into a bucket of the cluster's region: `penstock copy`")
    if situation.safetensors and situation.gpus > 1:
        found.append(
            "many starts at one tensor parallel size: shards saved by vLLM load faster still "
            "(--loader runai_streamer_sharded)"
        )
    if situation.platform.startswith("gke") and not situation.near:
        found.append("a bucket of several regions, or many nodes in one zone: a Rapid Cache in that zone")
    if situation.weight_bytes <= _SMALL_BYTES and _version(situation.kubernetes) >= _IMAGE_VOLUMES:
        found.append("small enough for an image volume (--delivery disk, disk.source=image)")
    found.append(f"the engine takes its {_ENGINE[0]:.0f} s whatever the way: keep its compile cache, or one replica up")
    return found


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
