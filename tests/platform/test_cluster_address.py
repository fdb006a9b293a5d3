"""An address at which no cluster answers is told in seconds, in one line."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from crystalign.errors import ConfigError
from crystalign_ray.resources import local_cluster, private_folder, require_cluster


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_a_dead_address_is_one_line_within_seconds(form):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="refused") as refused:
        require_cluster(form.format(closed_port()))
    assert time.monotonic() - began < 10
    assert "\n" not in str(refused.value)
    assert "RAY_ADDRESS" in str(refused.value)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1", "host:port", "http://[", "no-such.invalid:6379", ":1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="Ray"):
        require_cluster(address)


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_server_at_the_address_is_no_cluster(says):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(64)
            connection.sendall(says)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ConfigError, match="no Ray cluster"):
            require_cluster(f"127.0.0.1:{listener.getsockname()[1]}")


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("crystalign_ray.resources.CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ConfigError, match="timed out"):
        require_cluster(f"127.0.0.1:{listener.getsockname()[1]}")


def test_a_grpc_server_may_be_a_cluster():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(64)
            connection.sendall(bytes(3) + b"\x04" + bytes(5))
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert require_cluster(f"127.0.0.1:{listener.getsockname()[1]}") is None


def test_a_local_cluster_is_for_this_machine_and_asks_for_its_token(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert local_cluster()["_node_ip_address"] == "127.0.0.1"
    import os

    assert os.environ.get("RAY_AUTH_MODE", "token") == "token"
    (tmp_path / "session").mkdir(mode=0o777)
    inner = private_folder(str(tmp_path / "session"))
    assert (tmp_path / "session").stat().st_mode & 0o777 == 0o700
    assert inner.startswith(str(tmp_path / "session"))


def test_a_cluster_that_listens_on_loopback_alone_is_joined_there():
    import contextlib

    from ray._private import ray_constants

    from crystalign_ray.resources import joining

    before = ray_constants.ENABLE_RAY_CLUSTER
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with joining(address, "127.0.0.2"):  # an address of this machine where nothing listens
            assert ray_constants.ENABLE_RAY_CLUSTER is False
        assert before == ray_constants.ENABLE_RAY_CLUSTER
        for other, own in (("auto", "127.0.0.2"), (address, "127.0.0.1"), ("10.0.0.1:6379", "127.0.0.2")):
            assert isinstance(joining(other, own), contextlib.nullcontext)
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        everywhere = f"127.0.0.1:{listener.getsockname()[1]}"
        assert isinstance(joining(everywhere, "127.0.0.2"), contextlib.nullcontext)
