"""Restrict the gRPC servers of Ray Serve replicas to 127.0.0.1 if the cluster is local."""

from __future__ import annotations

from typing import Any

import ray

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Make the gRPC server of this replica listen on 127.0.0.1 if the node's address is 127.0.0.1.

    Ray Serve's inter-replica gRPC server listens on every interface, whatever the address of the node, and
    there is no setting for it. Each deployment calls this in its constructor, because Ray starts the server
    right after the constructor returns.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        port: int = listen(server, address.replace("[::]", LOOPBACK))
        return port

    replica.add_port_to_grpc_server = on_loopback
