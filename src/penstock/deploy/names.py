"""Names that Kubernetes and buckets accept, and names made from others'."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from penstock.errors import UsageError
from penstock.ref import Ref

# Names of ours get suffixes (`-inference-epp`) and Kubernetes' get more (`-6d9f7c5b4-x2x7k`); labels end at 63.
NAME_LENGTH: Final = 40

_LABEL: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_GCS_BUCKET: Final = re.compile(r"[a-z0-9][-_.a-z0-9]*[a-z0-9]")
_S3_BUCKET: Final = re.compile(r"[a-z0-9][-.a-z0-9]*[a-z0-9]")
_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_name(name: str, what: str = "name") -> str:
    """`name` itself, where Services and all that is named after them may have it. Raises ValueError."""
    if not _LABEL.fullmatch(name):
        raise ValueError(f"{what} {name!r}: lower-case letters, digits and '-', a letter first, no '-' at the end")
    if len(name) > NAME_LENGTH:
        raise ValueError(f"{what} {name!r} has {len(name)} characters, {NAME_LENGTH} at most")
    if name == "vllm":
        # A Service of that name puts VLLM_PORT=tcp://… into every pod of its namespace, and vLLM reads VLLM_PORT.
        raise ValueError(
            f"{what} 'vllm' would give every pod here VLLM_PORT=tcp://…, at which vLLM stops; take another"
        )
    return name


def check_namespace(name: str) -> str:
    """`name` itself. Raises ValueError."""
    if not _NAMESPACE.fullmatch(name) or len(name) > 63:
        raise ValueError(f"namespace {name!r}: at most 63 lower-case letters, digits and '-', none of them at an end")
    return name


def name_from(text: str) -> str:
    """A name for what is called `text` (`Meta-Llama-3.1-8B` → `meta-llama-3-1-8b`). The same text, the same name."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or not name[0].isalpha():
        name = f"model-{name}".rstrip("-")
    return f"{name}-model" if name == "vllm" else shorten(name, NAME_LENGTH)


def shorten(name: str, length: int = 63) -> str:
    """`name`, or what begins as it does and ends with six digits of its digest."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: length - 7].rstrip('-')}-{digest}"


def check_bucket(ref: Ref) -> None:
    """Raises UsageError when no bucket can have this one's name, so that nothing is rendered for it."""
    problem = _gcs_problem(ref.place) if ref.scheme == "gs" else _s3_problem(ref.place) if ref.scheme == "s3" else None
    if problem:
        raise UsageError(f"{ref}: {ref.place!r} is no name for a bucket: {problem}")


def _gcs_problem(name: str) -> str | None:
    """Source: https://cloud.google.com/storage/docs/buckets#naming."""
    if not _GCS_BUCKET.fullmatch(name):
        return "lower-case letters, digits, '-', '_' and '.', a letter or digit at both ends"
    if not 3 <= len(name) <= (222 if "." in name else 63) or any(len(part) > 63 for part in name.split(".")):
        return "3 to 63 characters (222 with dots, 63 between two dots)"
    if name.startswith("goog") or "google" in name or "g00gle" in name:
        return "it may neither begin with 'goog' nor contain 'google'"
    return "it looks like an IP address" if _IPV4.fullmatch(name) else None


def _s3_problem(name: str) -> str | None:
    """Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html."""
    if not _S3_BUCKET.fullmatch(name) or ".." in name:
        return "lower-case letters, digits, '-' and '.', a letter or digit at both ends"
    if not 3 <= len(name) <= 63:
        return "3 to 63 characters"
    if name.startswith(("xn--", "sthree-", "amzn-s3-demo-")) or name.endswith(("-s3alias", "--ol-s3", "--x-s3")):
        return "prefixes xn--, sthree-, amzn-s3-demo- and suffixes -s3alias, --ol-s3, --x-s3 are reserved"
    return "it looks like an IP address" if _IPV4.fullmatch(name) else None
