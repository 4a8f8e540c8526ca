"""How the JSON API reads requests and writes answers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs.objects import Conditions
from penstock.testing.gcs.refused import Refused, invalid
from penstock.testing.server import Request, Response

_CONTENT_TYPE: Final = "application/json; charset=UTF-8"


def choose_fields(value: Any, fields: str) -> Any:
    """What of `value` a partial response shows, as `a,b/c,d(e,f)` asks. Raises Refused for what is not of that form.

    Source: https://cloud.google.com/storage/docs/json_api#partial-response.
    """
    tree: dict[str, Any] = {}
    outer = [tree]  # where names at each depth of parentheses go
    here = tree  # where the next name goes
    for token in re.findall(r"[\w*]+|.", fields):
        if token == ",":
            here = outer[-1]
        elif token == "(":
            outer.append(here)
        elif token == ")" and len(outer) > 1:
            outer.pop()
        elif re.fullmatch(r"[\w*]+", token):
            here = here.setdefault(token, {})
        elif token != "/":
            raise invalid(f"Invalid field selection {fields}", "InvalidParameter")
    if len(outer) > 1:
        raise invalid(f"Invalid field selection {fields}", "InvalidParameter")
    return _prune(value, tree)


def narrow(response: Response, fields: str | None) -> Response:
    """The answer with the fields that were asked for; content and empty answers as they are."""
    if fields is None or not isinstance(response.content, bytes) or not response.content:
        return response
    chosen = choose_fields(json.loads(response.content), fields)
    return dataclasses.replace(response, content=json.dumps(chosen).encode())


def _prune(value: Any, tree: Mapping[str, Any]) -> Any:
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [_prune(item, tree) for item in value]
    return {key: _prune(item, tree[key]) for key, item in value.items() if key in tree}


def parse_conditions(query: Mapping[str, Any]) -> Conditions:
    """The preconditions among a request's parameters. Raises Refused for what is no number."""
    return Conditions(
        generation_match=parse_number(query, "ifGenerationMatch"),
        generation_not_match=parse_number(query, "ifGenerationNotMatch"),
        metageneration_match=parse_number(query, "ifMetagenerationMatch"),
        metageneration_not_match=parse_number(query, "ifMetagenerationNotMatch"),
    )


def parse_number(query: Mapping[str, Any], key: str) -> int | None:
    """A parameter that is a number; None without it. Raises Refused for anything else."""
    value = query.get(key)
    if value is None or value == "":
        return None
    try:
        return int(value)
    except ValueError:
        raise invalid(f"Invalid value for {key}: {value!r}") from None


def parse_body(request: Request) -> dict[str, Any]:
    """The object in a request's body, empty for none. Raises Refused for anything else."""
    body = request.body.read()
    with contextlib.suppress(ValueError):
        parsed = json.loads(body or b"{}")
        if isinstance(parsed, dict):
            return parsed
    raise invalid("Parse Error")


def format_reply(answer: Mapping[str, Any]) -> Response:
    """200 with JSON."""
    return Response(headers={"Content-Type": _CONTENT_TYPE}, content=json.dumps(answer).encode())


def format_error(refused: Refused, *, plain: bool) -> Response:
    """An error as the API writes it; `plain`: as it does where content was asked for."""
    if plain:
        headers = {"Content-Type": "text/html; charset=UTF-8"}
        return Response(status=refused.status, headers=headers, content=refused.message.encode())
    error = {"message": refused.message, "domain": "global", "reason": refused.reason}
    body = {"error": {"code": refused.status, "message": refused.message, "errors": [error]}}
    response = format_reply(body)
    response.status = refused.status
    return response
