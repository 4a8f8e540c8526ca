"""How the XML API reads requests and writes answers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs.contents import Stored
from penstock.testing.gcs.objects import Conditions, Object, Objects
from penstock.testing.gcs.refused import Refused, invalid
from penstock.testing.server import Request, Response

_ATTRIBUTE_HEADERS: Final = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "content-language": "contentLanguage",
    "x-goog-storage-class": "storageClass",
}


def receive(objects: Objects, request: Request) -> Stored:
    """A request's body, checked against the digests that came along. Raises Refused."""
    spool = objects.spool()
    spool.receive(request.body)
    stored = spool.store(with_md5=objects.with_md5)
    hashes = dict(
        pair.strip().partition("=")[::2] for pair in request.headers.get("x-goog-hash", "").split(",") if pair
    )
    stored.check(crc32c=hashes.get("crc32c"), md5=request.headers.get("content-md5") or hashes.get("md5"))
    return stored


def parse_conditions(request: Request) -> Conditions:
    """The preconditions among a request's headers. Raises Refused for what is no number."""
    return Conditions(
        generation_match=parse_number(request.headers.get("x-goog-if-generation-match")),
        metageneration_match=parse_number(request.headers.get("x-goog-if-metageneration-match")),
    )


def parse_attributes(request: Request) -> dict[str, Any]:
    """What a writer sets by headers, by its JSON name."""
    attributes: dict[str, Any] = {
        attribute: request.headers[header]
        for header, attribute in _ATTRIBUTE_HEADERS.items()
        if request.headers.get(header)
    }
    prefix = "x-goog-meta-"
    metadata = {k.removeprefix(prefix): v for k, v in request.headers.items() if k.startswith(prefix)}
    if metadata:
        attributes["metadata"] = metadata
    return attributes


def parse_number(value: str | None) -> int | None:
    """A parameter that is a number; None for none. Raises Refused for anything else."""
    if value is None or value == "":
        return None
    if not re.fullmatch(r"\d+", value):
        raise invalid(f"Invalid argument: {value!r}")
    return int(value)


def format_written(created: Object) -> Response:
    """What a write answers: nothing but headers."""
    return Response(
        headers={
            "ETag": created.etag,
            "x-goog-generation": str(created.generation),
            "x-goog-metageneration": str(created.metageneration),
            "x-goog-hash": created.stored.hash_header,
            "x-goog-stored-content-length": str(created.stored.size_bytes),
        }
    )


def add(parent: ET.Element, **texts: object) -> None:
    """Children of `parent`, each a tag with its text."""
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)


def word(value: object) -> str:
    """A truth as XML writes it."""
    return "true" if value else "false"


def format_reply(root: ET.Element, headers: Mapping[str, str] | None = None, *, status: int = 200) -> Response:
    """An answer in XML."""
    body: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    kind = {"Content-Type": "application/xml; charset=UTF-8"}
    return Response(status=status, headers={**kind, **(headers or {})}, content=body)


def format_error(refused: Refused) -> Response:
    """An error as the API writes it."""
    if refused.status == 304:
        return Response(status=304)
    root = ET.Element("Error")
    add(root, Code=refused.code, Message=refused.message, Details=refused.details or refused.message)
    return format_reply(root, status=refused.status)
