"""The sections of the settings file. One class a section; every field is a key, its docstring-comment is its contract.

None means: computed from the model, the machine and the platform.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from penstock.deploy.fields import (
    Count,
    Image,
    Name,
    Port,
    ProjectId,
    Section,
    Size,
    Variables,
    Word,
    Zone,
    check_argument,
)


class Cloud(Section):
    """The project or account and the cluster in it."""

    project: ProjectId | None = None
    """Google Cloud project id."""
    project_number: Annotated[str, Field(pattern=r"^\d{6,}$", coerce_numbers_to_str=True)] | None = None
    """Google Cloud project number, which IAM names identities with; the runbook asks for it."""
    account: Annotated[str, Field(pattern=r"^\d{12}$", coerce_numbers_to_str=True)] | None = None
    """AWS account id."""
    region: Zone | None = None
    """Of the cluster: us-central1, us-west-2."""
    zones: tuple[Zone, ...] = ()
    """Zones with the GPU; of disks and of caches."""
    cluster: Name | None = None
    """Its name."""
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
    """What nodes are: g2-standard-12, g6.2xlarge; the cheapest that fits."""
    replicas: Count = 1
    """Servers, while nothing scales them."""
    max_model_len: Count | None = None
    """Tokens that a request may have, prompt and answer; what the memory has room for."""
    context: Count | None = None
    """Tokens that one request may have, for sizing; max_model_len follows from it."""
    concurrency: Count = 1
    """Requests of that length at once, for sizing."""
    max_num_seqs: Count | None = None
    """Requests that the engine works on at once."""
    max_num_batched_tokens: Count | None = None
    """Tokens that the engine works on in one step."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.95)] | None = None
    """Share of the GPU's memory that the engine takes."""
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    """Of weights and activations; half where the GPU has no bfloat16."""
    kv_cache_dtype: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "auto"
    """fp8 halves the cache."""
    enforce_eager: bool = False
    """No CUDA graphs: starts faster, serves slower."""
    trust_remote_code: bool = False
    """Code of the model's repository may run in the server."""
    port: Port = 8000
    """That the engine and its Service listen on."""
    cpu: Annotated[float, Field(gt=0)] | None = None
    """Processors that a pod asks for."""
    memory: Size | None = None
    """Host memory of a pod; what loading takes, or the node's share."""
    shm: Size | None = None
    """Of /dev/shm."""
    startup_s: Count | None = None
    """How long a start may take before the pod is given up."""
    grace_s: Annotated[int, Field(ge=15, le=3600)] = 120
    """Of the longest answer: what SIGTERM leaves a pod."""
    args: tuple[str, ...] = ()
    """More arguments for the engine."""
    env: Variables = Field(default_factory=dict)
    """More variables for the engine; of VARIABLES only, and never a secret."""

    @field_validator("args")
    @classmethod
    def _check_args(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            check_argument(arg)
        return args


class Images(Section):
    """Where the containers come from. Pinned by tag or digest."""

    registry: Annotated[str, Field(pattern=r"^[a-z0-9][\w./:-]*$")] | None = None
    """Holds penstock, penstock-vllm and penstock-ray (`make image`)."""
    server: Image | None = None
    """The engine: vllm/vllm-openai, or penstock-vllm where penstock loads."""
    penstock: Image | None = None
    """Of Jobs and init containers."""
    ray: Image | None = None
    """Of Ray's head and workers."""
    chat: Image | None = None
    """Of the page that setup.chat asks for."""
    picker: Image = "registry.k8s.io/gateway-api-inference-extension/epp:v1.4.0"
    """Endpoint picker of an InferencePool. 1.5.0 calls servers without LoRA unhealthy: they lack a metric it wants."""
    pull_secret: Name | None = None
    """For a private registry; of type kubernetes.io/dockerconfigjson."""


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
    """EKS: the writing role, by IRSA."""
    credentials_secret: Name | None = None
    """Where the platform has no identity: a Secret with the key credentials, a file as the cloud's SDK reads it."""
    hmac_secret: Name | None = None
    """GCS over its S3 interface: a Secret with the keys access-key and secret-key."""


class Token(Section):
    """Of the Hub, for gated and private models; a Secret that exists."""

    secret: Name = "hf-token"  # noqa: S105  a name
    """Its name."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")] = "token"
    """The key in it."""


class Transfer(Section):
    """The Job that copies the model into the bucket."""

    enabled: bool | None = None
    """None: when the model comes from somewhere else than the bucket."""
    memory: Size = "640Mi"
    """Whatever the model's size: 256 MiB of buffers, 110 MiB for the process, the rest for sockets."""
    buffers: Size = "256MiB"
    """Of penstock copy and pull: --memory."""
    cpu: Annotated[float, Field(gt=0)] = 2
    """Processors; sha256 takes half of one a GB/s."""
    machine_families: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]+$")], ...] = ("c3", "c4", "n2")
    """Preferred, not required; GKE only."""
    lanes: Count | None = None
    """Connections at once; as many as make it faster."""
    max_rate: Size | None = None
    """Bytes a second."""
    versioned: bool = False
    """Into PREFIX/COMMIT/, with a pointer to the latest."""
    include: tuple[str, ...] = ()
    """Only files that match."""
    exclude: tuple[str, ...] = ()
    """No files that match."""
    keep_s: Annotated[int, Field(ge=0)] = 86_400
    """How long the finished Job and its log stay."""
    env: Variables = Field(default_factory=dict)
    """Variables of penstock copy and pull: AWS_ENDPOINT_URL, HF_ENDPOINT, HTTPS_PROXY; never a secret."""
    attempts: Count = 6
    """Pods that are tried; each goes on where the last one was."""


