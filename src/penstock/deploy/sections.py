"""The sections of the settings file. One class a section; every field is a key, its docstring-comment is its contract.

None means: computed from the model, the machine and the platform.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from penstock.deploy.names import check_name
from penstock.units import parse_size


class Section(BaseModel):
    """Frozen; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _size(text: str) -> str:
    if parse_size(text) == 0:
        raise ValueError("0 bytes")
    return text


def _name(text: str) -> str:
    return check_name(text)


def _zone(text: str) -> str:
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", text):
        raise ValueError(f"{text!r} is not a zone or region; write for example us-central1-a")
    return text


def _image(text: str) -> str:
    """Pinned: a moving image is another server tomorrow. Raises ValueError."""
    repository, at, digest = text.partition("@")
    tag = repository.rpartition("/")[2].partition(":")[2]
    if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{text!r}: a digest is sha256: and 64 hexadecimal digits")
    if not at and (not tag or tag in ("latest", "nightly", "main", "stable")):
        raise ValueError(f"{text!r} names no version; write repository:tag or repository@sha256:…")
    if re.search(r"[^\w./:@-]", text):
        raise ValueError(f"{text!r} is not an image")
    return text


Size = Annotated[str, AfterValidator(_size)]
"""`24Gi`, `1.5GB`."""
Name = Annotated[str, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Image = Annotated[str, AfterValidator(_image)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
# What stands in a shell script, an IAM member or a resource's path.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:/@+=-]*$", max_length=255)]
ProjectId = Annotated[str, Field(pattern=r"^([a-z][a-z0-9.]*:)?[a-z][-a-z0-9]{4,28}[a-z0-9]$")]


class Cloud(Section):
    """The project or account and the cluster in it."""

    project: ProjectId | None = None
    """Google Cloud project id."""
    project_number: Annotated[str, Field(pattern=r"^\d{6,}$", coerce_numbers_to_str=True)] | None = None
    account: Annotated[str, Field(pattern=r"^\d{12}$", coerce_numbers_to_str=True)] | None = None
    """AWS account id."""
    region: Zone | None = None
    zones: tuple[Zone, ...] = ()
    """Zones with the GPU; of disks and of caches."""
    cluster: Name | None = None
    bucket_location: Zone | None = None
    """Where the bucket lies; the region where it is not said."""


class Server(Section):
    """The engine's pod."""

    gpu: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    """Name in the GPU catalogue: nvidia-l4."""
    gpus: Count | None = None
    """In one pod: the tensor parallel size."""
    nodes: Count | None = None
    """Pods that make one server: the pipeline parallel size."""
    machine: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = None
    replicas: Count = 1
    max_model_len: Count | None = None
    context: Count | None = None
    """Tokens that one request may have, for sizing; max_model_len follows from it."""
    concurrency: Count = 1
    """Requests of that length at once, for sizing."""
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.95)] | None = None
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    kv_cache_dtype: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "auto"
    enforce_eager: bool = False
    trust_remote_code: bool = False
    port: Port = 8000
    cpu: Annotated[float, Field(gt=0)] | None = None
    memory: Size | None = None
    shm: Size | None = None
    startup_s: Count | None = None
    """How long a start may take before the pod is given up."""
    grace_s: Annotated[int, Field(ge=15, le=3600)] = 120
    """Of the longest answer: what SIGTERM leaves a pod."""
    args: tuple[str, ...] = ()
    """More arguments for the engine."""
    env: dict[str, str] = {}
    """More variables for the engine; of VARIABLES only, and never a secret."""

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            check_variable(name, value)
        return env

    @field_validator("args")
    @classmethod
    def _check_args(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            check_argument(arg)
        return args


# Prefixes of variables that engines and transports are tuned by. Anything else belongs into an image or a Secret.
VARIABLES: Final = (
    "VLLM_", "HF_HUB_", "HF_XET_", "NCCL_", "RUNAI_STREAMER_", "PENSTOCK_", "RAY_", "TORCH_", "TORCHINDUCTOR_", "CUDA_",
    "OMP_", "UCX_", "GLOO_", "PYTORCH_", "TRITON_", "FI_", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED", "AZURE_STORAGE_ACCOUNT_NAME", "HF_ENDPOINT", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "LD_LIBRARY_PATH", "TZ",
)  # fmt: skip
_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|ACCESS_KEY|PRIVATE")
_GONE: Final = {
    "HF_HUB_ENABLE_HF_TRANSFER": "huggingface_hub 1.0 removed it; HF_XET_HIGH_PERFORMANCE=1",
    "VLLM_USE_V1": "there is no other engine any more; leave it out",
    "VLLM_PORT": "it is the engine's internal port; server.port",
}
_OURS: Final = frozenset(
    {
        "model", "served-model-name", "port", "host", "load-format", "model-loader-extra-config", "revision",
        "tensor-parallel-size", "tp", "pipeline-parallel-size", "pp", "nnodes", "node-rank", "master-addr", "headless",
        "max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "dtype", "kv-cache-dtype",
        "enforce-eager", "trust-remote-code", "safetensors-load-strategy",
    }
)  # fmt: skip


def check_variable(name: str, value: str) -> None:
    """Raises ValueError unless a rendered file may hold this variable with this value."""
    if name in _GONE:
        raise ValueError(f"{name}: {_GONE[name]}")
    if _SECRET.search(name):
        raise ValueError(
            f"{name} sounds like a secret; files hold none: make a Secret and name it (token, expose.api_key)"
        )
    if not name.startswith(VARIABLES) or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise ValueError(f"{name} is not among the variables an engine is tuned by: {', '.join(VARIABLES)}")
    if "${" in value or "$(" in value:
        raise ValueError(f"{name}: Kubernetes does not expand {value!r}; write the value")


def check_argument(arg: str) -> None:
    """Raises ValueError for an argument of the engine that is gone, is set by another key, or is a secret."""
    flag = arg.partition("=")[0].lstrip("-").replace("_", "-")
    if not arg.startswith("-"):
        return
    if flag in ("disable-log-requests", "no-enable-log-requests"):
        raise ValueError(f"{arg}: vLLM removed it; requests are not logged unless asked for")
    if flag == "api-key":
        raise ValueError(f"{arg}: arguments are no place for a secret; expose.api_key names a Secret")
    if flag in _OURS or arg == "-tp":
        raise ValueError(f"{arg}: this is set from a key of its own (see server, loader)")


class Images(Section):
    """Where the containers come from. Pinned by tag or digest."""

    registry: Annotated[str, Field(pattern=r"^[a-z0-9][\w./:-]*$")] | None = None
    """Holds penstock, penstock-vllm and penstock-ray (`make image`)."""
    server: Image | None = None
    penstock: Image | None = None
    ray: Image | None = None
    picker: Image = "registry.k8s.io/gateway-api-inference-extension/epp:v1.4.0"
    """Endpoint picker of an InferencePool. 1.5.0 calls servers without LoRA unhealthy: they lack a metric it wants."""
    pull_secret: Name | None = None


class Identity(Section):
    """Who reads, and who writes."""

    service_account: Name | None = None
    """Of the server; `<name>-server`."""
    copy_service_account: Name | None = None
    """Of the transfer Job; `<name>-copy`."""
    workload_pool: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:-]*$")] | None = None
    """Of Workload Identity Federation; `<project>.svc.id.goog`."""
    google_service_account: (
        Annotated[str, Field(pattern=r"^[a-z][-a-z0-9]*@[-a-z0-9.:]+\.iam\.gserviceaccount\.com$")] | None
    ) = None
    """Only where an API refuses federated principals: the account to impersonate."""
    role_arn: Annotated[str, Field(pattern=r"^arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+$")] | None = None
    """EKS: the reading role, by IRSA. Without it: Pod Identity."""
    copy_role_arn: Annotated[str, Field(pattern=r"^arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+$")] | None = None
    credentials_secret: Name | None = None
    """Where the platform has no identity: a Secret with the key credentials, a file as the cloud's SDK reads it."""
    hmac_secret: Name | None = None
    """GCS over its S3 interface: a Secret with the keys access-key and secret-key."""


