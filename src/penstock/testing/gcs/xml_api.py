"""The XML API of the GCS emulator. Source: https://cloud.google.com/storage/docs/xml-api/reference."""

from __future__ import annotations

import dataclasses
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Final

from penstock.testing.gcs.metadata import format_time, read_headers
from penstock.testing.gcs.objects import Conditions, Objects, list_page
from penstock.testing.gcs.refused import Refused, unknown_method
from penstock.testing.gcs.xml_messages import (
    add,
    format_error,
    format_reply,
    format_written,
    parse_attributes,
    parse_conditions,
    parse_number,
    receive,
    word,
)
from penstock.testing.gcs.xml_uploads import XmlUploads
from penstock.testing.server import Request, Response, answer_object

_NAMESPACE: Final = "http://doc.s3.amazonaws.com/2006-03-01"


class XmlApi:
    """Answers requests to `/bucket` and `/bucket/object`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads = XmlUploads(objects)

    def answer(self, request: Request) -> Response:
        """The answer to a request; errors as this API writes them."""
        bucket, _, name = request.path.lstrip("/").partition("/")
        bucket, name = urllib.parse.unquote(bucket), urllib.parse.unquote(name)
        query = request.parameters()
        try:
            if name:
                return self._answer_object(request, bucket, name, query)
            return self._answer_bucket(request, bucket, query)
        except Refused as refused:
            return format_error(refused)

    def _answer_bucket(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        match request.method:
            case "GET" if "uploads" in query:
                return self._uploads.list(bucket, query)
            case "GET":
                return self._list(bucket, query)
            case "HEAD":
                self._objects.check_bucket(bucket)
                return Response()
            case "PUT":
                self._objects.create_bucket(bucket)
                return Response()
            case "DELETE":
                self._objects.delete_bucket(bucket)
                return Response(status=204)
        raise unknown_method()

    def _answer_object(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        self._objects.check_bucket(bucket)
        if "uploadId" in query or ("uploads" in query and request.method == "POST"):
            return self._uploads.answer(request, bucket, name, query)
        match request.method:
            case "GET" | "HEAD":
                return self._get(request, bucket, name, query)
            case "PUT" if "x-goog-copy-source" in request.headers:
                return self._copy(request, bucket, name)
            case "PUT":
                return self._put(request, bucket, name)
            case "DELETE":
                self._objects.delete(
                    bucket, name, parse_conditions(request), generation=parse_number(query.get("generation"))
                )
                return Response(status=204)
        raise unknown_method()

    # -- objects

    def _get(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        found = self._objects.find(
            bucket, name, parse_conditions(request), generation=parse_number(query.get("generation"))
        )
        response = answer_object(request, found.stored.content, read_headers(found))
        if response.status in (412, 416):
            code = "PreconditionFailed" if response.status == 412 else "InvalidRange"
            error = format_error(Refused(response.status, "", code, "The request cannot be satisfied."))
            return dataclasses.replace(error, headers={**response.headers, **error.headers})
        return response

    def _put(self, request: Request, bucket: str, name: str) -> Response:
        stored = receive(self._objects, request)
        created = self._objects.commit(
            bucket, name, stored, conditions=parse_conditions(request), attributes=parse_attributes(request)
        )
        return format_written(created)

    def _copy(self, request: Request, bucket: str, name: str) -> Response:
        source_bucket, _, source_name = urllib.parse.unquote(
            request.headers["x-goog-copy-source"].lstrip("/")
        ).partition("/")
        conditions = Conditions(
            generation_match=parse_number(request.headers.get("x-goog-copy-source-if-generation-match")),
            metageneration_match=parse_number(request.headers.get("x-goog-copy-source-if-metageneration-match")),
        )
        found = self._objects.find(
            source_bucket,
            source_name,
            conditions,
            generation=parse_number(request.headers.get("x-goog-copy-source-generation")),
        )
        copied = self._objects.commit(
            bucket,
            name,
            found.stored,
            conditions=parse_conditions(request),
            attributes=found.attributes,
            component_count=found.component_count,
        )
        result = ET.Element("CopyObjectResult")
        add(result, LastModified=format_time(copied.updated_at), ETag=copied.etag)
        return format_reply(result, format_written(copied).headers)

    # -- listings

    def _list(self, bucket: str, query: Mapping[str, str]) -> Response:
        version_2 = query.get("list-type") == "2"
        limit = min(1000, parse_number(query.get("max-keys")) or 1000)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = (
            query.get("continuation-token") or query.get("start-after", "") if version_2 else query.get("marker", "")
        )
        page = list_page(
            self._objects.bucket(bucket), prefix=prefix, delimiter=delimiter, after=after or "", limit=limit
        )
        result = ET.Element("ListBucketResult", xmlns=_NAMESPACE)
        add(result, Name=bucket, Prefix=prefix, MaxKeys=limit, IsTruncated=word(page.next is not None))
        if version_2:
            add(result, KeyCount=len(page.objects) + len(page.prefixes))
        if page.next is not None:
            add(result, **{"NextContinuationToken" if version_2 else "NextMarker": page.next})
        for found in page.objects:
            entry = ET.SubElement(result, "Contents")
            add(entry, Key=found.name, Generation=found.generation, MetaGeneration=found.metageneration)
            add(entry, LastModified=format_time(found.updated_at), ETag=found.etag, Size=found.stored.size_bytes)
            add(entry, StorageClass="STANDARD")
        for folder in page.prefixes:
            add(ET.SubElement(result, "CommonPrefixes"), Prefix=folder)
        return format_reply(result)