class Fuse(Section):
    """The bucket as a file system."""

    profile: Literal["auto", "serving", "none"] = "auto"
    """The StorageClass gcsfusecsi-serving; auto: from GKE 1.35.1-gke.1616000 on."""
    cache: Literal["auto", "none", "memory", "local-ssd"] = "auto"
    """Where files are kept that were read; auto: nowhere, the engine reads each once."""
    cache_size: Size | None = None
    """The weights and a tenth more."""
    sidecar_memory: Size = "2Gi"
    """Of the driver's container."""
    sidecar_cpu: Annotated[float, Field(gt=0)] = 1
    """Of the driver's container."""
    sidecar_disk: Size = "5Gi"
    """Of the driver's container."""
    load_strategy: Literal["auto", "lazy", "eager", "prefetch"] = "auto"
    """Of safetensors; auto: prefetch."""
    mount_options: tuple[Annotated[str, Field(pattern=r"^[\w:=.-]+$")], ...] = ()
    """More of them, as the driver spells them."""


class Pvc(Section):
    """A volume that keeps the model between starts."""

    storage_class: Name | Literal[""] | None = None
    """One that exists; None: one is made where the platform is known, or the cluster's default."""
    disk_type: Word | None = None
    """Of the class that is made: hyperdisk-balanced, pd-balanced, pd-ssd; gp3."""
    size: Size | None = None
    """The weights and a tenth more."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] | None = None
    """None: ReadWriteOnce while one pod is all, else ReadWriteMany."""


class Disk(Section):
    """A disk or an image that is filled before the server starts."""

    source: Literal["auto", "populator", "existing", "snapshot", "image"] = "auto"
    """auto: populator on GKE, existing on EKS, image elsewhere."""
    type: Literal["hyperdisk-ml", "pd-balanced", "pd-ssd", "hyperdisk-balanced"] = "hyperdisk-ml"
    """Of a Google Cloud disk."""
    name: Word | None = None
    """Of the disk (GCE) or of the volume (vol-…); `<name>-weights`."""
    snapshot: Word | None = None
    """Name (GCE) or id (snap-…)."""
    size: Size | None = None
    """The weights and a tenth more."""
    throughput_mib: Count = 2400
    """Provisioned, MiB/s, shared by all who read."""
    path: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$|^$")] = ""
    """Of the model below the disk's root."""
    image: Image | None = None
    """With the weights under /; for source image."""


class Hub(Section):
    """The baseline: the engine downloads from the Hub at each start."""

    volume: Literal["auto", "emptyDir", "ephemeral"] = "auto"
    """Where downloads go; auto: ephemeral on Autopilot, whose nodes have little disk."""
    storage_class: Name | None = None
    """Of the ephemeral volume; the cluster's default."""
    size: Size | None = None
    """The weights and a tenth more."""


class Expose(Section):
    """How requests come in from outside the cluster."""

    by: Literal["none", "ingress", "gateway", "inference"] = "none"
    """Ingress, Gateway, or Gateway with an InferencePool."""
    host: (
        Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)+[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
        | None
    ) = None
    """The name that clients ask: llm.example.com."""
    internal: bool = True
    """Only from inside the network."""
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
    """0: none while nobody asks."""
    max: Count | None = None
    """None: server.replicas, no scaling."""
    metric: Literal["num_requests_waiting", "num_requests_running"] = "num_requests_waiting"
    """Of vLLM, that decides."""
    target: Annotated[float, Field(gt=0)] = 4
    """Of each replica."""
    by: Literal["auto", "hpa", "keda"] = "auto"
    """auto: HPA on GKE, KEDA elsewhere and for zero."""
    prometheus: Annotated[str, Field(pattern=r"^https?://[\w.:/-]+$")] | None = None
    """Where KEDA asks."""
    wake_query: str | None = None
    """PromQL above 0 while somebody waits; for min 0: a server that is not there has no metrics."""
    cooldown_s: Count = 600
    """Before the last replica goes."""

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
    """Cheap nodes that may go at any time."""
    on_demand_fallback: bool = True
    """With spot: on-demand nodes when there are no spot ones, where a class or pool of ours can say so."""
    node_class: bool | None = None
    """Make a ComputeClass (GKE) or a NodePool (Karpenter). None: with spot and its fallback."""
    reservation: Name | None = None
    """Nodes that are paid for already: tried first."""
    flex_start: bool = False
    """Google Cloud: nodes that are waited for, for seven days at most; tried last."""
    max_nodes: Count = 4
    """Of the pool."""
    pool: Name | None = None
    """Node pool of the runbook; `gpu-pool`."""
    local_ssds: Annotated[int, Field(ge=0, le=24)] = 0
    """Of each node of the runbook's pool."""
    driver: Literal["latest", "default"] = "latest"
    """Of the GPU; the default one is too old for CUDA 13."""


class Setup(Section):
    """What the runbook makes beside the manifests."""

    create_cluster: bool = True
    """The runbook makes the cluster."""
    create_bucket: bool = True
    """The runbook makes the bucket."""
    rapid_cache: bool = False
    """A zonal cache before the bucket."""
    rapid_cache_ttl: Annotated[str, Field(pattern=r"^[1-7]d$")] = "7d"
    """How long what nobody reads stays in it."""
    hmac: bool = False
    """Keys for Google Cloud Storage by its S3 interface."""
    chat: Literal["none", "cluster", "cloud-run"] = "none"
    """A page to talk to the model; closed to the world."""
    smoke_tokens: Count = 250
    """Of the answer that smoke.sh asks for."""


class KServe(Section):
    """A ClusterStorageContainer with which KServe pulls by penstock."""

    enabled: bool = False
    """It is rendered."""
    prefixes: tuple[Annotated[str, Field(pattern=r"^(hf|gs|s3|az)://")], ...] = ()
    """None: the model's bucket."""
