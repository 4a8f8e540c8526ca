"""Findings as SARIF 2.1.0, which code hosts show beside the lines.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from penstock._version import __version__
from penstock.deploy.lint.findings import Finding
from penstock.deploy.lint.registry import RULES, Rule

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_RESERVED: Final = re.compile(r"[^\w./~-]", re.ASCII)


def as_sarif(findings: Sequence[Finding]) -> Mapping[str, Any]:
    """One run, with the rules that found something."""
    ids = sorted({finding.rule for finding in findings})
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "penstock lint",
                        "semanticVersion": __version__,
                        "rules": [_rule(RULES[name]) for name in ids],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, ids.index(finding.rule)) for finding in findings],
            }
        ],
    }


def _rule(rule: Rule) -> Mapping[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": rule.severity.word},
        "properties": {"tags": [rule.family]},
    }


def _result(finding: Finding, index: int) -> Mapping[str, Any]:
    uri = _uri(PurePath(finding.file).as_posix())
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.severity.word,
        "message": {"text": f"{finding.message}. {finding.about.fix}"},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": max(finding.line, 1)}}}
        ],
    }


def _uri(path: str) -> str:
    """A relative reference, RFC 3986."""
    return _RESERVED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), path)
