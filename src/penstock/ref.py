"""Refs: the address of a model or of a prefix, parsed once; and the names of files inside one.

| spelling | means |
|---|---|
| `hf://org/name`, `hf://org/name@rev`, `hf://org/name:rev` (KServe), `org/name` | a model on the Hub |
| `gs://bucket/prefix`, `gs://anonymous@bucket/prefix` | Google Cloud Storage |
| `s3://bucket/prefix`, `s3://anonymous@bucket/prefix` | S3 and compatibles |
| `az://container/prefix`, `az://container@account/prefix` | Azure Blob Storage |
| `abfss://container@account.dfs.core.windows.net/path`, `azure://container@account.blob.…` | the same, for Ray |
| `https://host/path` | plain HTTP, read only |
| `file:///path`, `/path`, `./path`, `~/path` | a local directory |
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable
from typing import Final, Literal

from penstock.errors import UsageError

Scheme = Literal["hf", "gs", "s3", "az", "https", "http", "file"]

EXAMPLES: Final = (
    "hf://org/name@revision, gs://bucket/prefix, s3://bucket/prefix, az://container/prefix, "
    "https://host/path or /a/folder"
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}", re.ASCII)  # GCS allows 222 with dots, S3 63
_CONTAINER = re.compile(r"(\$root|\$web|[a-z0-9](-?[a-z0-9]){2,62})", re.ASCII)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_AZURE_HOST = re.compile(r"([a-z0-9]{3,24})\.(dfs|blob)\.core\.[a-z.]+", re.ASCII)
# Query keys that may be printed; any other value is a secret until proven otherwise.
_PRINTABLE_QUERY: Final = frozenset(
    {"versionId", "generation", "partNumber", "uploads", "comp", "restype", "prefix", "alt"}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """One place. `str()` is the canonical spelling and holds no secret.

    `place`: `org/name`, bucket, container or host; empty for files. `path`: the prefix without slashes at its ends;
    for files an absolute path, or one relative to the working directory as it was written.
    """

    scheme: Scheme
    place: str
    path: str = ""
    revision: str | None = None
    account: str | None = None
    anonymous: bool = False
    query: str = dataclasses.field(default="", repr=False)

    def __str__(self) -> str:
        if self.scheme == "file":
            return self.path
        place = self.place
        if self.anonymous:
            place = f"anonymous@{place}"
        if self.account:
            place = f"{place}@{self.account}"
        text = f"{self.scheme}://{place}"
        if self.path:
            text += f"/{self.path}"
        if self.revision:
            text += f"@{self.revision}"
        return text + (f"?{_redact_query(self.query)}" if self.query else "")

    def under(self, path: str) -> Ref:
        """The place `path` (no slashes at its ends) below this one."""
        return dataclasses.replace(self, path=f"{self.path.rstrip('/')}/{path}" if self.path else path)


def parse_ref(text: str, *, destination: bool = False, is_folder: Callable[[str], bool] = lambda _: False) -> Ref:
    """The place that `text` names.

    A bare `org/name` is a model on the Hub unless `is_folder` says that such a folder exists; as a destination a bare
    word is always a local path. Raises UsageError, with an example of a right spelling, for anything else.
    """
    if not text or text != text.strip() or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise UsageError(f"{text!r} is not a ref", hint=f"write one of {EXAMPLES}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _parse_bare(text, destination=destination, is_folder=is_folder)
    scheme = scheme.lower().removeprefix("pyarrow-")
    if scheme in ("gs", "s3"):
        return _parse_bucket("gs" if scheme == "gs" else "s3", rest, text)
    if scheme in ("az", "abfs", "abfss", "azure"):
        return _parse_azure(rest, text)
    if scheme == "hf":
        return _parse_hub(rest, text)
    if scheme in ("http", "https"):
        return _parse_http(text)
    if scheme == "file":
        return _parse_file(rest, text)
    raise UsageError(f"{text}: unknown scheme {scheme!r}", hint=f"write one of {EXAMPLES}")


def _parse_bare(text: str, *, destination: bool, is_folder: Callable[[str], bool]) -> Ref:
    if destination or text.startswith(("/", "./", "../", "~")) or text in (".", "..") or is_folder(text):
        return Ref(scheme="file", place="", path=text.rstrip("/") or "/")
    if _HUB_NAME.fullmatch(re.split("[@:]", text, maxsplit=1)[0]) and "/" in text:
        return _parse_hub(text, text)
    raise UsageError(
        f"{text}: neither a folder here nor a ref",
        hint=f"a folder: ./{text}; a model on the Hub: hf://org/name; else {EXAMPLES}",
    )


def _parse_hub(rest: str, text: str) -> Ref:
    name, _, revision = rest.partition("@") if "@" in rest else rest.partition(":")
    name = name.rstrip("/")
    if not _HUB_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            f"{text}: {name!r} is not a repository name",
            hint="write hf://org/name or hf://org/name@revision; choose files with --include",
        )
    if ("@" in rest or ":" in rest) and not revision:
        raise UsageError(f"{text}: the revision is empty", hint=f"write hf://{name}@main or leave the @ out")
    return Ref(scheme="hf", place=name, revision=revision or None)


def _parse_bucket(scheme: Literal["gs", "s3"], rest: str, text: str) -> Ref:
    place, _, path = rest.partition("/")
    user, at, bucket = place.rpartition("@")
    if at and user != "anonymous":
        raise UsageError(
            f"{scheme}://***@{bucket}: only 'anonymous' may stand before the @",
            hint="credentials come from the environment",
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{text}: {bucket!r} is not a bucket name", hint=f"write {scheme}://bucket/prefix")
    return Ref(scheme=scheme, place=bucket, path=_prefix(path, text), anonymous=bool(at))


def _parse_azure(rest: str, text: str) -> Ref:
    place, _, path = rest.partition("/")
    container, _, account = place.partition("@")
    if host := _AZURE_HOST.fullmatch(account):
        account = host.group(1)
    if not _CONTAINER.fullmatch(container) or (account and not _ACCOUNT.fullmatch(account)):
        raise UsageError(
            f"{text}: not a container and account",
            hint="write az://container/prefix (account from AZURE_STORAGE_ACCOUNT_NAME) or az://container@account/prefix",
        )
    return Ref(scheme="az", place=container, path=_prefix(path, text), account=account or None)


def _parse_http(text: str) -> Ref:
    try:
        parts = urllib.parse.urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{redact_url(text)}: {error}", hint="write https://host/path") from None
    if not host:
        raise UsageError(f"{redact_url(text)}: no host", hint="write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{parts.scheme}://***@{host}: credentials in a URL are not read", hint="leave them out of the URL"
        )
    scheme: Scheme = "https" if parts.scheme.lower() == "https" else "http"
    return Ref(scheme=scheme, place=parts.netloc, path=parts.path.strip("/"), query=parts.query)


def _parse_file(rest: str, text: str) -> Ref:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"{text}: a file URL needs an absolute path", hint="write file:///a/folder")
    return Ref(scheme="file", place="", path="/" + urllib.parse.unquote(path).rstrip("/"))


def _prefix(path: str, text: str) -> str:
    path = path.strip("/")
    if path:
        for part in path.split("/"):
            if part in ("", ".", ".."):
                raise UsageError(
                    f"{text}: the prefix holds {part!r} between slashes", hint="write bucket/prefix/of/names"
                )
    return path


# What object stores and file systems take at most. Sources: S3 and GCS 1,024 bytes a key, Linux 255 bytes a name.
_MAX_NAME_BYTES: Final = 255
_MAX_KEY_BYTES: Final = 900
OWN_FOLDER: Final = ".penstock"


def check_file_name(name: str) -> str:
    """`name` itself if a file of a model may be called so at every destination; names from outside pass through here.

    Relative, `/` between parts, no `.`, `..`, empty part, backslash, control character or lone surrogate; parts up to
    255 bytes, all up to 900; nothing in `.penstock/`. Spaces, `%`, `+`, `#`, emoji are names like any other.
    Raises UsageError naming it.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"file name {name!a} is not valid Unicode; refused") from None
    parts = name.split("/")
    bad = (
        not name
        or any(part in ("", ".", "..") or len(part.encode()) > _MAX_NAME_BYTES for part in parts)
        or "\\" in name
        or any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name)
        or len(encoded) > _MAX_KEY_BYTES
        or parts[0] == OWN_FOLDER
    )
    if bad:
        raise UsageError(f"file name {name!a} cannot be stored safely; refused", hint="leave it out with --exclude")
    return name


def _redact_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{key}{eq}{value if key in _PRINTABLE_QUERY or not value else '***'}" for key, eq, value in pairs)


def redact_url(url: str) -> str:
    """`url` as it may be printed: no userinfo, and of the query only values known to be no secret."""
    head, mark, query = url.partition("?")
    scheme, separator, rest = head.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        head = f"{scheme}://***@{rest.split('@', 1)[1]}"
    return head + mark + (_redact_query(query) if mark else "")
