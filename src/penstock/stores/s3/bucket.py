"""One bucket as botocore and presigned URLs reach it: its region and address, found once; calls; signatures."""

from __future__ import annotations

import dataclasses
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final

import botocore.exceptions as boto_errors
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from penstock.stores.s3.errors import status_of
from penstock.stores.s3.glance import remember
from penstock.stores.s3.login import Account
from penstock.wire.single_flight import SingleFlight

_TICKET_S: Final = 3600  # guess: longer than most files take; a fresh one costs no request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """Where the bucket answers. `url`: no slash at its end."""

    url: str
    region: str
    service: str


class Bucket:
    """Raises what botocore raises; who calls maps it, with the deed and the object."""

    def __init__(self, name: str, account: Account) -> None:
        self.name = name
        self._account = account
        self._address: SingleFlight[_Address] = SingleFlight()

    @property
    def is_aws(self) -> bool:
        """Whether this is Amazon's own service."""
        return self._account.is_aws

    @property
    def endpoint(self) -> str:
        """The URL of the service."""
        return str(self._account.client.meta.endpoint_url)

    def call(self, operation: str, **arguments: Any) -> Any:
        """Botocore's answer to one call about this bucket."""
        self._settled()
        return getattr(self._account.client, operation)(Bucket=self.name, **arguments)

    def pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        """Botocore's answers to a call that comes in pages."""
        self._settled()
        yield from self._account.client.get_paginator(operation).paginate(Bucket=self.name, **arguments)

    def sign(
        self,
        method: str,
        full_key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[str, float | None]:
        """A URL that does `method` on an object with `headers`, and when it ends (unix seconds)."""
        address = self._settled()
        url = f"{address.url}/{urllib.parse.quote(full_key)}"
        if query:
            url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        if self._account.credentials is None:
            return url, None
        credentials = self._account.credentials.get_frozen_credentials()
        request = AWSRequest(method=method, url=url, headers=dict(headers or {}))
        now = time.time()
        S3SigV4QueryAuth(credentials, address.service, address.region, expires=_TICKET_S).add_auth(request)
        return str(request.url), min(now + _TICKET_S, self._account.expires_at() or float("inf"))

    def remember(self, full_key: str) -> dict[str, str] | None:
        """What `glance` needs of an object; None where requests are signed in another way than it knows."""
        address = self._settled()
        if address.service != "s3":
            return None
        return remember(f"{address.url}/{urllib.parse.quote(full_key)}", address.region, self._account.env)

    def reaches(self, other: Bucket) -> bool:
        """Whether the service that holds this bucket holds the other too, and so can copy between them."""
        return self.endpoint == other.endpoint or (self.is_aws and other.is_aws)

    def close(self) -> None:
        """Let go of connections."""
        self._account.client.close()

    def _settled(self) -> _Address:
        """Where the bucket answers. On Amazon's service one request finds its region first, whatever was configured."""
        return self._address.get(self._settle)

    def _settle(self) -> _Address:
        if self.is_aws:
            region = _bucket_region(self._account.client, self.name)
            if region and region != self._account.client.meta.region_name:
                self._account.move_to(region)
        return self._find_address()

    def _find_address(self) -> _Address:
        """Where botocore would send a request for the bucket, seen by stopping one at the door.

        Its presigned URLs name Amazon's global host, which answers for new buckets with a redirect.
        """
        client = self._account.client

        def stop(request: Any, **_: Any) -> None:
            raise _StoppedError(request.url, request.headers.get("Authorization", ""))

        client.meta.events.register_first("before-send.s3.ListObjectsV2", stop)
        try:
            client.list_objects_v2(Bucket=self.name)
        except _StoppedError as stopped:
            return _parse_address(*stopped.args)
        finally:
            client.meta.events.unregister("before-send.s3.ListObjectsV2", stop)
        raise AssertionError("botocore sent a request without asking")


class _StoppedError(Exception):
    """A request that was not to be sent: its URL, its Authorization header."""


def _parse_address(url: str | bytes, authorization: str | bytes) -> _Address:
    text, signed = (value.decode() if isinstance(value, bytes) else value for value in (url, authorization))
    parts = urllib.parse.urlsplit(text)
    scope = signed.partition("Credential=")[2].partition(",")[0].split("/")
    region, service = scope[-3:-1] if len(scope) >= 5 else ("", "s3")  # unsigned: nobody asks for the region
    return _Address(url=f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", region=region, service=service)


def _bucket_region(client: Any, bucket: str) -> str | None:
    """The region that holds a bucket; S3 tells it even to those who may not enter. Raises what botocore does."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except boto_errors.ClientError as error:
        answer = error.response
        if status_of(error) == 404:
            raise
    region = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return str(region) if region else None
