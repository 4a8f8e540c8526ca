"""What the Hub's refusals mean, and what to do about each. Source: huggingface_hub 2.4, `hf_raise_for_status`."""

from __future__ import annotations

import contextlib
import json
from typing import Final

from penstock.errors import Denied, Gated, NotFound, PenstockError, RateLimited, Unavailable
from penstock.ref import Ref
from penstock.stores.client import Answer
from penstock.stores.hub.login import Login
from penstock.stores.network import host_of
from penstock.wire.answers import retry_after_s

_BAD_CREDENTIALS: Final = "Invalid credentials in Authorization header"
_DISABLED: Final = "Access to this resource is disabled."


class Refusals:
    """Errors for answers about one model."""

    def __init__(self, ref: Ref, endpoint: str, login: Login) -> None:
        self._ref = ref
        self._endpoint = endpoint
        self._login = login
        self._page = f"{endpoint}/{ref.place}"

    def of(self, answer: Answer, *, name: str = "", gated: str | None = None) -> PenstockError:
        """The error for an answer outside 2xx about `name`. `gated`: how access to the model is given, if known."""
        name = name or str(self._ref)
        code = answer.headers.get("x-error-code", "")
        said = _said(answer)
        status = answer.status
        if status == 429:
            return self._rate_limited(answer, name)
        if status in (408, 416) or status >= 500:
            return Unavailable(f"{name}: the Hub answered {status}{f': {said}' if said else ''}")
        if code == "GatedRepo":
            return self._gated(name, gated)
        if code == "RevisionNotFound":
            revision = self._ref.revision or "main"
            return NotFound(
                f"{name}: {self._ref.place} has no revision {revision!r}",
                hint=f"branches and tags: {self._page}/tree/main",
            )
        if code == "EntryNotFound":
            return NotFound(f"{name}: no such file")
        if _DISABLED in said:
            return Denied(f"{name}: the Hub has disabled access to this model", hint=f"see {self._page}")
        if status == 401 and _BAD_CREDENTIALS in said:
            return Denied(
                f"{name}: the Hub does not accept the token from {self._login.source or 'this machine'}",
                hint=f"make a new one at {self._endpoint}/settings/tokens; public models need none",
            )
        if code == "RepoNotFound" or status == 401 or (status == 404 and not code):
            return self._missing(name)
        if status == 403:
            return Denied(f"{name}: the Hub answered 403: {said or 'forbidden'}", hint="check what the token may do")
        return PenstockError(f"{name}: the Hub answered {status}{f': {said}' if said else ''}")

    def not_a_hub(self, what: str) -> Unavailable:
        """The error for an answer that no Hub gives; `what` it does."""
        return Unavailable(
            f"{self._ref}: {host_of(self._endpoint)} {what}: a proxy, a login page or something else that is no Hub",
            hint=f"check HF_ENDPOINT ({self._endpoint}), the proxy, and whether this network asks to log in first",
        )

    def _rate_limited(self, answer: Answer, name: str) -> RateLimited:
        wait_s = retry_after_s(answer.headers)
        advice = "more requests are allowed with HF_TOKEN set" if not self._login.token else "other programs share it"
        return RateLimited(
            f"{name}: the Hub's request quota is used up"
            + (f"; it is renewed in {wait_s:.0f} s" if wait_s is not None else ""),
            retry_after_s=wait_s,
            hint=f"wait and run it again; {advice}",
        )

    def _gated(self, name: str, gated: str | None) -> Gated:
        approval = "; its authors approve by hand, which may take days" if gated == "manual" else ""
        if not self._login.token:
            return Gated(
                f"{name} is gated, and no token is set",
                hint=f"accept its licence at {self._page} while logged in{approval}, then set HF_TOKEN",
            )
        return Gated(
            f"{name} is gated, and the account of the token from {self._login.source} has no access to it",
            hint=f"accept its licence at {self._page} with that account{approval}; a fine-grained token also needs "
            "the permission to read public gated repositories",
        )

    def _missing(self, name: str) -> NotFound:
        if not self._login.token:
            hint = f"check the spelling at {self._page}; if it is private or gated, set HF_TOKEN"
        else:
            hint = f"check the spelling at {self._page}, and whether the token from {self._login.source} may see it"
        return NotFound(f"{name}: no such model, or a private one", hint=hint)


def _said(answer: Answer) -> str:
    """The Hub's own words for a refusal, fit to print; empty if it has none."""
    words: object = answer.headers.get("x-error-message")
    if not words:
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(answer.body)
            words = body.get("error") if isinstance(body, dict) else None
    return "".join(c for c in words if c.isprintable())[:300] if isinstance(words, str) else ""
