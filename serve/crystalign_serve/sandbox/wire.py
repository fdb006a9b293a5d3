"""Messages between the service and a sandbox process: JSON and plain arrays, never pickles.

A process that has parsed an uploaded file is not trusted. Therefore the size of a message is checked before
memory is allocated, arrays must have one of a few numeric dtypes, and a message cannot refer to code.

Layout: two unsigned 64-bit lengths (little-endian), the JSON, then the bytes of the arrays one after the other.
The JSON is `{"fields": {...}, "arrays": [[name, dtype, shape], ...]}`.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DTYPES = ("|b1", "|u1", "<i4", "<i8", "<f4", "<f8")
MAX_JSON = 4 * 2**20
MAX_MESSAGE = 64 * 2**20
MAX_ARRAYS = 64
_LENGTHS = struct.Struct("<QQ")


class WireError(Exception):
    """The received bytes are not a valid message, or the message is too large."""


class Message(NamedTuple):
    """A request or an answer."""

    fields: dict[str, Any]
    """JSON values."""
    arrays: Mapping[str, NDArray[Any]] = {}
    """Arrays with one of `DTYPES`."""


def pack(message: Message) -> list[memoryview]:
    """Serialise a message into pieces, without copying the arrays.

    Raises:
        WireError: the message is too large, or an array has another dtype.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    wrong = [name for name, array in arrays.items() if array.dtype.str not in DTYPES]
    if wrong:
        raise WireError(f"array {wrong[0]!r} has dtype {arrays[wrong[0]].dtype.str}")
    listed = [[name, array.dtype.str, message.arrays[name].shape] for name, array in arrays.items()]
    head = json.dumps({"fields": message.fields, "arrays": listed}).encode()
    size = sum(array.nbytes for array in arrays.values())
    if len(head) > MAX_JSON or len(head) + size > MAX_MESSAGE:
        raise WireError(f"message of {len(head)} + {size} bytes; limits: {MAX_JSON} for JSON, {MAX_MESSAGE} in all")
    pieces = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    return [memoryview(_LENGTHS.pack(len(head), size) + head), *pieces]


def send(connection: socket.socket, message: Message, until: float | None = None) -> None:
    """Send a message.

    Args:
        connection: to the other process.
        message: the message.
        until: deadline on the monotonic clock (s); None waits without limit.

    Raises:
        TimeoutError: the deadline passed.
        OSError: the other process has ended.
        WireError: the message is too large, or an array has another dtype.
    """
    for piece in pack(message):
        rest = piece
        while rest:
            _limit(connection, until)
            rest = rest[connection.send(rest) :]


def receive(connection: socket.socket, until: float | None = None) -> Message:
    """Receive a message.

    Args:
        connection: to the other process.
        until: deadline on the monotonic clock (s); None waits without limit.

    Raises:
        TimeoutError: the deadline passed.
        EOFError: the other process has ended.
        WireError: the received bytes are not a valid message.
    """
    n_head, n_body = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size, until))
    if n_head > MAX_JSON or n_head + n_body > MAX_MESSAGE:
        raise WireError(
            f"message of {n_head} bytes of JSON and {n_body} of arrays; limits: {MAX_JSON} and, in all, {MAX_MESSAGE}"
        )
    head, body = _exactly(connection, n_head, until), _exactly(connection, n_body, until)
    return _parse(head, body)


def unpack(data: bytes) -> Message:
    """Read a message from the joined pieces of `pack`.

    Raises:
        WireError: the bytes are not a valid message.
    """
    if len(data) < _LENGTHS.size:
        raise WireError("not a message: too short")
    n_head, n_body = _LENGTHS.unpack(data[: _LENGTHS.size])
    end = _LENGTHS.size + n_head
    if end + n_body != len(data):
        raise WireError(f"not a message: {n_head} and {n_body} bytes announced, {len(data) - _LENGTHS.size} present")
    return _parse(data[_LENGTHS.size : end], data[end:])


def _parse(head: bytes | bytearray, body: bytes | bytearray) -> Message:
    try:
        header = json.loads(head)
        fields, listed = header["fields"], header["arrays"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"not a message: {type(error).__name__}") from error
    if not isinstance(fields, dict) or not isinstance(listed, list) or len(listed) > MAX_ARRAYS:
        raise WireError("not a message: no fields, or too many arrays")
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for entry in listed:
        name, dtype, shape = _described(entry)
        stop = start + math.prod(shape) * dtype.itemsize
        if stop > len(body):
            raise WireError(f"array {name!r} of shape {shape} is longer than the message")
        arrays[name] = np.frombuffer(body, dtype, math.prod(shape), start).reshape(shape)
        start = stop
    return Message(fields, arrays)


def _described(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Name, type and shape of an array, checked."""
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and entry[1] in DTYPES):
        raise WireError("not a message: an array without name, type and shape")
    shape = entry[2]
    if not isinstance(shape, list) or len(shape) > 4:
        raise WireError("not a message: an array with an invalid shape")
    if not all(type(n) is int and 0 <= n <= MAX_MESSAGE for n in shape):
        raise WireError("not a message: an array with an invalid shape")
    return entry[0], np.dtype(entry[1]), tuple(shape)


def _exactly(connection: socket.socket, count: int, until: float | None) -> bytearray:
    """Receive exactly `count` bytes. The buffer grows with the data, so a false length allocates no memory."""
    data = bytearray()
    while len(data) < count:
        _limit(connection, until)
        try:
            part = connection.recv(min(count - len(data), 2**20))
        except ConnectionError as error:
            raise EOFError("the other process has ended") from error
        if not part:
            raise EOFError("the other process has ended")
        data += part
    return data


def _limit(connection: socket.socket, until: float | None) -> None:
    if until is not None:
        rest = until - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        connection.settimeout(rest)
