"""The mistakes of the guides that penstock retells (X-nn), none of which a rendered manifest may have.

Each test looks at every combination of platform, delivery and kind. Mistakes of commands are tested where commands are
written.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any

import pytest
import rendering
import yaml
from rendering import containers, context, objects, one, pod_specs, quantity_bytes, scene, texts

from penstock.deploy.render.files import render, write_files, write_stream
from penstock.deploy.render.inputs import Placement
from penstock.errors import UsageError
from penstock.units import GiB


@functools.cache
def everything() -> tuple[tuple[str, list[dict[str, Any]]], ...]:
    """All combinations, with all that can be added to them."""
    scaling = {"max": 3, "prometheus": "http://prometheus:9090"}
    found = [("-".join(each), objects(scene(*each))) for each in rendering.iter_combinations()]
    for by in ("ingress", "gateway", "inference"):
        more = {"by": by, "class_name": "a-class"}
        found.append((by, objects(scene("gke-standard", "stream", "deployment", expose=more, scaling=scaling))))
        found.append((by, objects(scene("eks", "stream", "deployment", expose=more, scaling=scaling))))
    return tuple(found)


def every_object() -> list[dict[str, Any]]:
    return [each for _, found in everything() for each in found]


def every_pod() -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """(object, metadata, spec) of every pod template."""
    return [(each, meta, pod) for each in every_object() for meta, pod in pod_specs(each)]


def servers() -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """(object, pod, container) of every container with a GPU."""
    return [
        (each, pod, container)
        for each, _, pod in every_pod()
        for container in pod["containers"]
        if "nvidia.com/gpu" in container["resources"]["limits"]
    ]


def engine_args(each: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """What the engine is told, by vLLM's flags, also where Ray tells it."""
    if each["kind"] != "RayService":
        return [*container["command"], *container["args"]]
    (config,) = llm_configs(each)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in config["engine_kwargs"].items()]
    return [f"--served-model-name={config['model_loading_config']['model_id']}", *flags]


def llm_configs(each: dict[str, Any]) -> list[dict[str, Any]]:
    (application,) = yaml.safe_load(each["spec"]["serveConfigV2"])["applications"]
    return list(application["args"]["llm_configs"])


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container.get("env", [])}


def test_x01_x05_x17_x25_nothing_is_moved_by_a_shell_script() -> None:
    moving = [one for _, _, pod in every_pod() for one in containers(pod) if one["name"] in ("penstock", "pull")]
    assert moving
    assert {tuple(container["command"]) for container in moving} == {("penstock", "copy"), ("penstock", "pull")}


def test_x02_x03_x21_x42_no_secret_but_by_reference() -> None:
    for each in every_object():
        assert each["kind"] != "Secret"
        assert not [text for text in texts(each) if re.search(r"hf_[A-Za-z0-9]{8}|runtime_env|Authorization", text)]
    for each, _, pod in every_pod():
        for container in containers(pod):
            secret = [name for name in variables(container) if re.search("TOKEN$|SECRET|API_KEY|ACCESS_KEY", name)]
            assert all(isinstance(variables(container)[name], dict) for name in secret), each["metadata"]["name"]


def test_x02_a_model_of_the_hub_is_pinned_to_its_commit() -> None:
    job = one(objects(context()), "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][0].endswith(f"@{rendering.COMMIT}")
    server = one(objects(scene("gke-standard", "hub", "deployment")), "Deployment")
    assert f"--revision={rendering.COMMIT}" in server["spec"]["template"]["spec"]["containers"][0]["args"]
    ray = one(objects(scene("gke-standard", "hub", "rayservice")), "RayService")
    assert llm_configs(ray)[0]["engine_kwargs"]["revision"] == rendering.COMMIT


@pytest.mark.parametrize("delivery", ["stream", "hub"])
def test_x04_an_open_model_needs_no_token(delivery: str) -> None:
    bucket = None if delivery == "hub" else "gs://a-bucket/m"
    for model, optional in ((rendering.OPEN, True), (rendering.LLAMA, None)):
        found = objects(context({"delivery": delivery, "bucket": bucket}, model=model))
        mounted = [v for e in found for _, pod in pod_specs(e) for v in pod.get("volumes", []) if "secret" in v]
        assert mounted
        assert {volume["secret"].get("optional") for volume in mounted} == {optional}


def test_x07_memory_of_the_copy_does_not_grow_with_the_model() -> None:
    sizes = set()
    for weight_bytes in (1 * GiB, 16 * GiB, 700 * GiB):
        made = dataclasses.replace(context(), model=dataclasses.replace(rendering.LLAMA, weight_bytes=weight_bytes))
        pod = one(objects(made), "Job")["spec"]["template"]["spec"]
        sizes.add(pod["containers"][0]["resources"]["limits"]["memory"])
        assert not [volume for volume in pod["volumes"] if "emptyDir" in volume]
    assert sizes == {"640Mi"}


def test_x09_sidecars_have_limits_that_autopilot_takes() -> None:
    annotations = [meta.get("annotations", {}) for _, meta, _ in every_pod()]
    mounting = [each for each in annotations if "gke-gcsfuse/volumes" in each]
    assert mounting
    for each in mounting:
        assert "0" not in each.values()
        assert {"gke-gcsfuse/memory-limit", "gke-gcsfuse/memory-request"} <= each.keys()


@pytest.mark.parametrize("cache", ["none", "memory", "local-ssd"])
def test_x10_file_cache_is_bounded_and_the_mount_read_only(cache: str) -> None:
    values = {"delivery": "fuse", "platform": "gke-standard", "fuse": {"cache": cache}}
    pod = one(objects(context(values)), "Deployment")["spec"]["template"]["spec"]
    (weights,) = (volume["csi"] for volume in pod["volumes"] if "csi" in volume)
    assert weights["readOnly"] is True
    options = weights["volumeAttributes"]["mountOptions"].split(",")
    (size,) = (option.rpartition(":")[2] for option in options if option.startswith("file-cache:max-size-mb"))
    medium = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "gke-gcsfuse-cache"]
    assert (int(size) << 20) == sum(map(quantity_bytes, medium))
    if cache != "none":
        assert int(size) << 20 >= 1.1 * rendering.LLAMA.weight_bytes


