"""How vLLM is started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import At, Hit, Severity, rule
from penstock.deploy.lint.rules.pods import size_bytes
from penstock.deploy.lint.scene import Container, Scene
from penstock.deploy.lint.shell import Command
from penstock.deploy.lint.tree import Node

# The images ship these users; any other has no entry in /etc/passwd.
_KNOWN_UIDS: Final = (0, 2000)
_REMOVED_FLAGS: Final = {
    "--disable-log-requests": "removed; requests are not logged by default",
    "--worker-use-ray": "removed; --distributed-executor-backend=ray",
    "--use-v2-block-manager": "removed",
    "--num-scheduler-steps": "removed",
    "--guided-decoding-backend": "removed; --structured-outputs-config",
    "--device": "removed; the platform is found",
}
_REMOVED_VARIABLES: Final = {
    "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN, or HF_TOKEN_PATH and a file",
    "TRANSFORMERS_CACHE": "HF_HOME",
    "PYTORCH_TRANSFORMERS_CACHE": "HF_HOME",
    "PYTORCH_PRETRAINED_BERT_CACHE": "HF_HOME",
    "HUGGINGFACE_HUB_CACHE": "HF_HUB_CACHE",
    "HF_HUB_ENABLE_HF_TRANSFER": "HF_XET_HIGH_PERFORMANCE=1",
    "VLLM_USE_V1": "nothing: there is no other engine any more",
}
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*")
_HIGHEST_SHARE: Final = 0.92


@rule(
    "flag-removed",
    Severity.ERROR,
    "vLLM no longer has a flag",
    why="`error: unrecognized arguments`: the container restarts for ever.",
    fix="Take it away, or what replaced it.",
)
def flag_removed(scene: Scene) -> Iterator[Hit]:
    for command in _engine_commands(scene):
        for word in command.words:
            flag = word.text.partition("=")[0].replace("_", "-")
            if flag in _REMOVED_FLAGS:
                yield word, f"{flag} is {_REMOVED_FLAGS[flag]}"


def _engine_commands(scene: Scene) -> Iterator[Command]:
    for each in scene.containers:
        if each.engine == "vllm" and (command := each.engine_command):
            yield command
    for script in scene.scripts:
        for command in script.commands:
            if command.starts("vllm", "serve") or "vllm.entrypoints" in command.text:
                yield command


@rule(
    "variable-removed",
    Severity.WARNING,
    "A variable that is no longer read",
    why="It is ignored in silence: no token, no cache, no faster download.",
    fix="What replaced it.",
)
def variable_removed(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        for name, entry in each.env.items():
            if name in _REMOVED_VARIABLES:
                yield entry.get("name"), f"{name}: instead {_REMOVED_VARIABLES[name]}"
    for key, node in scene.values:
        for name, value in node.pairs if key == "env_vars" else ():
            if name in _REMOVED_VARIABLES:
                yield value, f"{name}: instead {_REMOVED_VARIABLES[name]}"
    for _, command in scene.commands:
        for name, word in command.assignments:
            if name in _REMOVED_VARIABLES:
                yield word, f"{name}: instead {_REMOVED_VARIABLES[name]}"
        for word in command.words if command.name.startswith("pip") else ():
            if word.text.partition("=")[0] in ("hf_transfer", "hf-transfer"):
                yield word, "hf_transfer is not used any more: hf-xet comes with huggingface_hub"


@rule(
    "variable-does-nothing",
    Severity.WARNING,
    "A variable whose name no program can read",
    why="It was meant as a setting of the container, and is none: shared memory stays at 64 MiB.",
    fix="For shared memory a volume: emptyDir with medium Memory and sizeLimit, mounted at /dev/shm.",
)
def variable_does_nothing(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        for name, entry in each.env.items():
            if name.lower().replace("_", "-") == "shm-size" or (name and not _VARIABLE.fullmatch(name)):
                yield entry.get("name"), f"{name} does nothing"


@rule(
    "demo-entrypoint",
    Severity.ERROR,
    "vLLM's demonstration server",
    why="vllm.entrypoints.api_server has no OpenAI API, no /v1/models, no key, and is not for production.",
    fix="vllm serve MODEL.",
)
def demo_entrypoint(scene: Scene) -> Iterator[Hit]:
    for command in _engine_commands(scene):
        for word in command.words:
            if word.text == "vllm.entrypoints.api_server":
                yield word, f"{word.text} is a demonstration"


@rule(
    "max-model-len-missing",
    Severity.WARNING,
    "The longest request is not said",
    why="vLLM takes the model's own: with 128k tokens the cache does not fit, and the server does not start.",
    fix="--max-model-len; `penstock plan` says what fits.",
)
def max_model_len_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if each.engine == "vllm" and each.flag("--max-model-len") is None:
            yield each.at, f"{each.name} serves {_model(each)} without --max-model-len"


def _model(container: Container) -> str:
    return container.model.text if container.model is not None else "a model"


@rule(
    "served-name-missing",
    Severity.WARNING,
    "The model's name in the API is a path or a URI",
    why="Clients must ask for `gs://…` or `/models/…`, and fail when the model moves.",
    fix="--served-model-name=org/name.",
)
def served_name_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        model = each.model
        if model is None or each.flag("--served-model-name") is not None:
            continue
        if "://" in model.text or model.text.startswith("/"):
            yield model, f"the API calls it {model.text.removeprefix('--model=')}"


@rule(
    "remote-code-trusted",
    Severity.WARNING,
    "Code from the model's repository is run",
    why="Whoever may change the repository runs programs in your pod; few models need it.",
    fix="Without --trust-remote-code; where it is needed, pin the commit (--revision) and allow it here.",
)
def remote_code_trusted(scene: Scene) -> Iterator[Hit]:
    for command in _engine_commands(scene):
        for word in command.words:
            if word.text.partition("=")[0].replace("_", "-") == "--trust-remote-code":
                yield word, "--trust-remote-code"


@rule(
    "utilization-high",
    Severity.WARNING,
    "The engine takes nearly all of the GPU's memory",
    why="Graphs and libraries need what is left: CUDA out of memory in graph capture, or under load.",
    fix=f"--gpu-memory-utilization={_HIGHEST_SHARE} at most.",
)
def utilization_high(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        share = each.flag("--gpu-memory-utilization")
        if share is not None and re.fullmatch(r"[01]?\.\d+|1", share.text) and float(share.text) > _HIGHEST_SHARE:
            yield share, f"{each.name} takes {share.text} of it"


@rule(
    "uid-without-name",
    Severity.ERROR,
    "The container runs as a user that its image does not know",
    why="PyTorch asks for the user's name and its home: `KeyError: getpwuid(): uid not found`.",
    fix="runAsUser 2000, which vLLM's images have; or set USER, HOME and TORCHINDUCTOR_CACHE_DIR.",
)
def uid_without_name(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        uid = each.node.get("securityContext", "runAsUser") or each.pod.spec.get("securityContext", "runAsUser")
        missing = sorted({"USER", "HOME", "TORCHINDUCTOR_CACHE_DIR"} - set(each.env))
        if uid.number is not None and uid.number not in _KNOWN_UIDS and missing:
            yield uid, f"{each.name} runs as {uid.text}, without {', '.join(missing)}"


@rule(
    "shm-missing",
    Severity.ERROR,
    "Several GPUs, and 64 MiB of shared memory",
    why="NCCL and vLLM's workers exchange data in /dev/shm: `No space left on device`, or they hang.",
    fix="A volume: emptyDir with medium Memory and sizeLimit 10Gi, mounted at /dev/shm.",
)
def shm_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if each.gpus > 1 and _shm(each) is None and not each.pod.spec.get("hostIPC").is_true:
            yield each.at, f"{each.name} has {each.gpus} GPUs and nothing at /dev/shm"


def _shm(container: Container) -> Node | None:
    """The volume at /dev/shm."""
    for mount in container.mounts:
        if mount.get("mountPath").text.rstrip("/") == "/dev/shm":  # noqa: S108  no file of ours
            name = mount.get("name").text
            return next((volume for volume in container.pod.volumes if volume.get("name").text == name), mount)
    return None


@rule(
    "shm-unlimited",
    Severity.WARNING,
    "Shared memory has no limit",
    why="It counts against the container's memory; without sizeLimit it may take half of the node's.",
    fix="sizeLimit: 2Gi on one GPU, 10Gi on several.",
)
def shm_unlimited(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        volume = _shm(each)
        memory = volume.get("emptyDir") if volume is not None else None
        if memory and memory.get("medium").text == "Memory" and not memory.get("sizeLimit"):
            yield memory, f"{each.name}: no sizeLimit for its shared memory"


@rule(
    "shm-exceeds-memory",
    Severity.ERROR,
    "Shared memory is larger than the container's memory",
    why="It counts against the limit: full, the container is OOMKilled.",
    fix="A larger memory limit, or a smaller sizeLimit.",
)
def shm_exceeds_memory(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        volume, limit = _shm(each), size_bytes(each.wants("limits", "memory"))
        size = volume.get("emptyDir", "sizeLimit") if volume is not None else None
        if size and limit and (size_bytes(size) or 0) >= limit:
            yield size, f"{each.name} has {each.wants('limits', 'memory').text} of memory, {size.text} of it shared"


@rule(
    "port-not-served",
    Severity.ERROR,
    "The server listens on another port than the container says",
    why="Probes and Services ask a port where nobody answers.",
    fix="The same number in --port and containerPort: 8000 for vLLM, 30000 is SGLang's default.",
)
def port_not_served(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        ports = [port.get("containerPort") for port in each.node.get("ports").items]
        flag = each.flag("--port")
        if flag is not None and not flag.text.isdigit():
            continue
        served = flag.text if flag is not None else {"vllm": "8000", "sglang": "30000"}.get(each.engine, "")
        if ports and served and all(port.text != served for port in ports):
            at: At = flag if flag is not None else ports[0]
            yield at, f"{each.name} listens on {served}, its ports are {', '.join(port.text for port in ports)}"


@rule(
    "service-links",
    Severity.NOTE,
    "Services become variables of the server",
    why="A Service called vllm, made by anybody in the namespace, sets VLLM_PORT=tcp://…, at which vLLM stops.",
    fix="enableServiceLinks: false in the pod.",
)
def service_links(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if each.engine == "vllm" and each.pod.spec.get("enableServiceLinks").text != "false":
            yield each.at, f"{each.pod.owner} has service links"


@rule(
    "named-vllm",
    Severity.ERROR,
    "A Service is called vllm",
    why="Every pod of the namespace gets VLLM_PORT=tcp://…, and vLLM reads VLLM_PORT as a number: it crashes.",
    fix="Another name; the model's, for example.",
)
def named_vllm(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Service"):
        if found.name == "vllm":
            yield found.at, "VLLM_PORT will be tcp://…"


@rule(
    "command-and-entrypoint",
    Severity.ERROR,
    "The image's entry point gets a command as its argument",
    why="vllm-openai starts `vllm serve` itself: with `vllm serve` in args it serves a model called vllm.",
    fix="The whole command in `command`, or arguments of `vllm serve` alone in `args`.",
)
def command_and_entrypoint(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        if "vllm-openai" in each.image and not each.node.get("command"):
            for first in each.words[:1]:
                if first.text in ("vllm", "python", "python3", "serve"):
                    yield first, f"{each.name}: the entry point gets {first.text!r}"


@rule(
    "streamer-needs-format",
    Severity.ERROR,
    "A bucket is served without the streamer",
    why="vLLM takes the URI for a name on the Hub: HFValidationError.",
    fix="--load-format=runai_streamer.",
)
def streamer_needs_format(scene: Scene) -> Iterator[Hit]:
    for command in _engine_commands(scene):
        if command.words[:1] and command.words[0].text.endswith("penstock"):
            continue
        format_ = command.flag("--load-format", "--load_format")
        for word in command.words:
            uri = word.text.removeprefix("--model=")
            if uri.startswith(("gs://", "s3://", "az://")) and format_ is None:
                yield word, f"{uri} without --load-format"
