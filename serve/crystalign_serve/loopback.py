"""Keeps the replicas of a cluster on this machine from listening beyond it."""

from __future__ import annotations

from typing import Any

import ray

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Let Ray's own server in this replica listen where its cluster does: on 127.0.0.1, if the cluster does.

    Replicas ask each other through a gRPC server that listens on every interface, whatever the address
    of the node; Ray has no setting for it. Called by each constructor, because Ray starts that server
    right after it.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        port: int = listen(server, address.replace("[::]", LOOPBACK))
        return port

    replica.add_port_to_grpc_server = on_loopback
