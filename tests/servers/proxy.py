"""A TCP proxy on loopback that can be slow, silent, deaf or gone."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = 65536


class Proxy:
    """Forwards connections to a TCP port or a Unix socket.

    Attributes
    ----------
    latency_s
        Added to every chunk in each direction.
    is_hung
        Connections are accepted and nothing is forwarded.
    is_refusing
        Connections are closed at once, open ones too.
    cut_after_bytes
        Each connection is cut once that many bytes went from the client; 0: never.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.latency_s = 0.0
        self.is_hung = False
        self.is_refusing = False
        self.cut_after_bytes = 0
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """End every connection and thread."""
        self._stop.set()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)
        self._server.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([self._server], [], [], 0.05)
            if not ready:
                continue
            client, _ = self._server.accept()
            self.connections += 1
            if self.is_refusing:
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self) -> socket.socket:
        if self._target.startswith("/"):
            peer = socket.socket(socket.AF_UNIX)
            try:
                peer.connect(self._target)
            except OSError:
                peer.close()
                raise
            return peer
        host, _, port = self._target.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connect() as server:
            sent = 0
            while not self._stop.is_set() and not self.is_refusing:
                if self.is_hung:
                    time.sleep(0.02)
                    continue
                ready, _, _ = select.select([client, server], [], [], 0.05)
                for source in ready:
                    data = source.recv(_CHUNK)
                    if not data:
                        return
                    if self.latency_s:
                        self._stop.wait(self.latency_s)
                    sent += len(data) if source is client else 0
                    if self.cut_after_bytes and sent >= self.cut_after_bytes:
                        return
                    (server if source is client else client).sendall(data)


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """Run a proxy to ``HOST:PORT`` or to the path of a Unix socket."""
    running = Proxy(target)
    try:
        yield running
    finally:
        running.close()
