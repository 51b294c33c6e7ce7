"""Serves an application over HTTP on loopback, for tests of what comes in by the network."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tests.pages import CHOSEN
from tests.servers import wait_until

AUTH = ("admin", CHOSEN)


@contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve an application on loopback, as ``gateway.dashboard.app.serve`` does."""
    listening = socket.create_server(("127.0.0.1", port))
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 30.0, what="the server")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