def test_x12_the_finished_copy_stays_a_while_and_then_goes() -> None:
    assert one(objects(context()), "Job")["spec"]["ttlSecondsAfterFinished"] > 0


def test_x13_who_copies_is_not_who_serves() -> None:
    for name, found in everything():
        accounts = {each["kind"]: pod["serviceAccountName"] for each in found for _, pod in pod_specs(each)}
        if "Job" in accounts:
            assert list(accounts.values()).count(accounts["Job"]) == 1, name


def test_x15_x36_x37_x44_the_engine_is_told_what_it_knows_and_no_more() -> None:
    for each, _, container in servers():
        args = engine_args(each, container)
        assert any(arg.startswith("--max-model-len=") for arg in args)
        assert not [arg for arg in args if "log-requests" in arg or "trust-remote-code" in arg]
        (share,) = (float(arg.partition("=")[2]) for arg in args if arg.startswith("--gpu-memory-utilization="))
        assert share <= 0.92
        if each["kind"] != "RayService":
            assert container["command"] in (["vllm", "serve"], ["penstock", "serve"])


def test_x37_remote_code_runs_only_when_it_was_allowed() -> None:
    model = dataclasses.replace(rendering.LLAMA, needs_remote_code=True)
    with pytest.raises(UsageError, match="needs code of its repository"):
        objects(context(model=model))
    found = objects(context({"server": {"trust_remote_code": True}}, model=model))
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--trust-remote-code" in container["args"]


