"""What stores make of the environment's network settings, and of what goes wrong on the network."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest

from penstock.errors import Denied, Unavailable, UsageError
from penstock.stores.network import find_bundle, find_proxies, is_private, map_network_error, parse_endpoint


@pytest.mark.parametrize(
    "text",
    ["localhost:9000", "//host", "ftp://host", "https://", "https://host:port", "https://host:0", "https://[::1", "s3"],
)
def test_endpoint_that_is_no_url_is_refused(text: str) -> None:
    """The SDKs find out later, with an error of their own."""
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL") as caught:
        parse_endpoint("AWS_ENDPOINT_URL", text, example="https://minio.example.com")
    assert "AWS_ENDPOINT_URL=https://minio.example.com" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["https://user:hidden@host", "https://host/?sig=hidden", "https://host/a#hidden"])
def test_endpoint_with_a_secret_is_refused_unseen(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint("AWS_ENDPOINT_URL", text, example="https://minio.example.com")
    assert "hidden" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("text", ["https://host/", " http://127.0.0.1:9000/path/ ", "http://[::1]:80"])
def test_endpoint_loses_its_last_slash_only(text: str) -> None:
    assert parse_endpoint("X", text, example="") == text.strip().rstrip("/")


@pytest.mark.parametrize(
    ("env", "host", "expected"),
    [
        ({}, "host", {}),
        ({"HTTPS_PROXY": "http://a:1"}, "host", {"https": "http://a:1"}),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "host", {"https": "http://b:1"}),
        (
            {"ALL_PROXY": "http://a:1", "http_proxy": "http://b:1"},
            "host",
            {"http": "http://b:1", "https": "http://a:1"},
        ),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "other, host"}, "host", {}),
        ({"HTTPS_PROXY": "http://a:1", "no_proxy": ".example.com"}, "minio.example.com", {}),
        ({"HTTPS_PROXY": ""}, "host", {}),
    ],
)
def test_proxies_are_those_of_the_environment(env: Mapping[str, str], host: str, expected: Mapping[str, str]) -> None:
    assert find_proxies(env, host) == expected


def test_bundle_is_the_first_that_is_named(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    assert find_bundle({}) is None
    assert find_bundle({"CURL_CA_BUNDLE": "/none", "SSL_CERT_FILE": str(bundle)}) == str(bundle)
    assert find_bundle({"SSL_CERT_FILE": "/none", "AWS_CA_BUNDLE": str(bundle)}, "AWS_CA_BUNDLE") == str(bundle)


def test_bundle_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(UsageError, match=r"REQUESTS_CA_BUNDLE names /no/such/ca\.pem"):
        find_bundle({"REQUESTS_CA_BUNDLE": "/no/such/ca.pem"})


class ForeignError(Exception):
    """As SDKs raise it: its text holds the URL, its argument or its cause the reason."""


SIGNED = "https://host/a?X-Amz-Signature=hidden"


def test_foreign_error_is_told_by_the_sockets_own_words() -> None:
    wrapped = ForeignError(f"Max retries exceeded with url: {SIGNED}", ConnectionRefusedError(111, "refused"))
    error = map_network_error(wrapped, "cannot read a", "host")
    assert type(error) is Unavailable
    assert str(error) == "cannot read a: host: [Errno 111] refused"


@pytest.mark.parametrize("foreign", [ForeignError(SIGNED), http.client.InvalidURL(SIGNED), UnicodeError(SIGNED)])
def test_foreign_text_that_may_hold_a_url_is_not_passed_on(foreign: Exception) -> None:
    """Only the words of sockets and of HTTP itself are known to hold none."""
    assert "hidden" not in str(map_network_error(foreign, "cannot read a", "host"))


def test_untrusted_certificate_is_final_however_deep_it_lies() -> None:
    certificate = ssl.SSLCertVerificationError(1, "certificate verify failed")
    certificate.verify_message = "self-signed certificate"
    wrapped = ForeignError(SIGNED)
    wrapped.__context__ = ForeignError(certificate)
    error = map_network_error(wrapped, "cannot read a", "host", authority="AWS_CA_BUNDLE")
    assert type(error) is Denied
    assert "self-signed certificate" in str(error)
    assert "AWS_CA_BUNDLE" in (error.hint or "")


def test_silence_says_how_long() -> None:
    wrapped = ForeignError(SIGNED)
    wrapped.__cause__ = TimeoutError("timed out")
    assert "no answer within 15 s" in str(map_network_error(wrapped, "cannot read a", "host", timeout_s=15))


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://hub.internal", True),
        ("http://localhost:8000", True),
        ("http://127.3.2.1", True),
        ("http://[::1]:80/x", True),
        ("http://10.0.0.7", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://0.0.0.0", False),
    ],
)
def test_private_is_tls_or_this_machine(url: str, private: bool) -> None:
    """Decided by the address alone: a name that only looks like this machine's is another's."""
    assert is_private(url) == private