class Token(Section):
    """Of the Hub, for gated and private models; a Secret that exists."""

    secret: Name = "hf-token"  # noqa: S105  a name
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")] = "token"


class Transfer(Section):
    """The Job that copies the model into the bucket."""

    enabled: bool | None = None
    """None: when the model comes from somewhere else than the bucket."""
    memory: Size = "640Mi"
    """Whatever the model's size: 256 MiB of buffers, 110 MiB for the process, the rest for sockets."""
    buffers: Size = "256MiB"
    cpu: Annotated[float, Field(gt=0)] = 2
    machine_families: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]+$")], ...] = ("c3", "c4", "n2")
    """Preferred, not required; GKE only."""
    lanes: Count | None = None
    max_rate: Size | None = None
    """Bytes a second."""
    versioned: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep_s: Annotated[int, Field(ge=0)] = 86_400
    """How long the finished Job and its log stay."""
    attempts: Count = 6


class Fuse(Section):
    """The bucket as a file system."""

    profile: Literal["auto", "serving", "none"] = "auto"
    """The StorageClass gcsfusecsi-serving; auto: from GKE 1.35.1-gke.1616000 on."""
    cache: Literal["auto", "none", "memory", "local-ssd"] = "auto"
    """Where files are kept that were read; auto: nowhere, the engine reads each once."""
    cache_size: Size | None = None
    """The weights and a tenth more."""
    sidecar_memory: Size = "2Gi"
    sidecar_cpu: Annotated[float, Field(gt=0)] = 1
    sidecar_disk: Size = "5Gi"
    load_strategy: Literal["auto", "lazy", "eager", "prefetch"] = "auto"
    """Of safetensors; auto: prefetch."""
    mount_options: tuple[Annotated[str, Field(pattern=r"^[\w:=.-]+$")], ...] = ()


