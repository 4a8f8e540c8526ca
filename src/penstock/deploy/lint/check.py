"""The whole of it: texts in, findings out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from penstock.deploy.catalog import Catalog, load_catalog
from penstock.deploy.lint import families as _families  # noqa: F401  importing registers the rules
from penstock.deploy.lint.findings import Allowed, Finding, describe_unknown
from penstock.deploy.lint.read import Source, decode, read_sources
from penstock.deploy.lint.registry import RULES
from penstock.errors import UsageError


def lint(
    sources: Sequence[Source],
    *,
    platform: str | None = None,
    allow: Collection[str] = (),
    catalog: Catalog | None = None,
) -> list[Finding]:
    """What is wrong with `sources`, which are looked at together, sorted by file and line.

    `platform`: where they go; guessed where they say it. `allow`: rules that nobody wants to hear of; comments in the
    texts allow, too. Whatever the texts are, that is a finding at most. Raises UsageError for unknown rules.
    """
    for name in allow:
        if name not in RULES:
            raise UsageError(describe_unknown(name), hint="docs/reference/lint-rules.md lists them")
    scene = read_sources(sources, catalog or load_catalog(), platform)
    allowed = {source.name: Allowed(_text(source)) for source in sources}
    found = {
        Finding(at.file, at.line, rule.id, message)
        for rule in RULES.values()
        if rule.id not in allow
        for at, message in rule.check(scene)
        if at.file not in allowed or not allowed[at.file].covers(rule.id, at.line)
    }
    found |= {
        Finding(name, line, "allow-unknown", message)
        for name, comments in allowed.items()
        for line, message in comments.unknown
        if "allow-unknown" not in allow
    }
    return sorted(found)


def _text(source: Source) -> str:
    if isinstance(source.text, str):
        return source.text
    try:
        return decode(source.text)
    except ValueError:
        return ""


def at_least(findings: Iterable[Finding], severity: int) -> list[Finding]:
    """Those that are as bad as `severity`, or worse."""
    return [finding for finding in findings if finding.severity >= severity]
