"""Keys below the prefix of a ref: how they are spelled in the bucket, and for people."""

from __future__ import annotations

import dataclasses

from penstock.ref import Ref


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys below `ref`, whose prefix has no slashes at its ends and may be empty."""

    ref: Ref

    def full(self, key: str) -> str:
        """The object's name in the bucket."""
        return f"{self.ref.path}/{key}" if self.ref.path else key

    def key(self, full: str) -> str:
        """What `full` undoes."""
        return full.removeprefix(f"{self.ref.path}/") if self.ref.path else full

    def below(self, under: str = "") -> str:
        """What the full names of all objects below the folder `under` begin with; empty for the whole bucket."""
        folder = self.full(under) if under else self.ref.path
        return f"{folder}/" if folder else ""

    def name(self, key: str = "") -> str:
        """For messages."""
        return str(self.ref.under(key)) if key else str(self.ref)
