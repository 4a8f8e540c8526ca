"""Which Hub, and as whom: what the environment and a saved login say."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.errors import Denied, UsageError
from penstock.stores.network import is_private, parse_endpoint

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_IN_THE_CLEAR: Final = "PENSTOCK_HF_TOKEN_OVER_HTTP"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A token and where it was found. None is sent without one."""

    token: str | None = dataclasses.field(default=None, repr=False)
    source: str = ""


def choose_endpoint(env: Mapping[str, str]) -> str:
    """The Hub's or a mirror's URL, no slash at its end. Raises UsageError for what is none."""
    return parse_endpoint("HF_ENDPOINT", env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, example=DEFAULT_ENDPOINT)


def is_offline(env: Mapping[str, str]) -> bool:
    """Whether the environment forbids to ask the Hub."""
    return _is_true(env.get("HF_HUB_OFFLINE")) or _is_true(env.get("TRANSFORMERS_OFFLINE"))


def find_login(env: Mapping[str, str]) -> Login:
    """The token of the environment, else the one that `hf auth login` saved.

    Raises Denied for an unusable one, UsageError where it would travel to another machine without TLS.
    """
    login, endpoint = _find_token(env), choose_endpoint(env)
    if login.token and not is_private(endpoint) and not _is_true(env.get(_IN_THE_CLEAR)):
        raise UsageError(
            f"HF_ENDPOINT is {endpoint}, plain http: the token of {login.source} is not sent in the clear",
            hint=f"write https://, or set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 and no HF_TOKEN to ask as nobody, "
            f"or {_IN_THE_CLEAR}=1 where everybody on the network may know the token",
        )
    return login


def _find_token(env: Mapping[str, str]) -> Login:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := env.get(name, "").strip():
            return _check_token(Login(token=token, source=name))
    path = _token_path(env)
    if path is None or _is_true(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return Login()
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises where HOME may not be entered, as in many pods
        return Login()
    return _check_token(Login(token=_read_saved_token(path), source=str(path)))


def _token_path(env: Mapping[str, str]) -> Path | None:
    """Where a login is saved. Source: huggingface_hub, `constants.py`."""
    if path := env.get("HF_TOKEN_PATH"):
        return Path(path)
    if home := env.get("HF_HOME"):
        return Path(home) / "token"
    if cache := env.get("XDG_CACHE_HOME"):
        return Path(cache) / "huggingface" / "token"
    return Path(env["HOME"]) / ".cache" / "huggingface" / "token" if env.get("HOME") else None


def _read_saved_token(path: Path) -> str | None:
    from huggingface_hub import constants, get_token

    if str(path) == constants.HF_TOKEN_PATH and not any(
        os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    ):
        return get_token()  # renews a login that was made in the browser
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise Denied(f"the login in {path} cannot be read: {error}", hint="run `hf auth login` again") from error


def _check_token(login: Login) -> Login:
    if login.token and not re.fullmatch(r"[\x21-\x7e]+", login.token):
        raise Denied(
            f"the token in {login.source} holds characters that no token has",
            hint="paste it again; a token reads hf_ and then letters and digits",
        )
    return login


def _is_true(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")
