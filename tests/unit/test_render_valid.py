"""Every combination is valid for every Kubernetes, refers to nothing that is not there, and fits its machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import rendering
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import KINDS, ONE_L4, TWO_NODES, VERSIONS, containers, context, objects, pod_specs, problems, scene

from penstock.deploy.catalog import Machine, load_catalog
from penstock.deploy.place import choose_option, placement_of
from penstock.deploy.render.combinations import DELIVERIES, PLATFORMS
from penstock.deploy.render.files import render, write_files, write_stream
from penstock.deploy.settings import make_settings, merge, parse_assignment, parse_settings
from penstock.errors import UsageError
from penstock.model.memory import measure
from penstock.units import GiB


@pytest.mark.parametrize(("platform", "delivery", "kind"), list(rendering.iter_combinations()))
def test_combination_is_valid_and_whole(platform: str, delivery: str, kind: str) -> None:
    found = objects(scene(platform, delivery, kind))
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []


def test_core_objects_are_valid_for_every_version() -> None:
    seen: dict[str, dict[str, Any]] = {}
    for platform, delivery, kind in rendering.iter_combinations():
        for each in objects(scene(platform, delivery, kind)):
            seen.setdefault(repr(each), each)
    versions = {version: [p for each in seen.values() for p in problems(each, version)] for version in VERSIONS[:-1]}
    assert versions == {version: [] for version in VERSIONS[:-1]}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("by", ["ingress", "gateway", "inference"])
@pytest.mark.parametrize("kind", KINDS)
def test_access_is_valid_and_whole(platform: str, by: str, kind: str) -> None:
    expose = {"by": by, "class_name": "a-class"}
    made = scene(platform, "stream", kind, expose=expose)
    if kind == "rayservice" and (by == "inference" or (by == "ingress" and platform.startswith("gke"))):
        with pytest.raises(UsageError, match=f"expose.by {by}") as caught:
            objects(made)
        assert "gateway" in str(caught.value.hint)
        return
    found = objects(made)
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []


@pytest.mark.parametrize("by", ["ingress", "gateway"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_public_access_has_a_certificate_and_a_key(platform: str, by: str) -> None:
    certificate = "arn:aws:acm:us-west-2:1:certificate/x" if platform == "eks" else "a-certificate"
    if by == "gateway" and platform == "eks":
        certificate = "a-certificate"
    public = {"by": by, "internal": False, "class_name": "c", "certificate": certificate, "host": "llm.example.org"}
    found = objects(scene(platform, "stream", "deployment", expose=public))
    assert [problem for each in found for problem in problems(each)] == []
    (server,) = rendering.one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert any(variable["name"] == "VLLM_API_KEY" and "valueFrom" in variable for variable in server["env"])


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("kind", ["deployment", "lws"])
@pytest.mark.parametrize("least", [0, 1])
def test_scaling_is_valid_and_whole(platform: str, kind: str, least: int) -> None:
    scaling = {"min": least, "max": 3, "prometheus": "http://prometheus.monitoring:9090", "wake_query": "sum(waiting)"}
    found = objects(scene(platform, "stream", kind, scaling=scaling))
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []
    kinds = {each["kind"] for each in found}
    assert ("HorizontalPodAutoscaler" in kinds) == (platform.startswith("gke") and least == 1)
    assert ("ScaledObject" in kinds) != ("HorizontalPodAutoscaler" in kinds)


@pytest.mark.parametrize("platform", ["gke-autopilot", "gke-standard", "eks"])
def test_spot_with_a_way_back_is_valid_and_whole(platform: str) -> None:
    capacity = {"spot": True, "reservation": "ours", "flex_start": True}
    found = objects(scene(platform, "stream", "deployment", capacity=capacity))
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []
    made = rendering.one(found, "NodePool" if platform == "eks" else "ComputeClass")["metadata"]["name"]
    selector = rendering.one(found, "Deployment")["spec"]["template"]["spec"]["nodeSelector"]
    assert list(selector.values()) == [made]


@pytest.mark.parametrize(
    "more",
    [
        {"delivery": "fuse", "fuse": {"cache": "memory", "profile": "none"}},
        {"delivery": "fuse", "fuse": {"cache": "local-ssd", "profile": "none"}},
        {"delivery": "fuse", "kubernetes": "1.35.1-gke.1616000"},
        {"delivery": "fuse", "platform": "eks", "bucket": "s3://a-bucket/m", "fuse": {"cache": "memory"}},
        {"delivery": "disk", "disk": {"source": "existing", "name": "a-disk"}},
        {"delivery": "disk", "disk": {"source": "snapshot", "snapshot": "a-snapshot"}},
        {"delivery": "disk", "disk": {"source": "image", "image": rendering.IMAGE}, "kubernetes": "1.36"},
        {"delivery": "disk", "platform": "eks", "disk": {"source": "existing", "name": "vol-0a"}},
        {"delivery": "stream", "loader": "runai_streamer", "identity": {"hmac_secret": "keys"}},
        {"delivery": "stream", "loader": "runai_streamer", "bucket": "s3://anonymous@b-b/m",
         "transfer": {"enabled": False}},
        {"delivery": "stream", "loader": "runai_streamer_sharded", "model": "gs://a-bucket/shards", "bucket": None},
        {"delivery": "stream", "bucket": "az://models@anaccount/llama"},
        {"delivery": "stream", "bucket": None},
        {"delivery": "stream", "platform": "kubernetes", "identity": {"credentials_secret": "bucket"}},
        {"delivery": "hub", "bucket": None, "hub": {"volume": "emptyDir"}},
        {"kserve": {"enabled": True}},
        {"platform": "eks", "delivery": "pvc", "bucket": "s3://a-bucket/m",
         "cloud": {"region": "us-west-2", "zones": []},
         "transfer": {"env": {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://minio:9000"}}},
        {"expose": {"by": "ingress", "internal": False, "host": "llm.example.org", "static_ip": "an-address"}},
        {"identity": {"google_service_account": "reader@a-project.iam.gserviceaccount.com"}},
        {"namespace": "serving", "labels": {"team": "platform"}, "images": {"pull_secret": "pull"}},
        {"server": {"env": {"AWS_REGION": "eu-west-1"}, "args": ["--enable-prefix-caching"]}, "platform": "eks",
         "bucket": "s3://a-bucket/m", "cloud": {"region": "us-west-2", "zones": []}},
    ],
)  # fmt: skip
def test_variant_is_valid_and_whole(more: dict[str, Any]) -> None:
    found = objects(context(more))
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []


UNKNOWN_MACHINE = dataclasses.replace(
    ONE_L4, machine=None, machine_gpus=None, machine_cpu=None, machine_memory_bytes=None
)


def test_validator_refuses_unknown_fields_and_wrong_types() -> None:
    found = objects(context())
    server = rendering.one(found, "Deployment")
    server["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert "imagee" in problems(server)[0]
    made = rendering.one(objects(scene("gke-standard", "stream", "rayservice")), "RayService")
    made["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert "minReplica" in problems(made)[0]


def test_dangling_reference_is_noticed() -> None:
    found = objects(context())
    rendering.one(found, "Service")["spec"]["selector"]["app"] = "another"
    rendering.one(found, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] = "triton"
    assert any("selects nothing" in text for text in rendering.dangling(found))
    assert "ServiceAccount triton" in rendering.dangling(found)


# Whatever is asked for is refused by a UsageError or is right.
_SETTINGS = st.fixed_dictionaries(
    {
        "platform": st.sampled_from(PLATFORMS),
        "delivery": st.sampled_from(DELIVERIES),
        "kind": st.sampled_from(KINDS),
        "loader": st.sampled_from(["penstock", "runai_streamer", "runai_streamer_sharded"]),
        "kubernetes": st.sampled_from(["1.33", "1.35.1-gke.1616000", "1.36"]),
        "bucket": st.sampled_from([None, "gs://a-bucket/m", "s3://a-bucket/m", "az://container@account/m", "gs://a-bucket"]),
        "namespace": st.sampled_from(["default", "serving"]),
        "server": st.fixed_dictionaries(
            {
                "replicas": st.integers(1, 4),
                "memory": st.sampled_from([None, "24Gi", "900Gi"]),
                "cpu": st.sampled_from([None, 0.5, 6]),
                "shm": st.sampled_from([None, "4Gi"]),
            }
        ),
        "fuse": st.fixed_dictionaries(
            {
                "cache": st.sampled_from(["auto", "none", "memory", "local-ssd"]),
                "load_strategy": st.sampled_from(["auto", "lazy", "eager", "prefetch"]),
                "cache_size": st.sampled_from([None, "1Gi", "30Gi"]),
            }
        ),
        "pvc": st.fixed_dictionaries(
            {
                "access_mode": st.sampled_from([None, "ReadWriteOnce", "ReadWriteMany"]),
                "storage_class": st.sampled_from([None, "", "a-class"]),
            }
        ),
        "disk": st.fixed_dictionaries(
            {
                "source": st.sampled_from(["auto", "populator", "existing", "snapshot", "image"]),
                "image": st.sampled_from([None, rendering.IMAGE]),
                "snapshot": st.sampled_from([None, "snap-1"]),
                "name": st.sampled_from([None, "vol-1"]),
            }
        ),
        "expose": st.fixed_dictionaries(
            {
                "by": st.sampled_from(["none", "ingress", "gateway", "inference"]),
                "internal": st.booleans(),
                "host": st.sampled_from([None, "llm.example.org"]),
                "certificate": st.sampled_from([None, "cert"]),
                "class_name": st.sampled_from([None, "c"]),
            }
        ),
        "scaling": st.fixed_dictionaries(
            {
                "max": st.sampled_from([None, 1, 3]),
                "by": st.sampled_from(["auto", "hpa", "keda"]),
                "prometheus": st.sampled_from([None, "http://p:9090"]),
            }
        ),
        "capacity": st.fixed_dictionaries(
            {
                "spot": st.booleans(),
                "on_demand_fallback": st.booleans(),
                "node_class": st.sampled_from([None, True, False]),
            }
        ),
        "kserve": st.fixed_dictionaries({"enabled": st.booleans()}),
    }
)  # fmt: skip


@given(values=_SETTINGS, placement=st.sampled_from([ONE_L4, TWO_NODES, UNKNOWN_MACHINE]))
@settings(max_examples=150, deadline=None)
def test_whatever_is_asked_for_is_refused_or_right(values: dict[str, Any], placement: Any) -> None:
    try:
        made = context(values, placement=placement)
        files = render(made)
    except UsageError:
        return
    found = objects(made)
    assert [problem for each in found for problem in problems(each)] == []
    assert rendering.dangling(found) == []
    for each in found:
        for _, pod in pod_specs(each):
            for one in containers(pod):
                _check_resources(one, placement.machine_memory_bytes)
    # The settings file makes the same again, and so does the command line.
    texts = write_files(files, made.settings)
    again = make_settings(parse_settings(texts["penstock.yaml"], variables={}))
    assert again == made.settings


def _check_resources(one: dict[str, Any], machine_bytes: int | None) -> None:
    requests, limits = one["resources"]["requests"], one["resources"]["limits"]
    for key, limit in limits.items():
        assert rendering.quantity_bytes(requests[key]) <= rendering.quantity_bytes(limit), one["name"]
    assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
    if machine_bytes is not None:
        assert rendering.quantity_bytes(limits["memory"]) <= machine_bytes


@given(values=_SETTINGS)
@settings(max_examples=50, deadline=None)
def test_command_line_in_the_head_says_the_same(values: dict[str, Any]) -> None:
    from penstock.deploy.render.files import command_line

    try:
        made = context(values).settings
    except UsageError:
        return
    ref, *flags = command_line(made)
    assignments = [parse_assignment(flag.removeprefix("--set=")) for flag in flags]
    assert make_settings(merge([{"model": ref}, *assignments])) == made


@pytest.mark.parametrize("delivery", ["fuse", "disk"])
def test_one_stream_is_refused_where_a_part_must_wait_for_the_copy(delivery: str) -> None:
    made = context({"delivery": delivery})
    with pytest.raises(UsageError, match="before the copy is done"):
        write_stream(render(made), made.settings)
    assert "20-copy.yaml" in write_files(render(made), made.settings)


def test_same_inputs_give_the_same_text() -> None:
    made = context()
    assert write_stream(render(made), made.settings) == write_stream(render(context()), made.settings)


@pytest.mark.parametrize("size_gib", [1, 16, 140, 700])
def test_volumes_hold_the_model(size_gib: int) -> None:
    model = dataclasses.replace(rendering.LLAMA, weight_bytes=size_gib * GiB)
    for delivery in ("pvc", "disk", "hub"):
        made = dataclasses.replace(scene("gke-standard", delivery, "deployment"), model=model)
        sizes = [text for each in objects(made) for text in _storage(each)]
        assert sizes
        assert all(rendering.quantity_bytes(size) >= 1.05 * model.weight_bytes for size in sizes)


def _storage(each: dict[str, Any]) -> list[str]:
    if each["kind"] == "PersistentVolumeClaim":
        return [each["spec"]["resources"]["requests"]["storage"]]
    volumes = [volume for _, pod in pod_specs(each) for volume in pod.get("volumes", []) if volume["name"] == "hub"]
    return [volume["emptyDir"]["sizeLimit"] for volume in volumes]


CATALOG = load_catalog()
MACHINES = [
    (platform, machine)
    for platform in ("gke-standard", "eks")
    for machine in CATALOG.machines_on(platform)
    if machine.memory_gib is not None
]


@pytest.mark.parametrize(("platform", "machine"), MACHINES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("delivery", ["stream", "fuse"])
def test_a_pod_with_its_sidecar_fits_every_machine_that_sizing_chooses(
    platform: str, machine: Machine, delivery: str
) -> None:
    memory = measure(config={"model_type": "x"}, tensors_by_file={}, file_bytes={"model.safetensors": 2 * GiB})
    server = {"machine": machine.name, "gpu": machine.gpu, "memory": None}
    made = scene(platform, delivery, "deployment", server=server, capacity={"spot": machine.spot_only})
    small = dataclasses.replace(rendering.OPEN, weight_bytes=2 * GiB, largest_file_bytes=2 * GiB)
    placement = placement_of(choose_option(made.settings, small, memory, CATALOG), made.settings)
    found = objects(dataclasses.replace(made, model=small, placement=placement))
    _, pod = next(pod_specs(rendering.one(found, "Deployment")))
    requests = pod["containers"][0]["resources"]["requests"]
    sidecar = platform == "gke-standard" and delivery == "fuse"
    assert rendering.cpus(requests["cpu"]) + sidecar <= (machine.pod_cpus or 0)
    assert rendering.quantity_bytes(requests["memory"]) + sidecar * 2 * GiB <= (machine.pod_memory_bytes or 0)
    assert int(requests["nvidia.com/gpu"]) <= machine.gpus
