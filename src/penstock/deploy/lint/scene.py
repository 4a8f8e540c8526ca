"""Everything that was read, as rules ask for it: objects, pods, containers, scripts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from penstock.deploy.catalog import Catalog
from penstock.deploy.lint.registry import At
from penstock.deploy.lint.shell import Command, Script, Word, parse_script
from penstock.deploy.lint.tree import Node

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

GPU = "nvidia.com/gpu"
# Classes of nodes that only Autopilot has.
_AUTOPILOT = frozenset({"autopilot", "accelerator", "performance", "scale-out", "balanced"})
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh"})
_ENGINES = {"vllm": "vllm", "vllm.entrypoints.openai.api_server": "vllm", "vllm.entrypoints.api_server": "vllm"}
_ENGINES |= {"sglang.launch_server": "sglang", "sglang": "sglang"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One object of Kubernetes. `expanded`: a shell replaces variables in it before Kubernetes reads it."""

    node: Node
    expanded: bool = False

    @property
    def kind(self) -> str:
        """Deployment, …"""
        return self.node.get("kind").text

    @property
    def api(self) -> str:
        """apps/v1, …"""
        return self.node.get("apiVersion").text

    @property
    def name(self) -> str:
        """Empty where it has none."""
        return self.node.get("metadata", "name").text

    @property
    def namespace(self) -> str:
        """Empty where it is not said."""
        return self.node.get("metadata", "namespace").text

    @property
    def at(self) -> Node:
        """Where it is named."""
        return self.node.get("metadata", "name") or self.node.get("kind") or self.node

    @property
    def spec(self) -> Node:
        """Its spec."""
        return self.node.get("spec")

    @property
    def annotations(self) -> Node:
        """Its annotations."""
        return self.node.get("metadata", "annotations")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def sees(self, other: Object) -> bool:
        """Both may be in one namespace."""
        return not self.namespace or not other.namespace or self.namespace == other.namespace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Container:
    """One container of a pod. `first`: it runs and ends before the others."""

    node: Node
    pod: Pod
    first: bool

    @property
    def name(self) -> str:
        """Empty where it has none."""
        return self.node.get("name").text

    @property
    def at(self) -> Node:
        """Where it is named."""
        return self.node.get("name") or self.node

    @property
    def image(self) -> str:
        """As it is written."""
        return self.node.get("image").text

    @functools.cached_property
    def words(self) -> tuple[Word, ...]:
        """Command and arguments."""
        nodes = (*self.node.get("command").items, *self.node.get("args").items)
        return tuple(Word(node.file, node.line, node.text, node.text) for node in nodes)

    @functools.cached_property
    def script(self) -> Script | None:
        """What it gives to `sh -c`."""
        nodes = [*self.node.get("command").items, *self.node.get("args").items]
        texts = [node.text for node in nodes]
        if not texts or texts[0].rpartition("/")[2] not in _SHELLS:
            return None
        flag = next((i for i, text in enumerate(texts) if text.startswith("-") and text.endswith("c")), None)
        if flag is None or flag + 1 >= len(nodes):
            return None
        node = nodes[flag + 1]
        shell = texts[0].rpartition("/")[2]
        options = "set -e\n" if "e" in texts[flag] else ""  # bash -ec
        script = parse_script(node.file, node.text, line=node.start or node.line, shell=shell, inside=True)
        return dataclasses.replace(script, text=options + script.text) if options else script

    @functools.cached_property
    def engine_command(self) -> Command | None:
        """The command that starts vLLM or SGLang: its own, or one in its script."""
        own = Command(self.node.file, self.node.get("command").line, self.words)
        for command in (own, *(self.script.commands if self.script else ())):
            if engine_of(command):
                return command
        # Arguments alone go to the entry point of the image.
        bare = not self.node.get("command") and any(word.text.startswith("--model") for word in self.words)
        if bare or (not self.node.get("command") and "vllm-openai" in self.image):
            return own
        return None

    @functools.cached_property
    def engine(self) -> str:
        """vllm, sglang, or nothing."""
        command = self.engine_command
        if command is None:
            return ""
        return engine_of(command) or ("sglang" if "sglang" in self.image else "vllm")

    def flag(self, *names: str) -> Word | None:
        """The value of an engine's flag, in any spelling; None where it is not given."""
        command = self.engine_command
        spellings = [name.replace("-", "_").replace("__", "--", 1) for name in names]
        return command.flag(*names, *spellings) if command else None

    @property
    def model(self) -> Word | None:
        """What the engine serves."""
        command = self.engine_command
        if command is None:
            return None
        found = command.flag("--model", "--model-path")
        if found is None and "serve" in (texts := [word.text for word in command.positionals]):
            index = texts.index("serve")
            found = command.positionals[index + 1] if index + 1 < len(texts) else None
        if found is None and command.words and not self.node.get("command") and "vllm-openai" in self.image:
            first = command.words[0]  # the entry point is `vllm serve`
            found = first if not first.text.startswith("-") else None
        return found

    @property
    def env(self) -> dict[str, Node]:
        """Variables by name, each the whole entry."""
        return {entry.get("name").text: entry for entry in self.node.get("env").items}

    @property
    def mounts(self) -> tuple[Node, ...]:
        """Where volumes are seen."""
        return self.node.get("volumeMounts").items

    def wants(self, what: str, resource: str) -> Node:
        """A request or limit."""
        return self.node.get("resources", what, resource)

    @property
    def gpus(self) -> int:
        """That it asks for."""
        return self.wants("limits", GPU).number or self.wants("requests", GPU).number or 0

    @property
    def serves(self) -> bool:
        """It answers requests: an engine that is not only one of several workers."""
        return bool(self.engine) and not self.first and self.flag("--headless") is None


