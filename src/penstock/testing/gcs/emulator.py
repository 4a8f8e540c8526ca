"""Both APIs on one port, over one set of objects."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from types import TracebackType

from penstock.testing.faults import Faults
from penstock.testing.gcs.contents import store_file
from penstock.testing.gcs.json_api import JsonApi
from penstock.testing.gcs.objects import Conditions, Object, Objects
from penstock.testing.gcs.refused import Refused
from penstock.testing.gcs.xml_api import XmlApi
from penstock.testing.server import Request, Response, Server

_JSON_ROOTS = ("/storage/v1", "/upload/storage/v1", "/resumable/upload/storage/v1", "/download/storage/v1")


class GcsEmulator(Server):
    """Objects live in memory, or with `folder` in files below it, which are served by sendfile.

    `with_md5=False`: no object has an md5, which saves its time (0.8 GB/s) where speed is measured.
    `token`: every request must carry it as its bearer token; None lets anybody in, with or without a token.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        with_md5: bool = True,
        token: str | None = None,
        faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(faults=faults, tls=tls, host=host, port=port)
        self.token = token
        self._spools = tempfile.TemporaryDirectory(dir=folder, prefix="gcs-") if folder is not None else None
        self._objects = Objects(Path(self._spools.name) if self._spools else None, with_md5=with_md5)
        self._json = JsonApi(self._objects, self.url)
        self._xml = XmlApi(self._objects)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._spools is not None:
            self._spools.cleanup()

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket; one that is there stays as it is."""
        try:
            self._objects.create_bucket(name)
        except Refused as refused:
            if refused.status != 409:
                raise

    def put(self, bucket: str, name: str, data: bytes | Path) -> Object:
        """Make an object without a request; a file is served from where it lies and must stay as it is."""
        with_md5 = self._objects.with_md5
        if isinstance(data, Path):
            stored = store_file(data, with_md5=with_md5)
        else:
            spool = self._objects.spool()
            spool.append(data)
            stored = spool.store(with_md5=with_md5)
        return self._objects.commit(bucket, name, stored, conditions=Conditions(), attributes={})

    def read(self, bucket: str, name: str) -> bytes:
        """An object's bytes. Raises KeyError."""
        content = self._objects.bucket(bucket)[name].stored.content
        return content.read_bytes() if isinstance(content, Path) else bytes(content)

    def names(self, bucket: str) -> list[str]:
        """Its objects' names, in order."""
        return sorted(self._objects.bucket(bucket))

    @property
    def rewrite_bytes(self) -> int | None:
        """How much one rewrite call copies before it asks to be called again; None: everything."""
        return self._json.rewrite_bytes

    @rewrite_bytes.setter
    def rewrite_bytes(self, value: int | None) -> None:
        self._json.rewrite_bytes = value

    def answer(self, request: Request) -> Response:
        """The answer of the API that the path belongs to."""
        root = next((root for root in _JSON_ROOTS if request.path.startswith(f"{root}/b")), None)
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return _refuse_caller(request, json=root is not None)
        if root is not None:
            return self._json.answer(request, request.path.removeprefix(root))
        return self._xml.answer(request)


def _refuse_caller(request: Request, *, json: bool) -> Response:
    """401, as each API says it."""
    if json:
        body = b'{"error":{"code":401,"message":"Invalid Credentials","errors":[{"reason":"authError"}]}}'
        return Response(status=401, headers={"Content-Type": "application/json"}, content=body)
    caller = "Authentication required." if "authorization" in request.headers else "Anonymous caller."
    body = f"<Error><Code>AuthenticationRequired</Code><Message>{caller}</Message></Error>".encode()
    return Response(status=401, headers={"Content-Type": "application/xml"}, content=body)
