"""Ports that servers of one host are given."""

import socket
from pathlib import Path

import pytest

from gateway.host import embedded


def test_no_outgoing_connection_is_given_the_port() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = {embedded.free_port() for _ in range(50)}
    assert all(embedded._LOWEST_PORT <= port < first for port in found)
    assert len(found) > 25  # two that start at once seldom choose the same


def test_a_port_that_is_taken_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(embedded, "_LOWEST_PORT", taken)
        monkeypatch.setattr(embedded, "_first_outgoing_port", lambda: taken + 1)
        assert embedded.free_port() != taken  # one of the kernel's choice: better than none


def test_a_kernel_without_such_a_range_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_first_outgoing_port", lambda: embedded._LOWEST_PORT)
    with socket.create_server(("127.0.0.1", embedded.free_port())):
        pass
