"""The settings of one deployment: `penstock.yaml`, flags over it, checked before anything is made of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from penstock.deploy import sections
from penstock.deploy.fields import Section
from penstock.deploy.names import check_bucket, check_name, check_namespace, name_from
from penstock.deploy.yaml_text import read_yaml, write_yaml
from penstock.errors import UsageError
from penstock.ref import Ref, parse_ref

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Platform = Literal["gke-autopilot", "gke-standard", "eks", "kubernetes"]
Delivery = Literal["stream", "fuse", "pvc", "disk", "hub"]
Loader = Literal["penstock", "runai_streamer", "runai_streamer_sharded"]
Kind = Literal["deployment", "lws", "rayservice"]

# What `${…}` in a settings file may name: where things are, never who one is. Others are text that goes wrong later.
VARIABLES: Final = frozenset(
    {"PROJECT_ID", "PROJECT_NUMBER", "REGION", "ZONE", "CLUSTER_NAME", "NAMESPACE", "BUCKET_NAME", "BUCKET_PATH",
     "SERVICE_ACCOUNT", "MODEL_ID", "AWS_ACCOUNT_ID", "AWS_REGION"}
)  # fmt: skip
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


class Settings(Section):
    """One deployment. `model` is where it comes from; `bucket` where servers read it, if that is another place."""

    model: str
    """Where it comes from: hf://org/name, gs://bucket/prefix, s3://…, az://…"""
    bucket: str | None = None
    """Where servers read it; where it comes from, if that is a bucket."""
    name: str
    """Of every object, with a suffix; made from the model's."""
    served_name: Annotated[str, Field(pattern=r"^[\w./:-]+$", max_length=200)]
    """What clients call the model; its name on the Hub."""
    namespace: str = "default"
    """Made, if it is not `default`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """More of them, on everything."""
    platform: Platform = "gke-autopilot"
    """Where the cluster runs."""
    kubernetes: Annotated[
        str, Field(pattern=r"^1\.\d{2}(\.\d+(-gke\.\d+|-eks-\w+)?)?$", coerce_numbers_to_str=True)
    ] = "1.34"
    """Version of the cluster, `1.35` or `1.35.1-gke.1616000`: newer ones can do more."""
    delivery: Delivery = "stream"
    """How weights reach the server."""
    loader: Loader = "penstock"
    """For stream: who reads."""
    kind: Kind = "deployment"
    """What runs the pods."""
    cloud: sections.Cloud = sections.Cloud()
    server: sections.Server = sections.Server()
    images: sections.Images = sections.Images()
    identity: sections.Identity = sections.Identity()
    token: sections.Token = sections.Token()
    transfer: sections.Transfer = sections.Transfer()
    fuse: sections.Fuse = sections.Fuse()
    pvc: sections.Pvc = sections.Pvc()
    disk: sections.Disk = sections.Disk()
    hub: sections.Hub = sections.Hub()
    expose: sections.Expose = sections.Expose()
    scaling: sections.Scaling = sections.Scaling()
    capacity: sections.Capacity = sections.Capacity()
    setup: sections.Setup = sections.Setup()
    kserve: sections.KServe = sections.KServe()

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, name: str) -> str:
        return check_namespace(name)

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        # What Kubernetes and Google Cloud both take: everything that is made carries them.
        for key, value in labels.items():
            if not re.fullmatch(r"[a-z]([-_a-z0-9]{0,61}[a-z0-9])?", key) or not re.fullmatch(
                r"([a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?)?", value
            ):
                raise ValueError(f"label {key}={value}: lower-case letters, digits, '-' and '_', at most 63")
            if key in ("app", "managed-by"):
                raise ValueError(f"label {key} is set by penstock")
        return labels

    @property
    def model_ref(self) -> Ref:
        """Where the model comes from."""
        return parse_ref(self.model)

    @property
    def weights_ref(self) -> Ref:
        """Where servers read it: the bucket if there is one, else where it comes from."""
        return parse_ref(self.bucket or self.model)

    @property
    def copies(self) -> bool:
        """A transfer Job belongs to this deployment."""
        if self.transfer.enabled is not None:
            return self.transfer.enabled and self.bucket is not None
        return self.bucket is not None and self.model_ref != self.weights_ref

    @property
    def server_account(self) -> str:
        """ServiceAccount of the server's pods."""
        return self.identity.service_account or f"{self.name}-server"

    @property
    def copy_account(self) -> str:
        """ServiceAccount of the transfer Job."""
        return self.identity.copy_service_account or f"{self.name}-copy"

    def as_yaml(self) -> str:
        """The settings file that says the same; keys that have their default are left out."""
        return write_yaml([self.model_dump(mode="json", exclude_defaults=True)])


