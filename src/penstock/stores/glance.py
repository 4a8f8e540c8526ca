"""Whether an object is as it was, asked in one HEAD request by a process that has no time to open a store."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.ref import Ref


def glance(ref: Ref, place: Mapping[str, str], env: Mapping[str, str]) -> str | None:
    """The version of the object of which a store of `ref` said `place` when it was asked to remember it.

    None where that cannot be learnt in this way: the store has to be asked, and says why.
    """
    if ref.scheme == "s3" and place:
        from penstock.stores.s3.glance import glance as glance_s3

        return glance_s3(ref, place, env)
    if ref.scheme == "gs" and place:
        from penstock.stores.gcs.glance import glance as glance_gcs

        return glance_gcs(ref, place, env)
    return None
