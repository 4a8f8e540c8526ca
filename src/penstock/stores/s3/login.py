"""Credentials, endpoint and region: what the environment and botocore's session know, and the client made of it."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

import botocore.config
import botocore.exceptions as boto_errors
import botocore.session
from botocore import UNSIGNED

from penstock.errors import UsageError
from penstock.ref import Ref
from penstock.stores.network import find_bundle, find_proxies, parse_endpoint
from penstock.stores.s3.errors import READ_TIMEOUT_S, mapped

# A small call to a service that is silent ends within a minute: two tries, up to 1 s apart, of which each waits either
# for eight addresses (as many as Amazon's DNS gives) or for one and an answer: 2 x max(8 x 3.5, 3.5 + 20) + 1 = 57 s.
# Who calls us has patience of its own.
_ATTEMPTS: Final = 2
_CONNECT_TIMEOUT_S: Final = 3.5  # the third SYN leaves after 3 s


class Account:
    """As whom to talk to which service. `ref` says the bucket, and whether as nobody.

    Raises Denied without credentials, UsageError for a profile, an endpoint or a region that makes no sense.
    """

    def __init__(self, ref: Ref, env: Mapping[str, str]) -> None:
        self._ref = ref
        self.env = env
        self._anonymous = ref.anonymous
        with mapped("open", str(ref)):
            self._session = _open_session(env)
            self._endpoint = self._configured_endpoint()
            self._region = self._configured_region()
            self.credentials = None if ref.anonymous else self._session.get_credentials()
            if self.credentials is None and not ref.anonymous:
                raise boto_errors.NoCredentialsError
            self.client = self._open_client()

    @property
    def is_aws(self) -> bool:
        """Whether this is Amazon's own service, whose limits and promises are known."""
        host = urllib.parse.urlsplit(self.client.meta.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def move_to(self, region: str) -> None:
        """Talk to another region from now on."""
        self.client.close()
        self._region = region
        self.client = self._open_client()

    def expires_at(self) -> float | None:
        """When temporary credentials end, unix seconds; None for permanent ones."""
        expiry = getattr(self.credentials, "_expiry_time", None)  # botocore shows it nowhere else
        return None if expiry is None else float(expiry.timestamp())

    def _configured_endpoint(self) -> str | None:
        if self.env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            return None
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if self.env.get(name):
                return parse_endpoint(name, self.env[name], example="https://minio.example.com")
        return None

    def _configured_region(self) -> str:
        named = self.env.get("AWS_REGION") or self.env.get("AWS_DEFAULT_REGION")
        return str(named or self._session.get_config_variable("region") or "us-east-1")

    def _proxies(self) -> dict[str, str]:
        """The proxies of `env`, where botocore would ask the process."""
        endpoint = self._endpoint or f"//{self._ref.place}.s3.{self._region}.amazonaws.com"
        return find_proxies(self.env, urllib.parse.urlsplit(endpoint).hostname or "")

    def _open_client(self) -> Any:
        style = self.env.get("AWS_S3_ADDRESSING_STYLE")
        if style is None and self._endpoint and "s3" not in self._session.get_scoped_config():
            style = "path"  # most compatible servers have no name for each bucket
        config = botocore.config.Config(
            signature_version=UNSIGNED if self._anonymous else "s3v4",
            max_pool_connections=32,
            proxies=self._proxies(),
            s3={"addressing_style": style} if style else None,
            # We say which checksum goes along; compatible servers refuse the ones that botocore would add.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            return self._session.create_client(
                "s3",
                region_name=self._region,
                endpoint_url=self._endpoint,
                verify=find_bundle(self.env, "AWS_CA_BUNDLE"),
                config=config,
            )
        except boto_errors.BotoCoreError:
            raise
        except ValueError as error:  # whose text shows the endpoint, and that may hold a password
            raise UsageError(
                f"cannot open {self._ref}: the endpoint of the profile is not a URL",
                hint="check endpoint_url in ~/.aws/config; write for example https://minio.example.com",
            ) from error


def _patience() -> Any:
    return botocore.config.Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )


def find_credentials(env: Mapping[str, str]) -> Any:
    """Botocore's credentials, without a client. Raises Denied where there are none, UsageError for a wrong profile."""
    with mapped("find credentials for", "s3://"):
        credentials = _open_session(env).get_credentials()
        if credentials is None:
            raise boto_errors.NoCredentialsError
        return credentials


def _open_session(env: Mapping[str, str]) -> Any:
    session = botocore.session.Session(profile=env.get("AWS_PROFILE") or None)
    session.set_default_client_config(_patience())  # for signing in too, where botocore's own is six minutes
    for name, key in (("AWS_CONFIG_FILE", "config_file"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials_file")):
        if env.get(name):
            session.set_config_variable(key, env[name])
    key_id, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:  # win over AWS_PROFILE, as in every AWS tool
        session.set_credentials(key_id, secret, env.get("AWS_SESSION_TOKEN") or None)
    return session
