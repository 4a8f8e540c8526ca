"""A look at one object whose address is known: one HEAD over our own wire, signed with the keys of the environment.

For the warm start of a pull: botocore takes 300 ms until its first request leaves, this 40. It needs no botocore where
the environment holds the keys or nobody signs; else botocore finds the keys, and only that. Whatever is out of the
ordinary is left to the store, which asks again and says what is wrong.
Source: docs.aws.amazon.com/AmazonS3 sig-v4-header-based-auth.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import time
import urllib.parse
from collections.abc import Mapping
from typing import Final

from penstock.errors import PenstockError
from penstock.ref import Ref
from penstock.stores.client import Client
from penstock.wire.dial import open_dialer

_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
# Of the variables that AWS tools read: those that say who asks. All others may decide where requests go.
_WHO: Final = ("KEY", "TOKEN", "CREDENTIAL", "ROLE")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What signs a request."""

    key_id: str
    secret: str = dataclasses.field(repr=False)
    token: str | None = dataclasses.field(default=None, repr=False)


def remember(url: str, region: str, env: Mapping[str, str]) -> dict[str, str]:
    """What `glance` needs of an object that was reached at `url` in `env`."""
    return {"url": url, "region": region, "env": _fingerprint(env)}


def glance(ref: Ref, place: Mapping[str, str], env: Mapping[str, str]) -> str | None:
    """The version of the object that `remember` was told of; None where this is not the way to learn it."""
    if place.get("env") != _fingerprint(env) or "url" not in place:
        return None
    url, region = place["url"], place.get("region", "")
    client = Client(open_dialer(env), keep_open=False)
    try:
        keys = None if ref.anonymous else _find_keys(env)
        headers = sign_head(url, region, keys, now_s=time.time()) if keys else {}
        answer = client.request(
            "HEAD", url, deed=f"cannot stat {ref}", limit_bytes=0, headers=headers, until=lambda _: True
        )
    except PenstockError:
        return None
    finally:
        client.close()
    etag = answer.headers.get("etag", "")
    return '"' + etag.strip('"') + '"' if answer.status == 200 and etag else None


def _fingerprint(env: Mapping[str, str]) -> str:
    config = env.get("AWS_CONFIG_FILE") or f"{env.get('HOME', '')}/.aws/config"
    try:
        status = os.stat(config)  # noqa: PTH116  one call on the warm path
        seen = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        seen = "none"
    deciding = {
        name: value for name, value in env.items() if name.startswith("AWS_") and not any(word in name for word in _WHO)
    }
    text = "\n".join([*(f"{name}={value}" for name, value in sorted(deciding.items())), seen])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _find_keys(env: Mapping[str, str]) -> Keys:
    """The environment's, else those that botocore's chain finds. Raises Denied."""
    key_id, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:
        return Keys(key_id=key_id, secret=secret, token=env.get("AWS_SESSION_TOKEN") or None)
    from penstock.stores.s3.login import find_credentials

    found = find_credentials(env).get_frozen_credentials()
    return Keys(key_id=found.access_key, secret=found.secret_key, token=found.token)


def sign_head(url: str, region: str, keys: Keys, *, now_s: float) -> dict[str, str]:
    """The headers that make a HEAD of `url`, whose path is quoted already, one of the owner of `keys`."""
    parts = urllib.parse.urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    signed = {"host": parts.netloc, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": stamp}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"HEAD\n{parts.path}\n\n{lines}\n{names}\n{_UNSIGNED}"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret}".encode()
    for step in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    del signed["host"]
    return signed | {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={keys.key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    }
