"""Errors carry exit codes that the table names, and print as JSON."""

from __future__ import annotations

import json

import pytest

from penstock import errors
from penstock.errors import EXIT_CODES, NotFound, PenstockError, RateLimited, Retryable


def every_error() -> list[type[PenstockError]]:
    found = [PenstockError]
    for one in found:
        found += one.__subclasses__()
    return [one for one in found if one.__module__ == errors.__name__]


@pytest.mark.parametrize("error", every_error())
def test_every_error_has_an_exit_code_of_the_table(error: type[PenstockError]) -> None:
    """The table is what the documentation is made of."""
    assert error.exit_code in EXIT_CODES
    assert error.exit_code != 0


def test_every_exit_code_is_some_errors() -> None:
    """The table promises nothing that cannot happen."""
    assert set(EXIT_CODES) - {0} == {error.exit_code for error in every_error()}


def test_json_codes_tell_errors_apart() -> None:
    """No two errors share a JSON code, but where one is the other's general case."""
    shared = [(a, b) for a in every_error() for b in every_error() if a is not b and a.code == b.code]
    assert all(issubclass(a, b) or issubclass(b, a) for a, b in shared)


@pytest.mark.parametrize("error", every_error())
def test_error_prints_as_json(error: type[PenstockError]) -> None:
    """Code, message, exit code, and the hint where there is one."""
    said = json.loads(json.dumps(error("a deed failed", hint="do this").as_json()))
    assert said == {"error": error.code, "message": "a deed failed", "exit_code": error.exit_code, "hint": "do this"}
    assert "hint" not in error("a deed failed").as_json()


def test_missing_object_is_a_file_not_found_error() -> None:
    """Who catches FileNotFoundError catches it, and its text is ours."""
    with pytest.raises(FileNotFoundError) as caught:
        raise NotFound("gs://b/a is not there")
    assert str(caught.value) == "gs://b/a is not there"


def test_rate_limit_keeps_what_the_service_asked_for() -> None:
    """Seconds to wait, None where it did not say; and it may be retried."""
    assert RateLimited("slow down", retry_after_s=7.0).retry_after_s == 7.0
    assert RateLimited("slow down").retry_after_s is None
    assert issubclass(RateLimited, Retryable)


def test_what_is_final_is_not_retryable() -> None:
    """Retrying asks the type: these never get better by waiting."""
    for name in ("UsageError", "Gated", "Denied", "NotFound", "VerificationFailed", "ObjectChanged", "NoSpace"):
        assert not issubclass(getattr(errors, name), Retryable)
