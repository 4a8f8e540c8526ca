"""Scenes for tests of rendering, the validators, and what must hold between objects."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from penstock.deploy.render.combinations import DELIVERIES, PLATFORMS
from penstock.deploy.render.files import render
from penstock.deploy.render.inputs import Context, Model, Placement
from penstock.deploy.settings import make_settings, merge
from penstock.units import GiB, parse_size

SCHEMAS = Path(__file__).parent.parent / "data" / "schemas"
VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
KINDS = ("deployment", "lws", "rayservice")
COMMIT = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"

LLAMA = Model(weight_bytes=16_060_522_240, largest_file_bytes=4_976_698_672, commit=COMMIT, gated=True)
OPEN = Model(weight_bytes=16_060_522_240, largest_file_bytes=4_976_698_672, commit=COMMIT)
ONE_L4 = Placement(
    gpu="nvidia-l4",
    machine="g2-standard-12",
    machine_gpus=1,
    machine_cpu=12,
    machine_memory_bytes=48 * GiB,
    max_model_len=8192,
    ray_accelerator="L4",
    product="NVIDIA-L4",
)
TWO_NODES = Placement(
    gpu="nvidia-h100-80gb",
    gpus=8,
    nodes=2,
    machine="a3-highgpu-8g",
    machine_gpus=8,
    machine_cpu=208,
    machine_memory_bytes=1872 * GiB,
    max_model_len=32_768,
    ray_accelerator="H100",
    product="NVIDIA-H100-80GB-HBM3",
)
IMAGE = "registry.example.org/weights@sha256:" + "0" * 64
CLOUD = {
    "project": "a-project",
    "account": "123456789012",
    "region": "us-central1",
    "zones": ["us-central1-a"],
    "cluster": "a-cluster",
}


def context(values: Mapping[str, Any] | None = None, *, model: Model = LLAMA, placement: Placement = ONE_L4) -> Context:
    """Llama-3-8B on one L4, streamed from a bucket on Autopilot, but for what `values` say."""
    base = {"model": "hf://meta-llama/Meta-Llama-3-8B", "bucket": "gs://a-bucket/llama-3-8b", "cloud": CLOUD}
    settings = make_settings({key: value for key, value in merge([base, values or {}]).items() if value is not None})
    return Context(settings=settings, model=model, placement=placement)


def objects(context: Context) -> list[dict[str, Any]]:
    """All that is rendered, as `kubectl` would read it."""
    return [json.loads(json.dumps(found)) for file in render(context) for found in file.objects]


def one(found: Iterable[Mapping[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of `kind` (and `name`)."""
    (match,) = (dict(each) for each in found if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return match


def scene(platform: str, delivery: str, kind: str, **more: Any) -> Context:
    """One combination with what it needs to be possible. Raises UsageError for those that are not."""
    several = kind == "lws"
    values: dict[str, Any] = {"platform": platform, "delivery": delivery, "kind": kind, "kubernetes": "1.36"}
    if delivery == "hub":
        values["bucket"] = None
    elif platform == "eks":
        values["bucket"] = "s3://a-bucket/llama-3-8b"
        values["cloud"] = {"region": "us-west-2", "zones": ["us-west-2a"]}
    if delivery == "pvc" and (several or kind == "rayservice") and not platform.startswith("gke"):
        values["pvc"] = {"storage_class": "shared"}
    if delivery == "disk" and platform == "kubernetes":
        values["disk"] = {"image": IMAGE}
    elif delivery == "disk" and platform == "eks":
        values["disk"] = {"source": "image", "image": IMAGE} if kind != "deployment" else {"snapshot": "snap-0a1b2c"}
    if platform == "kubernetes":
        values["expose"] = {"class_name": "of-this-cluster"}
    if platform == "eks":
        values["expose"] = {"class_name": None}
    return context(merge([values, more]), placement=TWO_NODES if several else ONE_L4)


def iter_combinations() -> Iterator[tuple[str, str, str]]:
    """Every platform, delivery and kind that go together."""
    for platform, delivery, kind in itertools.product(PLATFORMS, DELIVERIES, KINDS):
        if (platform, delivery) != ("kubernetes", "fuse"):
            yield platform, delivery, kind


# Validation


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}


