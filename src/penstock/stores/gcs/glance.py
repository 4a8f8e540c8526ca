"""A look at one object: one HEAD over our own wire, as nobody or as whom the metadata server says a pod is.

For the warm start of a pull: google-auth and requests take 300 ms until the first request leaves, this 40. Other
credentials than the metadata server's, and whatever is out of the ordinary, are left to the store.
Source: cloud.google.com/docs/authentication/get-id-token#metadata-server, cloud.google.com/storage/docs/xml-api.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Mapping
from typing import Final

from penstock.errors import PenstockError
from penstock.ref import Ref
from penstock.stores.client import Client
from penstock.stores.gcs.login import choose_endpoint
from penstock.units import KiB
from penstock.wire.dial import open_dialer

_TOKEN_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105  no secret
_FLAVOR: Final = {"Metadata-Flavor": "Google"}  # of the request, so that no redirect makes it; and of the answer


def glance(ref: Ref, place: Mapping[str, str], env: Mapping[str, str]) -> str | None:
    """The generation of the object that `place` names; None where this is not the way to learn it."""
    client = Client(open_dialer(env), keep_open=False)
    try:
        endpoint, anonymous = choose_endpoint(ref, env)
        headers = {} if anonymous else _ask_who(client, env)
        if headers is None:
            return None
        url = f"{endpoint}/{ref.place}/{urllib.parse.quote(place['object'])}"
        deed = f"cannot stat {ref}"
        answer = client.request("HEAD", url, deed=deed, limit_bytes=0, headers=headers, until=lambda _: True)
    except (PenstockError, KeyError, ValueError):
        return None
    finally:
        client.close()
    return answer.headers.get("x-goog-generation") if answer.status == 200 else None


def _ask_who(client: Client, env: Mapping[str, str]) -> dict[str, str] | None:
    """The header that says who we are, if that is for the metadata server to say: nothing else was given."""
    folder = env.get("CLOUDSDK_CONFIG") or f"{env.get('HOME', '')}/.config/gcloud"
    saved = f"{folder}/application_default_credentials.json"
    if env.get("GOOGLE_APPLICATION_CREDENTIALS") or os.path.exists(saved):  # noqa: PTH110
        return None
    host = env.get("GCE_METADATA_HOST") or "metadata.google.internal"
    deed = "cannot ask the metadata server"
    answer = client.request(
        "GET", f"http://{host}{_TOKEN_PATH}", deed=deed, limit_bytes=64 * KiB, headers=_FLAVOR, until=lambda _: True
    )
    if answer.status != 200 or answer.headers.get("metadata-flavor") != "Google":
        return None
    return {"Authorization": f"Bearer {json.loads(answer.body)['access_token']}"}