def parse_settings(text: str, *, variables: Mapping[str, str], what: str = "penstock.yaml") -> dict[str, Any]:
    """The mapping in a settings file, with `${NAME}` of VARIABLES replaced. Raises UsageError."""
    found = read_yaml(text, what=what)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{what}: keys and values are wanted, this is a {type(found).__name__}")
    expanded = _expand(found, variables, what)
    assert isinstance(expanded, dict)
    return expanded


def parse_assignment(text: str, *, option: str = "--set") -> dict[str, Any]:
    """`server.gpu=nvidia-l4` as the mapping that a settings file would hold. Raises UsageError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UsageError(f"{option} {text}: write {option} key=value, with dots between a section and its keys")
    parsed: Any = read_yaml(value, what=f"{option} {path}")
    for key in reversed(path.split(".")):
        parsed = {key: parsed}
    assert isinstance(parsed, dict)
    return parsed


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of several, sections merged key by key; later ones win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, dict) and isinstance(value, Mapping)
            merged[key] = merge([below, value]) if both else value  # type: ignore[list-item]
    return merged


def make_settings(values: Mapping[str, Any], *, what: str = "settings") -> Settings:
    """Checked settings. Raises UsageError that names every wrong key, and what was probably meant."""
    filled = dict(values)
    if isinstance(model := filled.get("model"), str):
        ref = parse_ref(model)
        last = (ref.path or ref.place).rstrip("/").rpartition("/")[2]
        filled["name"] = filled.get("name") or name_from(last)
        filled["served_name"] = filled.get("served_name") or (ref.place if ref.scheme == "hf" else last)
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as error:
        raise UsageError(_describe(error, what)) from None
    for ref in (settings.model_ref, settings.weights_ref):
        check_bucket(ref)
    if settings.bucket and settings.weights_ref.scheme not in ("gs", "s3", "az"):
        raise UsageError(f"bucket {settings.bucket} is no bucket", hint="write gs://bucket/prefix, s3://… or az://…")
    return settings


def _expand(value: Any, variables: Mapping[str, str], what: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, variables, what) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, variables, what) for inner in value]
    return (
        _VARIABLE.sub(lambda found: _lookup(found.group(1), variables, what), value)
        if isinstance(value, str)
        else value
    )


def _lookup(name: str, variables: Mapping[str, str], what: str) -> str:
    if name not in VARIABLES:
        raise UsageError(f"{what}: ${{{name}}} may not be used here", hint=f"one of {', '.join(sorted(VARIABLES))}")
    if not variables.get(name):
        raise UsageError(f"{what}: ${{{name}}} is not set", hint=f"export {name}=… or write the value")
    return variables[name]


def _describe(error: ValidationError, what: str) -> str:
    return f"{what}: " + "; ".join(_describe_one(detail) for detail in error.errors(include_url=False))


def _describe_one(detail: ErrorDetails) -> str:
    path = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-"))]
    dotted = ".".join(path) or "the whole"
    if detail["type"] == "extra_forbidden":
        return f"there is no key {dotted}{_suggest(path)}"
    if detail["type"] == "missing":
        return f"{dotted} is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{dotted}: {'i' + message[1:] if message.startswith('Input') else message}"


def _suggest(path: list[str]) -> str:
    """`; did you mean server.gpu?`, from the keys of that section, or from those of all sections."""
    section = _section_at(path[:-1])
    here = {".".join([*path[:-1], key]): key for key in section.model_fields} if section else {}
    close = difflib.get_close_matches(path[-1], here.values(), n=1)
    if close:
        return f"; did you mean {'.'.join([*path[:-1], close[0]])}?"
    everywhere = [
        f"{name}.{key}"
        for name in Settings.model_fields
        if (inner := _section_at([name]))
        for key in inner.model_fields
    ]
    meant = [
        dotted for dotted in everywhere if difflib.get_close_matches(path[-1], [dotted.partition(".")[2]], cutoff=0.8)
    ]
    return (
        f"; did you mean {' or '.join(meant[:2])}?"
        if meant
        else f"; there are {', '.join(sorted(here))}"
        if here
        else ""
    )


def _section_at(path: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Settings
    for key in path:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return None
        section = field.annotation
    return section
