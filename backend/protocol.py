"""The wire: one message is a msgpack header frame, then one raw frame an array.

The header frame holds {"protocol": version, "header": {...}, "arrays": [[name, dtype, shape], ...]}; this outer layout
stays the same in every version, so that two versions can tell each other apart. What is not written down here is
refused: no pickle, no object arrays, no msgpack extension types, no duplicate keys, no NaN in the header.

Client to server, by header["op"]:

    hello    {request}                    -> hello    {request, version, protocol, device, checkpoint, hash,
                                             ready}; hash: 12 hex digits of the checkpoint
    status   {request, job or None}       -> status   {request, ...}
    ping     {jobs: [id, ..]}             -> pong     {states: {id: state}}
    submit   {job, task, fields} + arrays -> progress (stage "queued"), then what becomes of the job
    cancel   {job}                        -> cancelled, at once or within one step; nothing if it is over already
    fetch    {job}                        -> the job's last message again

Server to client, by header["kind"], about a job:

    progress   {job, stage, step, steps}     stage "queued": `step` jobs are ahead of it
               with preview: true            + arrays means, quats, scales, opacities, sh: the Gaussians so far, few
    result     {job, ...} + arrays
    error      {job, code, message}          BUSY also has retry_after in seconds; job is "" if it could not be read
    cancelled  {job}
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

PROTOCOL = 1
DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"

DTYPES = ("|u1", "<i4", "<i8", "<f2", "<f4", "<f8")
MAX_HEADER = 1 << 20  # bytes
MAX_DEPTH = 16  # of lists and maps in the header
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 30  # of all arrays of a message

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]


class ProtocolError(ValueError):
    """A message that is refused: `code` for programs, the message for people.

    Codes of this file: BAD_MESSAGE, BAD_ARRAY, TOO_LARGE, UNSUPPORTED.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def failure(job: str, code: str, message: str) -> Header:
    """The header that tells a client of an error."""
    return {"kind": "error", "job": job, "code": code, "message": message}


def encode(header: Header, arrays: Arrays | None = None) -> list[bytes | memoryview]:
    """Frames of a message. Contiguous arrays are not copied: leave them alone until the message is sent."""
    arrays = arrays or {}
    _check_tree(header, MAX_DEPTH)
    _check_limits(len(arrays), sum(a.nbytes for a in arrays.values()))
    for name, array in arrays.items():
        if array.dtype.str not in DTYPES:
            raise ProtocolError(
                "BAD_ARRAY", f"array {name!r} has dtype {array.dtype}, which the protocol does not carry"
            )
    table = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    try:
        head = msgpack.packb({"protocol": PROTOCOL, "header": header, "arrays": table})
    except (OverflowError, UnicodeEncodeError) as error:
        raise ProtocolError("BAD_MESSAGE", f"the header cannot be packed: {error}") from None
    if len(head) > MAX_HEADER:
        raise ProtocolError("TOO_LARGE", f"the header is {len(head)} bytes, at most {MAX_HEADER} are allowed")
    # ascontiguousarray would turn a scalar array into shape (1,), but only its bytes are used here
    return [head, *(memoryview(np.ascontiguousarray(a).reshape(-1).view(np.uint8)) for a in arrays.values())]


def decode(frames: list) -> tuple[Header, Arrays]:
    """Header and arrays of a message; the arrays are read-only views of the frames.

    `frames` are bytes-like. Raises ProtocolError for anything that `encode` would not have made.
    """
    if not frames:
        raise ProtocolError("BAD_MESSAGE", "the message has no frames")
    head, *buffers = (memoryview(frame) for frame in frames)
    if head.nbytes > MAX_HEADER:
        raise ProtocolError("TOO_LARGE", f"the header is {head.nbytes} bytes, at most {MAX_HEADER} are allowed")
    message = _unpack(head)
    if not isinstance(message, dict) or "protocol" not in message:
        raise ProtocolError("BAD_MESSAGE", "the header is not a message of this protocol")
    if message["protocol"] != PROTOCOL:
        raise ProtocolError(
            "UNSUPPORTED", f"the other side speaks protocol {message['protocol']}, this side speaks protocol {PROTOCOL}"
        )
    header, table = message.get("header"), message.get("arrays")
    if (
        message.keys() != {"protocol", "header", "arrays"}
        or not isinstance(header, dict)
        or not isinstance(table, list)
    ):
        raise ProtocolError("BAD_MESSAGE", "the header must hold protocol, header and arrays, and nothing else")
    if len(table) != len(buffers):
        raise ProtocolError("BAD_MESSAGE", f"the header lists {len(table)} arrays, {len(buffers)} frames follow it")
    _check_limits(len(buffers), sum(b.nbytes for b in buffers))

    arrays: Arrays = {}
    for row, buffer in zip(table, buffers, strict=True):
        name, dtype, shape = _check_row(row)
        if name in arrays:
            raise ProtocolError("BAD_ARRAY", f"array {name!r} comes twice")
        if math.prod(shape) * dtype.itemsize != buffer.nbytes:
            raise ProtocolError("BAD_ARRAY", f"array {name!r} of shape {shape} does not fit its {buffer.nbytes} bytes")
        array = np.frombuffer(buffer, dtype) if buffer.nbytes else np.empty(0, dtype)
        # ZeroMQ may hand out a frame in the middle of its receive buffer
        arrays[name] = (array if array.flags.aligned else array.copy()).reshape(shape)
    return header, arrays


def _unpack(head: memoryview) -> Any:
    def unique(pairs: list[tuple[Any, Any]]) -> dict:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("duplicate key")
        return out

    def refuse(code: int, data: bytes) -> None:
        raise ValueError("extension type")

    try:
        message = msgpack.unpackb(head, object_pairs_hook=unique, ext_hook=refuse)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ProtocolError("BAD_MESSAGE", f"the header is not the msgpack of this protocol: {reason}") from None
    _check_tree(message, MAX_DEPTH + 1)
    return message


def _check_tree(value: Any, depth: int) -> None:
    """Only what JSON has as well: None, bool, int, finite float, text, lists, maps with text keys."""
    if depth < 0:
        raise ProtocolError("BAD_MESSAGE", f"the header is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ProtocolError("BAD_MESSAGE", "a map in the header has a key that is not text")
        for item in value.values():
            _check_tree(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_tree(item, depth - 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ProtocolError("BAD_MESSAGE", f"the header holds {value}, which is not a finite number")
    elif not (value is None or isinstance(value, bool | int | str)):
        raise ProtocolError(
            "BAD_MESSAGE", f"the header holds a {type(value).__name__}, which the protocol does not carry"
        )


def _check_limits(count: int, nbytes: int) -> None:
    if count > MAX_ARRAYS:
        raise ProtocolError("TOO_LARGE", f"the message has {count} arrays, at most {MAX_ARRAYS} are allowed")
    if nbytes > MAX_BYTES:
        raise ProtocolError("TOO_LARGE", f"the message is {nbytes >> 20} MiB, at most {MAX_BYTES >> 20} are allowed")


def _check_row(row: Any) -> tuple[str, np.dtype, tuple[int, ...]]:
    """One line of the array table."""
    if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)):
        raise ProtocolError("BAD_ARRAY", "a line of the array table is not [name, dtype, shape]")
    name, dtype, shape = row
    if dtype not in DTYPES:
        raise ProtocolError("BAD_ARRAY", f"array {name!r} has a dtype that the protocol does not carry")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ProtocolError("BAD_ARRAY", f"array {name!r} has a shape that is not a list of sizes")
    return name, np.dtype(dtype), tuple(shape)
