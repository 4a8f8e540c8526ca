"""Every way Penstock fails, and the exit code of each.

Foreign errors (sockets, SDKs, the Hub client) are mapped to these once, at the edge, with the cause kept.
Retrying asks the type: `Retryable` may be tried again, anything else is final.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final


class PenstockError(Exception):
    """Base of all errors. `str()` names the deed, the object and the values; `hint` says what to do next."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "unexpected"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def as_json(self) -> Mapping[str, Any]:
        """The error as `--json` prints it."""
        out: dict[str, Any] = {"error": self.code, "message": str(self), "exit_code": self.exit_code}
        if self.hint:
            out["hint"] = self.hint
        return out


class UsageError(PenstockError):
    """What was asked for makes no sense: a malformed ref, an option out of bounds, a destination with another model."""

    exit_code = 2
    code = "usage"


class MissingExtra(UsageError):
    """A store needs a library that is not installed."""

    code = "missing_extra"


class Gated(PenstockError):
    """The licence of a gated model has not been accepted by the owner of this token."""

    exit_code = 3
    code = "gated"


class Denied(PenstockError):
    """Not authenticated, or authenticated and not allowed."""

    exit_code = 4
    code = "denied"


class NotFound(PenstockError, FileNotFoundError):
    """No such repository, revision, bucket, object or file."""

    exit_code = 5
    code = "not_found"


class VerificationFailed(PenstockError):
    """Bytes are not what a manifest, the Hub or the store says they are."""

    exit_code = 7
    code = "verification_failed"


class ObjectChanged(VerificationFailed):
    """A source object is no longer the one that was planned."""

    code = "object_changed"


class NoSpace(PenstockError):
    """The destination cannot hold what is to be written."""

    exit_code = 8
    code = "no_space"


class AlreadyExists(PenstockError):
    """A create-only write found an object in its place: another program writes there. Neither the command is wrong,
    which would be 2, nor does trying again help, which would be 9: somebody has to look, and so it is 1.
    """

    code = "already_exists"


class Interrupted(PenstockError):
    """Stopped by a signal; the journal is saved and the same command goes on from there."""

    exit_code = 130
    code = "interrupted"


class Retryable(PenstockError):
    """Trying again may help."""

    exit_code = 9
    code = "unavailable"


class Unavailable(Retryable):
    """Connection refused, reset or timed out; a short body; a 5xx; a wrong Content-Range."""


class TicketExpired(Retryable):
    """The URL or the token in a ticket no longer opens the object; a fresh ticket may."""

    code = "ticket_expired"


class UploadGone(PenstockError):
    """The store no longer knows a multipart upload: completed, aborted or expired. A new one may be begun."""

    exit_code = 9
    code = "upload_gone"


class RateLimited(Retryable):
    """429 or a quota. `retry_after_s`: seconds the service asked to wait, None if it did not say."""

    exit_code = 6
    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


# The table that the documentation is generated from.
EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done",
    1: "unexpected error, another program's writes in the way, or findings where a check looks for them",
    2: "usage: a wrong ref or option, a missing extra, a destination that holds another model",
    3: "gated: the licence is not accepted (the message says where to click)",
    4: "not authenticated, or not allowed",
    5: "not found: repository, revision, bucket, prefix or file",
    6: "rate limit or quota",
    7: "verification failed: bytes are not what they should be",
    8: "no space at the destination",
    9: "unavailable after retries",
    130: "interrupted; the journal is saved, the same command goes on",
}