def folder_of(name: str) -> str:
    """The folder of a file."""
    return name.rpartition("/")[0]


def engine_of(command: Command) -> str:
    """Vllm or sglang, where a command starts one."""
    texts = [word.text for word in command.words[:6]]
    names = [text.rpartition("/")[2] for text in texts]
    if names[:2] == ["vllm", "serve"] or names[:2] == ["penstock", "serve"]:
        return "vllm"
    return next((_ENGINES[text] for text in texts[1:] if "." in text and text in _ENGINES), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod, or a template of pods. `owner`: the object it stands in."""

    owner: Object
    metadata: Node
    spec: Node
    parent: Node

    @functools.cached_property
    def labels(self) -> dict[str, str]:
        """Those of the template."""
        return self.metadata.get("labels").texts

    @property
    def annotations(self) -> Node:
        """Those of the template."""
        return self.metadata.get("annotations")

    @functools.cached_property
    def containers(self) -> tuple[Container, ...]:
        """All of them, those that run first included."""
        return tuple(
            Container(node=node, pod=self, first=key == "initContainers")
            for key in ("initContainers", "containers")
            for node in self.spec.get(key).items
            if node.pairs
        )

    @property
    def volumes(self) -> tuple[Node, ...]:
        """Its volumes."""
        return self.spec.get("volumes").items

    @property
    def selector(self) -> Node:
        """Which nodes it may be on."""
        return self.spec.get("nodeSelector")

    @property
    def gpus(self) -> int:
        """Of all containers."""
        return sum(each.gpus for each in self.containers)

    @property
    def server(self) -> Container | None:
        """The container that serves a model."""
        return next((each for each in self.containers if each.serves), None)

    @property
    def tolerates(self) -> list[Node]:
        """Its tolerations."""
        return list(self.spec.get("tolerations").items)

    def mounted(self, volume: str) -> list[tuple[Container, Node]]:
        """(container, mount) of every mount of a volume."""
        return [(each, mount) for each in self.containers for mount in each.mounts if mount.get("name").text == volume]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """What was read. `whole`: nothing of it was unreadable, so that what is not there is missing.

    `platform`: where it goes, as somebody said; `platforms`: as the files of a folder say.
    """

    documents: tuple[tuple[Node, bool], ...]
    scripts: tuple[Script, ...]
    catalog: Catalog
    platform: str | None = None
    platforms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: bool = True
    troubles: tuple[tuple[str, At, str], ...] = ()

    @functools.cached_property
    def objects(self) -> tuple[Object, ...]:
        """All objects, those in lists included."""
        found: list[Object] = []
        for document, expanded in self.documents:
            inside = document.get("items").items if document.get("kind").text.endswith("List") else ()
            found += [Object(node=node, expanded=expanded) for node in inside or (document,) if node.get("kind")]
        return tuple(found)

    @functools.cached_property
    def values(self) -> tuple[tuple[str, Node], ...]:
        """(key, value) of everything in all documents."""
        return tuple(pair for document, _ in self.documents for pair in document.walk())

    @functools.cached_property
    def pods(self) -> tuple[Pod, ...]:
        """Every pod and template of one, wherever it stands."""
        return tuple(pod for each in self.objects for pod in _pods_in(each))

    @functools.cached_property
    def containers(self) -> tuple[Container, ...]:
        """Of all pods."""
        return tuple(container for pod in self.pods for container in pod.containers)

    @functools.cached_property
    def servers(self) -> tuple[Container, ...]:
        """Containers in which an engine answers requests."""
        return tuple(container for container in self.containers if container.serves)

    @functools.cached_property
    def all_scripts(self) -> tuple[Script, ...]:
        """Files, and what containers give to a shell."""
        return (*self.scripts, *(script for each in self.containers if (script := each.script)))

    @functools.cached_property
    def commands(self) -> tuple[tuple[Script, Command], ...]:
        """Of all scripts."""
        return tuple((script, command) for script in self.all_scripts for command in script.commands)

    def platform_of(self, pod: Pod) -> str | None:
        """Where a pod goes: as somebody said, as it says itself, or as a file beside it says."""
        if self.platform is not None:
            return self.platform
        compute_class = pod.selector.get("cloud.google.com/compute-class").text.lower()
        if pod.selector.get("cloud.google.com/gke-accelerator-count") or compute_class in _AUTOPILOT:
            return "gke-autopilot"
        return self.platforms.get(folder_of(pod.spec.file))

    def of(self, *kinds: str) -> Iterator[Object]:
        """Objects of these kinds."""
        return (each for kind in kinds for each in self._by_kind.get(kind, ()))

    def find(self, kind: str, name: str, seen_from: Object) -> Object | None:
        """The object of a name in the same namespace, or of the cluster."""
        return next((each for each in self._named.get((kind, name), ()) if each.sees(seen_from)), None)

    def labelled(self, labels: Mapping[str, str], seen_from: Object) -> list[Pod]:
        """Pods that have all of these labels, in the same namespace."""
        if not labels:
            return [pod for pod in self.pods if seen_from.sees(pod.owner)]
        rarest = min((self._labelled.get(pair, []) for pair in labels.items()), key=len)
        return [pod for pod in rarest if seen_from.sees(pod.owner) and labels.items() <= pod.labels.items()]

    @functools.cached_property
    def _by_kind(self) -> Mapping[str, list[Object]]:
        return _grouped((each.kind, each) for each in self.objects)

    @functools.cached_property
    def _named(self) -> Mapping[tuple[str, str], list[Object]]:
        return _grouped(((each.kind, each.name), each) for each in self.objects)

    @functools.cached_property
    def _labelled(self) -> Mapping[tuple[str, str], list[Pod]]:
        return _grouped((pair, pod) for pod in self.pods for pair in pod.labels.items())


def _grouped(pairs: Iterable[tuple[_K, _V]]) -> dict[_K, list[_V]]:
    found: dict[_K, list[_V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _pods_in(owner: Object) -> Iterator[Pod]:
    waiting = [owner.node]
    while waiting:
        node = waiting.pop()
        spec = node.get("spec")
        if spec.get("containers").items:
            yield Pod(owner=owner, metadata=node.get("metadata"), spec=spec, parent=node)
            continue
        waiting += [below for _, below in reversed(node.pairs)]
        waiting += reversed(node.items)