def test_x16_x70_keys_for_the_s3_interface_are_named_and_not_held() -> None:
    found = objects(context({"loader": "runai_streamer", "identity": {"hmac_secret": "gcs-keys"}}))
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert variables(container)["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "gcs-keys", "key": "secret-key"}}
    assert variables(container)["AWS_ENDPOINT_URL"] == "https://storage.googleapis.com"
    assert container["args"][0] == "s3://a-bucket/llama-3-8b"


def test_x18_the_api_name_is_neither_a_path_nor_a_uri() -> None:
    for each, _, container in servers():
        (name,) = (arg for arg in engine_args(each, container) if arg.startswith("--served-model-name="))
        assert name == "--served-model-name=meta-llama/Meta-Llama-3-8B"


def test_x19_shared_memory_is_mounted_and_starts_have_their_own_probe() -> None:
    for each, pod, container in servers():
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (shm,) = (volume for volume in pod["volumes"] if volume["name"] == mounts["/dev/shm"])
        assert shm["emptyDir"]["medium"] == "Memory"
        assert quantity_bytes(shm["emptyDir"]["sizeLimit"]) < quantity_bytes(container["resources"]["limits"]["memory"])
        if "ports" in container and each["kind"] != "RayService":
            start, ready = container["startupProbe"], container["readinessProbe"]
            assert 600 <= start["periodSeconds"] * start["failureThreshold"] <= 7200
            assert ready["periodSeconds"] * ready["failureThreshold"] <= 60
            assert container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_x20_x34_no_variable_that_libraries_forgot() -> None:
    gone = {"HF_HUB_ENABLE_HF_TRANSFER", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_CACHE", "shm-size", "VLLM_USE_V1"}
    for _, _, pod in every_pod():
        for container in containers(pod):
            assert not gone & variables(container).keys()


def test_x22_ray_is_one_that_streams_from_buckets() -> None:
    clusters = [each["spec"]["rayClusterConfig"] for each in every_object() if each["kind"] == "RayService"]
    assert clusters
    assert all(not cluster["rayVersion"].startswith("2.57") for cluster in clusters)
    stock = one(objects(scene("gke-standard", "stream", "rayservice", loader="runai_streamer")), "RayService")
    image = stock["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert f":{stock['spec']['rayClusterConfig']['rayVersion']}-" in image


def test_x24_nobody_is_impersonated_unless_asked_for() -> None:
    accounts = [each for each in every_object() if each["kind"] == "ServiceAccount"]
    assert not [each for each in accounts if each["metadata"].get("annotations")]


def test_x25_the_folder_of_a_pull_is_the_model_itself() -> None:
    for _, pod, container in servers():
        if "initContainers" not in pod:
            continue
        (pull,) = pod["initContainers"]
        (to,) = (arg.removeprefix("--to=") for arg in pull["args"] if arg.startswith("--to="))
        assert container.get("args", [to])[0] == to


def test_x26_no_volume_of_a_driver_that_left_kubernetes() -> None:
    volumes = [volume for _, _, pod in every_pod() for volume in pod.get("volumes", [])]
    volumes += [each["spec"] for each in every_object() if each["kind"] == "PersistentVolume"]
    assert not [
        volume for volume in volumes if {"gcePersistentDisk", "awsElasticBlockStore", "gitRepo"} & volume.keys()
    ]


def test_x27_x28_a_disk_is_fast_and_where_it_can_be_attached() -> None:
    existing = {"delivery": "disk", "platform": "gke-standard", "disk": {"source": "existing"}}
    volume = one(objects(context(existing)), "PersistentVolume")["spec"]
    (term,) = volume["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["us-central1-a"]
    assert volume["accessModes"] == ["ReadOnlyMany"]
    assert "/zones/us-central1-a/" in volume["csi"]["volumeHandle"]
    populated = {**existing, "disk": {"source": "populator"}, "cloud": {"zones": ["us-central1-a", "us-central1-c"]}}
    made = one(objects(context(populated)), "StorageClass")
    assert made["parameters"]["type"] == "hyperdisk-ml"
    assert made["parameters"]["enable-multi-zone-provisioning"] == "true"
    assert made["allowedTopologies"][0]["matchLabelExpressions"][0]["values"] == ["us-central1-a", "us-central1-c"]


def test_x28_a_volume_for_one_node_leaves_it_before_the_next_pod_comes() -> None:
    seen = 0
    for name, found in everything():
        modes = [m for each in found if each["kind"] == "PersistentVolumeClaim" for m in each["spec"]["accessModes"]]
        if "ReadWriteOnce" in modes:
            server = one(found, "Deployment", "meta-llama-3-8b")
            assert server["spec"]["strategy"] == {"type": "Recreate"}, name
            assert server["spec"].get("replicas", 1) == 1
            seen += 1
    assert seen


def test_x30_x31_x32_x33_names_agree() -> None:
    for name, found in everything():
        assert rendering.dangling(found) == [], name
        labels = {json.dumps(e["metadata"]["labels"]["app"]) for e in found} | {
            json.dumps(meta["labels"]["app"]) for e in found for meta, _ in pod_specs(e)
        }
        assert len(labels) == 1


def test_x35_the_user_has_a_name_and_somewhere_to_write() -> None:
    for each, pod, container in servers():
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["fsGroup"] == security["runAsUser"]
        assert security["runAsUser"] == (1000 if each["kind"] == "RayService" else 2000)
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        for name in ("HF_HOME", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            assert variables(container)[name].startswith(tuple(writable)), name
        if each["kind"] != "RayService":
            assert variables(container)["HOME"] in writable
            assert variables(container)["USER"]


def test_x37_images_are_pinned() -> None:
    for _, _, pod in every_pod():
        for container in containers(pod):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert "@sha256:" in container["image"] or (tag and tag != "latest"), container["image"]
            assert "imagePullPolicy" not in container


def test_x38_load_balancers_ask_for_health_and_wait_for_answers() -> None:
    for by, kinds in (("ingress", {"BackendConfig"}), ("gateway", {"HealthCheckPolicy", "GCPBackendPolicy"})):
        found = objects(context({"expose": {"by": by}}))
        assert kinds <= {each["kind"] for each in found}
        text = json.dumps([each for each in found if each["kind"] in kinds])
        assert '"requestPath": "/health"' in text
        assert '"timeoutSec": 600' in text


def test_x38_of_ray_its_proxies_are_asked() -> None:
    policy = one(objects(context({"kind": "rayservice", "expose": {"by": "gateway"}})), "HealthCheckPolicy")
    assert policy["spec"]["default"]["config"]["httpHealthCheck"]["requestPath"] == "/-/healthz"


def test_x38_the_world_gets_neither_plain_http_nor_an_open_door() -> None:
    for by in ("ingress", "gateway", "inference"):
        with pytest.raises(UsageError, match="without a certificate"):
            objects(context({"expose": {"by": by, "internal": False}}))
    with pytest.raises(UsageError, match="Ray asks no key"):
        objects(context({"kind": "rayservice", "expose": {"by": "gateway", "internal": False, "certificate": "c"}}))


def test_x39_x46_a_pod_fits_its_machine() -> None:
    with pytest.raises(UsageError, match="8 GPUs in one pod, a2-ultragpu-1g has 1"):
        objects(context(placement=Placement(gpu="nvidia-a100-80gb", gpus=8, machine="a2-ultragpu-1g", machine_gpus=1)))
    with pytest.raises(UsageError, match="wants 900Gi"):
        objects(context({"server": {"memory": "900Gi"}}))


def test_x41_a_gpu_without_bfloat16_is_told_so() -> None:
    old = Placement(gpu="nvidia-tesla-t4", gpus=2, machine="n1-standard-8", machine_gpus=2, dtype="half")
    (container,) = one(objects(context(placement=old)), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--dtype=half" in container["args"]


def test_x45_nothing_is_open_to_the_world_unless_asked_for() -> None:
    kinds = {each["spec"]["type"] for each in every_object() if each["kind"] == "Service"}
    assert kinds == {"ClusterIP"}
    assert not {"Ingress", "Gateway"} & {each["kind"] for each in objects(context())}


def test_x47_nothing_of_the_guides_own_projects_is_left() -> None:
    foreign = re.compile(
        r"ai-llm-models|seans|bkauf|llm-on-gke|gke-llm|^triton$|[<>]|CL?usterIP:|REPLACE|YOUR|PROJECT_ID"
    )
    for name, found in everything():
        for text in (text for each in found for text in texts(each)):
            assert not foreign.search(text), f"{name}: {text}"


def test_x48_spot_is_both_wanted_and_tolerated() -> None:
    for platform in ("gke-autopilot", "gke-standard"):
        found = objects(context({"platform": platform, "capacity": {"spot": True, "on_demand_fallback": False}}))
        pod = one(found, "Deployment")["spec"]["template"]["spec"]
        assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
        assert "cloud.google.com/gke-spot" in {each["key"] for each in pod["tolerations"]}
    for _, pod, _ in servers():
        assert "nvidia.com/gpu" in {each["key"] for each in pod["tolerations"]}


def test_x49_no_service_leaks_variables_into_the_engine() -> None:
    assert "vllm" not in {each["metadata"]["name"] for each in every_object()}
    assert all(pod["enableServiceLinks"] is False for _, _, pod in every_pod())
    with pytest.raises(UsageError, match="VLLM_PORT"):
        context({"name": "vllm"})
    assert context({"model": "hf://org/vllm"}).name == "vllm-model"


def test_x50_pods_ask_for_what_they_take_and_go_in_peace() -> None:
    for each, _, pod in every_pod():
        for container in containers(pod):
            requests = container["resources"]["requests"]
            assert {"cpu", "memory"} <= requests.keys(), each["metadata"]["name"]
            assert "memory" in container["resources"]["limits"]
    for each, pod, container in servers():
        assert pod["terminationGracePeriodSeconds"] >= 60
        if "ports" in container and each["kind"] != "RayService":
            sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert 0 < sleep_s < pod["terminationGracePeriodSeconds"]
    for name, found in everything():
        assert "PodDisruptionBudget" in {each["kind"] for each in found}, name


def test_f62_kubernetes_is_left_nothing_that_it_does_not_expand() -> None:
    for _, found in everything():
        for text in (text for each in found for text in texts(each)):
            assert "${" not in text
            assert set(re.findall(r"\$\((\w+)\)", text)) <= {"LWS_WORKER_INDEX", "LWS_LEADER_ADDRESS"}


def test_every_file_says_how_it_is_made_again() -> None:
    made = context()
    for text in [write_stream(render(made), made.settings), *write_files(render(made), made.settings).values()]:
        assert text.startswith("# ")
        assert "penstock render " in text.partition("\n")[2].partition("\n")[0]


def test_every_pod_meets_the_restricted_pod_security_standard() -> None:
    """Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    allowed = {"csi", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "secret"}
    for _, _, pod in every_pod():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {key for volume in pod.get("volumes", []) for key in volume} - {"name"} <= allowed
        for container in containers(pod):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", []))
