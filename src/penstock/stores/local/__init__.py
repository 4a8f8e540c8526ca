"""A folder as a store: objects are files, names are paths, and no reader ever sees half a file.

Writes go to `.penstock/tmp/` in the root and are renamed into place after fsync of file and folder. An upload is a
sparse file `.penstock/uploads/<id>.part`, with what it will become in `<id>.json` beside it. Symlinks are read through
(Hugging Face caches are made of them) but never written through to a place outside the root.
"""

from penstock.stores.local.store import LocalStore, open_local

__all__ = ["LocalStore", "open_local"]
