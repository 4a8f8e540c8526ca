"""Answers that are errors, as both APIs know them."""

from __future__ import annotations


class Refused(Exception):
    """An answer that is an error: the JSON API writes `reason`, the XML API writes `code`."""

    def __init__(self, status: int, reason: str, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.code = code
        self.message = message
        self.details = details


def no_bucket() -> Refused:
    """404 of a bucket."""
    return Refused(404, "notFound", "NoSuchBucket", "The specified bucket does not exist.")


def no_object(bucket: str, name: str) -> Refused:
    """404 of an object in a bucket that is there."""
    return Refused(404, "notFound", "NoSuchKey", f"No such object: {bucket}/{name}")


def no_upload() -> Refused:
    """404 of a multipart upload that was finished, aborted or never begun."""
    return Refused(404, "notFound", "NoSuchUpload", "The requested upload was not found.")


def invalid(message: str, code: str = "InvalidArgument") -> Refused:
    """400."""
    return Refused(400, "invalid", code, message)


def unknown_method() -> Refused:
    """405."""
    return Refused(405, "", "MethodNotAllowed", "The specified method is not allowed against this resource.")