@functools.cache
def _core(version: str) -> tuple[Path, Registry[Any]]:
    folder = Path(str(resources.files("kubernetes_validate"))) / f"kubernetes-json-schema/v{version}.0-local-strict"
    definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()), DRAFT7)
    return folder, Registry().with_resource("_definitions.json", definitions).crawl()


@functools.cache
def validator(api_version: str, kind: str, version: str) -> jsonschema.protocols.Validator:
    """Of one kind. Unknown fields are errors. KeyError: nobody has a schema of it."""
    group, _, number = api_version.rpartition("/")
    own = SCHEMAS / group / f"{kind.lower()}_{number}.json"
    if group and own.exists():
        schema = json.loads(own.read_text())
        schema["properties"] |= {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": _METADATA}
        return jsonschema.Draft7Validator(_strict(schema))
    folder, registry = _core(version)
    path = folder / f"{kind.lower()}-{group.partition('.')[0] + '-' if group else ''}{number}.json"
    if not path.exists():
        raise KeyError(f"no schema of {api_version} {kind}")
    return jsonschema.Draft7Validator(json.loads(path.read_text()), registry=registry)


def _strict(schema: Any) -> Any:
    """`schema`, that refuses what it does not name; Kubernetes would drop it in silence."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = bool(made.get("x-kubernetes-preserve-unknown-fields"))
    return made


def problems(found: Mapping[str, Any], version: str = VERSIONS[-1]) -> list[str]:
    """What a schema says against an object."""
    errors = validator(found["apiVersion"], found["kind"], version).iter_errors(found)
    return [f"{found['kind']} {'.'.join(map(str, error.path))}: {error.message[:200]}" for error in errors]


# What must hold between objects


def pod_specs(found: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(metadata, spec) of every pod template in an object, wherever it stands."""
    if not isinstance(found, dict):
        return
    for value in found.values():
        if isinstance(value, dict):
            if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
                yield value.get("metadata", {}), value["spec"]
            else:
                yield from pod_specs(value)
        elif isinstance(value, list):
            for each in value:
                yield from pod_specs(each)


def containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod, those that come first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def texts(value: Any) -> Iterator[str]:
    """Every string in an object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def quantity_bytes(text: str) -> int:
    return parse_size(text)


def cpus(text: str) -> float:
    return int(text[:-1]) / 1000 if text.endswith("m") else int(text)


def dangling(found: list[dict[str, Any]]) -> list[str]:
    """References to what is not among `found`. Secrets are somebody else's; classes may be the platform's."""
    names = {(each["kind"], each["metadata"]["name"]) for each in found}
    for each in found:
        if each["kind"] == "RayService":  # KubeRay makes it
            names.add(("Service", each["spec"]["serveService"]["metadata"]["name"]))
    missing = [f"{kind} {name}" for kind, name in _references(found) if (kind, name) not in names]
    templates = [(meta["labels"], spec) for each in found for meta, spec in pod_specs(each) if each["kind"] != "Job"]
    for each in found:
        missing += _unmatched(each, templates)
    return missing + _unused(found)


def _unused(found: list[dict[str, Any]]) -> list[str]:
    """What is made for others to name, and named by none."""
    claims = [each["spec"] for each in found if each["kind"] == "PersistentVolumeClaim"]
    used = {("StorageClass", claim.get("storageClassName")) for claim in claims}
    used |= {("PersistentVolume", claim.get("volumeName")) for claim in claims}
    selected = {name for each in found for _, pod in pod_specs(each) for name in pod.get("nodeSelector", {}).values()}
    used |= {(kind, name) for kind in ("ComputeClass", "NodePool") for name in selected}
    used |= {(kind, name) for kind, name in _references(found) if kind in ("ServiceAccount", "PersistentVolumeClaim")}
    kinds = {kind for kind, _ in used}
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    return [f"{kind} {name} is used by nobody" for kind, name in names if kind in kinds and (kind, name) not in used]


def _references(found: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in found:
        spec = each.get("spec", {})
        for _, pod in pod_specs(each):
            yield "ServiceAccount", pod["serviceAccountName"]
            for volume in pod.get("volumes", []):
                if "persistentVolumeClaim" in volume:
                    yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if each["kind"] == "PersistentVolumeClaim":
            if "volumeName" in spec:
                yield "PersistentVolume", spec["volumeName"]
            for key in ("dataSource", "dataSourceRef"):
                if key in spec:
                    yield spec[key]["kind"], spec[key]["name"]
        for key in ("scaleTargetRef", "targetRef"):
            if key in spec:
                yield spec[key]["kind"], spec[key]["name"]
        yield from _routes(each, spec)


def _routes(each: dict[str, Any], spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    annotations = each["metadata"].get("annotations", {})
    if each["kind"] == "Ingress":
        for rule in spec["rules"]:
            for path in rule["http"]["paths"]:
                yield "Service", path["backend"]["service"]["name"]
        if "networking.gke.io/managed-certificates" in annotations:
            yield "ManagedCertificate", annotations["networking.gke.io/managed-certificates"]
    if each["kind"] == "Service" and "cloud.google.com/backend-config" in annotations:
        yield "BackendConfig", json.loads(annotations["cloud.google.com/backend-config"])["default"]
    if each["kind"] == "HTTPRoute":
        for rule in spec["rules"]:
            for backend in rule["backendRefs"]:
                yield backend["kind"], backend["name"]
        for parent in spec["parentRefs"]:
            yield parent["kind"], parent["name"]
    if each["kind"] == "InferencePool":
        yield spec["endpointPickerRef"]["kind"], spec["endpointPickerRef"]["name"]
    if each["kind"] == "NodePool":
        reference = spec["template"]["spec"]["nodeClassRef"]
        yield reference["kind"], reference["name"]
    if each["kind"] == "RoleBinding":
        yield each["roleRef"]["kind"], each["roleRef"]["name"]
        for subject in each["subjects"]:
            yield subject["kind"], subject["name"]
    if each["kind"] == "GCPDataSource":
        yield "ServiceAccount", spec["cloudStorage"]["serviceAccountName"]
    if each["kind"] == "VolumeSnapshot":
        yield "VolumeSnapshotContent", spec["source"]["volumeSnapshotContentName"]


def _unmatched(each: dict[str, Any], templates: list[tuple[dict[str, str], dict[str, Any]]]) -> list[str]:
    """Selectors that select no pod, ports that no container has, mounts without a volume."""
    spec, missing = each.get("spec", {}), []
    selector = spec.get("selector", {}) if isinstance(spec, dict) else {}
    labels = selector.get("matchLabels", selector if each["kind"] == "Service" else {})
    # LeaderWorkerSet's own label is on its pods, not in its templates.
    labels = {key: value for key, value in labels.items() if not key.startswith("leaderworkerset.")}
    matched = [pod for have, pod in templates if labels.items() <= have.items()]
    if labels and not matched:
        missing.append(f"{each['kind']} {each['metadata']['name']} selects nothing: {labels}")
    ports = {port["name"] for pod in matched for one in pod["containers"] for port in one.get("ports", [])}
    numbers = {port["containerPort"] for pod in matched for one in pod["containers"] for port in one.get("ports", [])}
    wanted = [port["targetPort"] for port in spec.get("ports", []) if each["kind"] == "Service"]
    wanted += [port["number"] for port in spec.get("targetPorts", [])]
    wanted += [endpoint["port"] for endpoint in spec.get("endpoints", [])]
    missing += [
        f"{each['kind']} {each['metadata']['name']}: no port {port}" for port in wanted if port not in ports | numbers
    ]
    for _, pod in pod_specs(each):
        missing += _unmounted(pod)
    return missing


def _unmounted(pod: Mapping[str, Any]) -> list[str]:
    missing = []
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounted = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", [])}
    missing += [f"mount of {name}, no such volume" for name in mounted - volumes]
    missing += [f"volume {name} is mounted nowhere" for name in volumes - mounted if name != "gke-gcsfuse-cache"]
    for one in containers(pod):
        names = {port["name"] for port in one.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = one.get(probe, {}).get("httpGet")
            if get and get["port"] not in names:
                missing.append(f"{probe} asks port {get['port']}, {one['name']} has {names}")
        variables = [variable["name"] for variable in one.get("env", [])]
        if len(variables) != len(set(variables)):
            missing.append(f"{one['name']}: a variable twice: {variables}")
    return missing
