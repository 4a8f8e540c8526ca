"""A small threaded HTTP/1.1 server: the base of the emulators, and a source fast enough to measure against.

A subclass answers requests with `answer`; this module owns connections, keep-alive, ranges, the log of requests and
the faults. One thread per connection. Files leave by `sendfile` unless TLS or a fault forces them through memory.
"""

from penstock.testing.server.listener import Server
from penstock.testing.server.messages import (
    Body,
    Content,
    Disconnect,
    Logged,
    Request,
    Response,
    answer_object,
    content_bytes,
)

__all__ = ["Body", "Content", "Disconnect", "Logged", "Request", "Response", "Server", "answer_object", "content_bytes"]
