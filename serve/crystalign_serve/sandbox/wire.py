"""Messages between the service and a process that reads a file: JSON and plain arrays, never pickles.

Who reads a hostile file is not trusted afterwards. So a message is bounded before memory is set
aside for it, arrays have one of a few types of numbers, and nothing in it names code.

Layout: two unsigned 64-bit lengths (little-endian), so many bytes of JSON, so many bytes of arrays, one after the
other. The JSON is `{"fields": {...}, "arrays": [[name, dtype, shape], ...]}`.
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
    """What arrived is no message, or one that is too large."""


class Message(NamedTuple):
    """What one side tells the other."""

    fields: dict[str, Any]
    """Whatever JSON can say."""
    arrays: Mapping[str, NDArray[Any]] = {}
    """Of one of `DTYPES`."""


def pack(message: Message) -> list[memoryview]:
    """The bytes of a message in pieces, of which the arrays are not copied.

    Raises:
        WireError: it is too large, or an array is of another type.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    wrong = [name for name, array in arrays.items() if array.dtype.str not in DTYPES]
    if wrong:
        raise WireError(f"array {wrong[0]!r} is of type {arrays[wrong[0]].dtype.str}")
    listed = [[name, array.dtype.str, message.arrays[name].shape] for name, array in arrays.items()]
    head = json.dumps({"fields": message.fields, "arrays": listed}).encode()
    size = sum(array.nbytes for array in arrays.values())
    if len(head) > MAX_JSON or len(head) + size > MAX_MESSAGE:
        raise WireError(f"a message of {len(head)} + {size} bytes; at most {MAX_JSON} + {MAX_MESSAGE} are sent")
    pieces = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    return [memoryview(_LENGTHS.pack(len(head), size) + head), *pieces]


def send(connection: socket.socket, message: Message, until: float | None = None) -> None:
    """Send a message, before `until` on the monotonic clock where one is given.

    Raises:
        TimeoutError: it took longer.
        OSError: the other side is gone.
        WireError: it cannot be sent.
    """
    for piece in pack(message):
        rest = piece
        while rest:
            _limit(connection, until)
            rest = rest[connection.send(rest) :]


def receive(connection: socket.socket, until: float | None = None) -> Message:
    """The next message, before `until` on the monotonic clock where one is given.

    Raises:
        TimeoutError: it took longer.
        EOFError: the other side is gone.
        WireError: it is no message.
    """
    n_head, n_body = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size, until))
    if n_head > MAX_JSON or n_head + n_body > MAX_MESSAGE:
        raise WireError(f"a message of {n_head} + {n_body} bytes; at most {MAX_JSON} + {MAX_MESSAGE} are read")
    head, body = _exactly(connection, n_head, until), _exactly(connection, n_body, until)
    return _parse(head, body)


def _parse(head: bytearray, body: bytearray) -> Message:
    try:
        told = json.loads(head)
        fields, listed = told["fields"], told["arrays"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"not a message: {type(error).__name__}") from error
    if not isinstance(fields, dict) or not isinstance(listed, list) or len(listed) > MAX_ARRAYS:
        raise WireError("not a message: it lists no fields or too many arrays")
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
        raise WireError("not a message: an array of a strange shape")
    if not all(type(n) is int and 0 <= n <= MAX_MESSAGE for n in shape):
        raise WireError("not a message: an array of a strange shape")
    return entry[0], np.dtype(entry[1]), tuple(shape)


def _exactly(connection: socket.socket, count: int, until: float | None) -> bytearray:
    """So many bytes; memory is taken as they come, so that a claim costs nothing."""
    data = bytearray()
    while len(data) < count:
        _limit(connection, until)
        try:
            part = connection.recv(min(count - len(data), 2**20))
        except ConnectionError as error:
            raise EOFError("the other side is gone") from error
        if not part:
            raise EOFError("the other side is gone")
        data += part
    return data


def _limit(connection: socket.socket, until: float | None) -> None:
    if until is not None:
        rest = until - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        connection.settimeout(rest)
