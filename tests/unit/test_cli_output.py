"""What may be printed, and how."""

from __future__ import annotations

import json

import pytest

from penstock.cli.output import Output, printable, redact, table
from penstock.errors import Denied, Gated, NotFound


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GET https://b.s3.amazonaws.com/k?X-Amz-Signature=abc&partNumber=3 failed", "partNumber=3"),
        ("/cdn/x?Policy=abc&Signature=def", "/cdn/x"),
        ("{'Authorization': 'Bearer ya29.abcdefghij'}", "Authorization"),
        ("token hf_abcdefghijklmnopqrstuvwxyz012345 is not valid", "is not valid"),
    ],
)
def test_redact_takes_secrets_and_leaves_the_rest(text: str, kept: str) -> None:
    shown = redact(text)
    assert kept in shown
    assert "***" in shown
    for secret in ("abc", "def"):
        assert secret not in shown


def test_redact_leaves_ordinary_text_alone() -> None:
    text = "is it there? hf://org/hf_transfer bytes 0-3, Bearer of bad news"
    assert redact(text) == text


def test_printable_disarms_escape_sequences() -> None:
    assert printable("a\x1b[2Jb\rc\x9bd") == "a\\x1b[2Jb\\x0dc\\x9bd"
    assert printable("日本 é\n\tx") == "日本 é\n\tx"


def test_table_aligns_columns() -> None:
    assert table([("a", "1 B", "x"), ("bbb", "10 B", "y")], right=(1,)) == "a     1 B  x\nbbb  10 B  y"


def test_fail_prints_error_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    code = Output().fail(Gated("org/m is gated", hint="accept its licence at https://hf.co/org/m"))
    assert code == 3
    assert capsys.readouterr() == ("", "error: org/m is gated\nhint: accept its licence at https://hf.co/org/m\n")


def test_fail_in_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code = Output(json=True).fail(NotFound("no such model"))
    out, err = capsys.readouterr()
    assert (code, err) == (5, "")
    assert json.loads(out) == {"error": "not_found", "message": "no such model", "exit_code": 5}


def test_fail_between_json_lines_is_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output(lines=True).fail(Denied("no"))
    out, err = capsys.readouterr()
    event = json.loads(err)
    assert out == ""
    assert (event["event"], event["error"], event["exit_code"]) == ("error", "denied", 4)
    assert event["time"].endswith("Z")


def test_fail_of_an_unexpected_error_is_one_line_and_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    code = Output().fail(RuntimeError("GET /x?sig=topsecret went wrong"))
    err = capsys.readouterr().err
    assert code == 1
    assert err.startswith("error: RuntimeError: GET /x?sig=*** went wrong\nhint: ")
    assert "--verbose" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_fail_prints_a_traceback_when_asked_and_no_secret_in_it(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("PENSTOCK_DEBUG", "1")
    try:
        raise Denied("refused") from OSError("https://h/x?Signature=topsecret")
    except Denied as error:
        Output(verbose=how == "flag").fail(error)
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "Signature=***" in err
    assert "topsecret" not in err


def test_quiet_says_nothing_but_data(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(quiet=True)
    out.say("by the way")
    out.data("this")
    assert capsys.readouterr() == ("this\n", "")
