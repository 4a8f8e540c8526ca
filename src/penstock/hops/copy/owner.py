"""Who may write into a prefix: one at a time, held by a heartbeat, taken over from whoever gives no sign of life."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from penstock.errors import AlreadyExists, NotFound, PenstockError
from penstock.hops.copy.journal import OWNER_KEY
from penstock.stores.base import Store

STALE_S: Final = 20.0  # four heartbeats missed; seen by the waiter's own clock: clocks need not agree


def boot_id() -> str:
    """Changes when this machine starts anew (unsynced data may be gone) and with the space of its process ids."""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  no path, a name
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {namespace}"
    return ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who copies into a prefix. `beat` changes with every sign of life; `done_bytes` is for those who wait.

    `left`: it has given up or was interrupted, and said so.
    """

    run: str
    host: str
    pid: int
    boot: str
    beat: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    left: bool = False

    def is_dead(self) -> bool:
        """Certain that it runs no more: it said so, or ran on this machine before a reboot or in a process now gone."""
        if self.left:
            return True
        if self.host != socket.gethostname() or not self.boot:
            return False
        if self.boot != boot_id():  # another boot of this machine; or only a neighbour in another container of it
            return self.boot.partition(" ")[0] != boot_id().partition(" ")[0]
        if self.pid == os.getpid():  # this process, or one before it in a restarted container
            return self.run not in _LIVE_RUNS
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


_LIVE_RUNS: Final[set[str]] = set()


@contextlib.contextmanager
def new_owner() -> Iterator[Owner]:
    """The present process as an owner, alive as long as the block."""
    owner = Owner(run=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), boot=boot_id())
    _LIVE_RUNS.add(owner.run)
    try:
        yield owner
    finally:
        _LIVE_RUNS.discard(owner.run)


def read_owner(store: Store) -> Owner | None:
    """Who owns the prefix at `store`; None for nobody, or for one that cannot be read."""
    try:
        fields = json.loads(store.get(OWNER_KEY))
        return Owner(**{field.name: fields[field.name] for field in dataclasses.fields(Owner)})
    except (NotFound, ValueError, KeyError, TypeError, RecursionError):
        return None


def claim(
    store: Store,
    me: Owner,
    *,
    is_complete: Callable[[], bool],
    on_wait: Callable[[Owner, float], None],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Own the prefix, or wait until whoever owns it is done. True: owned; False: `is_complete` became true meanwhile.

    An owner whose heartbeat stands still for `STALE_S`, or that is known to be dead, is succeeded.
    `on_wait`: called about once a second with the owner and for how long it gave no sign.
    """
    seen: Owner | None = None
    seen_at = clock()
    while True:
        owner = read_owner(store)
        if owner is not None and owner.run == me.run:
            return True
        if owner is None or owner.is_dead() or (owner == seen and clock() - seen_at > STALE_S):
            if _succeed(store, owner, me):
                return True
            continue
        if owner != seen:
            seen, seen_at = owner, clock()
        if is_complete():
            return False
        on_wait(owner, clock() - seen_at)
        sleep(1.0)


def _succeed(store: Store, gone: Owner | None, me: Owner) -> bool:
    """Take the place of nobody, or of an owner that is gone; False if somebody else was quicker."""
    if gone is not None and read_owner(store) == gone:
        store.delete(OWNER_KEY)
    try:
        store.put(OWNER_KEY, dump_owner(me), create_only=True)
    except AlreadyExists:
        if read_owner(store) is None:  # it is there, and nobody can read it
            store.delete(OWNER_KEY)
        return False
    return True


def dump_owner(owner: Owner) -> bytes:
    """As the journal holds it."""
    return json.dumps(dataclasses.asdict(owner)).encode()


class Superseded(PenstockError):
    """Another copy took the prefix over, because this one gave no sign of life for too long."""

    exit_code = 9
    code = "superseded"
