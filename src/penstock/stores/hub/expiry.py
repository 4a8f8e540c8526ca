"""When a signed URL stops working, read from the URL."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import email.utils
import json
import time
import urllib.parse

from penstock.stores.client import Answer


def clock_ahead_s(answer: Answer) -> float:
    """How far the Hub's clock is ahead of ours, in seconds: a URL's expiry is meant in its time, not in ours."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return 0.0
    ahead_s = theirs - time.time()
    return ahead_s if abs(ahead_s) > 5 else 0.0  # Date counts whole seconds and is as old as the answer


def find_expiry(url: str, *, clock_ahead_s: float = 0.0) -> float | None:
    """When a signed URL stops working, unix seconds by our clock; None if it does not say.

    Knows CloudFront (`Expires`, `Policy`), S3 and GCS (`X-Amz-Date` + `X-Amz-Expires`, `X-Goog-…`), Azure (`se`); the
    earliest counts. `clock_ahead_s`: how far the signer's clock is ahead of ours.
    """
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    found = [
        _parse_unix(query.get("Expires", "")),
        _parse_policy(query.get("Policy", "")),
        _parse_span(query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")),
        _parse_span(query.get("X-Goog-Date", ""), query.get("X-Goog-Expires", "")),
        _parse_iso(query.get("se", "")),
    ]
    moments = [moment for moment in found if moment is not None]
    return min(moments) - clock_ahead_s if moments else None


def _parse_unix(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _parse_policy(text: str) -> float | None:
    """`DateLessThan` of a CloudFront policy: base64 with its own letters for + = /."""
    try:
        policy = json.loads(base64.b64decode(text.translate(str.maketrans("-_~", "+=/"))))
        return min(float(one["Condition"]["DateLessThan"]["AWS:EpochTime"]) for one in policy["Statement"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def _parse_span(began: str, seconds: str) -> float | None:
    try:
        moment = dt.datetime.strptime(began, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        return moment.timestamp() + int(seconds)
    except ValueError:
        return None


def _parse_iso(text: str) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
