"""The server: who listens, whom it serves, what was asked of it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from threading import Event, Lock, Thread, current_thread
from types import TracebackType
from typing import Self

from penstock.testing.faults import Edge, Faults
from penstock.testing.server.connection import Connection
from penstock.testing.server.messages import Logged, Request, Response


class Server:
    """Listens on `host` from `__enter__` to `__exit__`, which ends stalls, closes connections and joins threads.

    `port` 0: any free one. `tls`: a server-side context; `url` is then `https://…`.
    """

    def __init__(
        self,
        *,
        faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.faults = faults or Faults()
        self.stopping = Event()
        self._tls = tls
        self._host = host
        self._log: list[Logged] = []
        self._lock = Lock()
        self._open: dict[Thread, socket.socket] = {}
        self._accepted = 0
        self._listener = socket.create_server((host, port), backlog=256)
        self._port: int = self._listener.getsockname()[1]
        self._acceptor = Thread(target=self._accept, name="acceptor", daemon=True)

    def answer(self, request: Request) -> Response:
        """The answer to one request; runs in the connection's thread, several at once."""
        return Response(status=404, headers={"Content-Type": "text/plain"}, content=request.path.encode())

    @property
    def url(self) -> str:
        """Scheme, host and port, no slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def requests(self) -> list[Logged]:
        """The requests so far, in the order their answers began."""
        with self._lock:
            return list(self._log)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._accepted

    def count(self, *, method: str | None = None, path: str = "", status: int | None = None) -> int:
        """How many requests so far had this method, this regular expression in path and query, and this status."""
        pattern = re.compile(path)
        return sum(
            method in (None, logged.method)
            and status in (None, logged.status)
            and pattern.search(f"{logged.path}?{logged.query}") is not None
            for logged in self.requests
        )

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self._log.clear()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stopping.is_set():
            return
        self.stopping.set()
        with contextlib.suppress(OSError), socket.create_connection((self._host, self._port), timeout=5):
            pass  # wakes accept(), which no close() does on every system
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            threads = list(self._open.items())
        for _, connection in threads:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in threads:
            thread.join(timeout=10)

    def record(self, logged: Logged) -> None:
        """Append to the log."""
        with self._lock:
            self._log.append(logged)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.stopping.is_set():
                connection.close()
                return
            number = self._accepted
            self._accepted += 1
            edge = self.faults.edges.draw(number)
            thread = Thread(target=self._serve, args=(connection, number, edge), daemon=True)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket, number: int, edge: Edge) -> None:
        thread = current_thread()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open[thread] = connection
            if edge.hole:
                self.stopping.wait()
            else:
                Connection(self, connection, number, edge, secure=self._tls is not None).run()
        except OSError:
            pass  # the client went away
        finally:
            connection.close()
            with self._lock:
                del self._open[thread]