class Pvc(Section):
    """A volume that keeps the model between starts."""

    storage_class: Name | Literal[""] | None = None
    """One that exists; None: one is made where the platform is known, or the cluster's default."""
    disk_type: Word | None = None
    """Of the class that is made: hyperdisk-balanced, pd-balanced, pd-ssd; gp3."""
    size: Size | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] | None = None
    """None: ReadWriteOnce while one pod is all, else ReadWriteMany."""


class Disk(Section):
    """A disk or an image that is filled before the server starts."""

    source: Literal["auto", "populator", "existing", "snapshot", "image"] = "auto"
    """auto: populator on GKE, existing on EKS, image elsewhere."""
    type: Literal["hyperdisk-ml", "pd-balanced", "pd-ssd", "hyperdisk-balanced"] = "hyperdisk-ml"
    name: Word | None = None
    """Of the disk (GCE) or of the volume (vol-…); `<name>-weights`."""
    snapshot: Word | None = None
    """Name (GCE) or id (snap-…)."""
    size: Size | None = None
    throughput_mib: Count = 2400
    """Provisioned, MiB/s, shared by all who read."""
    path: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$|^$")] = ""
    """Of the model below the disk's root."""
    image: Image | None = None
    """With the weights under /; for source image."""


class Hub(Section):
    """The baseline: the engine downloads from the Hub at each start."""

    volume: Literal["auto", "emptyDir", "ephemeral"] = "auto"
    storage_class: Name | None = None
    size: Size | None = None


class Expose(Section):
    """How requests come in from outside the cluster."""

    by: Literal["none", "ingress", "gateway", "inference"] = "none"
    host: (
        Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)+[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
        | None
    ) = None
    internal: bool = True
    class_name: Name | None = None
    """Of the Gateway or Ingress."""
    static_ip: Name | None = None
    """Name of a reserved address."""
    certificate: Word | None = None
    """Secret with a TLS certificate, ARN on EKS; a ManagedCertificate is made for a public GKE Ingress without it."""
    timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Of one answer; load balancers cut at 30 s unless told."""
    api_key: Name | None = None
    """Secret with the key api-key, that clients must know; `<name>-api-key` where the world can ask."""


class Scaling(Section):
    """How many replicas."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Count | None = None
    """None: server.replicas, no scaling."""
    metric: Literal["num_requests_waiting", "num_requests_running"] = "num_requests_waiting"
    target: Annotated[float, Field(gt=0)] = 4
    """Of each replica."""
    by: Literal["auto", "hpa", "keda"] = "auto"
    """auto: HPA on GKE, KEDA elsewhere and for zero."""
    prometheus: Annotated[str, Field(pattern=r"^https?://[\w.:/-]+$")] | None = None
    """Where KEDA asks."""
    wake_query: str | None = None
    """PromQL above 0 while somebody waits; for min 0: a server that is not there has no metrics."""
    cooldown_s: Count = 600

    @model_validator(mode="after")
    def _check(self) -> Scaling:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"scaling.max {self.max} is below scaling.min {self.min}")
        if self.min == 0 and self.max is None:
            raise ValueError("scaling.min 0 needs scaling.max")
        return self


class Capacity(Section):
    """What nodes, and what when there are none."""

    spot: bool = False
    on_demand_fallback: bool = True
    """With spot: on-demand nodes when there are no spot ones, where a class or pool of ours can say so."""
    node_class: bool | None = None
    """Make a ComputeClass (GKE) or a NodePool (Karpenter). None: with spot and its fallback."""
    reservation: Name | None = None
    flex_start: bool = False
    max_nodes: Count = 4
    pool: Name | None = None
    """Node pool of the runbook; `gpu-pool`."""
    local_ssds: Annotated[int, Field(ge=0, le=24)] = 0
    driver: Literal["latest", "default"] = "latest"


class Setup(Section):
    """What the runbook makes beside the manifests."""

    create_cluster: bool = True
    create_bucket: bool = True
    rapid_cache: bool = False
    rapid_cache_ttl: Annotated[str, Field(pattern=r"^[1-7]d$")] = "7d"
    hmac: bool = False
    chat: Literal["none", "gke", "cloud-run"] = "none"
    smoke_tokens: Count = 250


class KServe(Section):
    """A ClusterStorageContainer with which KServe pulls by penstock."""

    enabled: bool = False
    prefixes: tuple[Annotated[str, Field(pattern=r"^(hf|gs|s3|az)://")], ...] = ()
    """None: the model's bucket."""
