"""How a worker process and its parent talk: length-prefixed JSON and raw bytes, over pipes.

A message is 8 bytes (two little-endian uint32: length of the header, length of the payload), the
header as ASCII JSON, and the payload. Nothing is unpickled; the reader checks both lengths.
Paths travel as JSON strings in which an undecodable byte is a lone surrogate, as `os.fsdecode`
makes it, so that every name survives.
"""

import json
import os
import struct
from io import FileIO
from typing import Any

_LENGTHS = struct.Struct("<II")

PREFIX_BYTES = _LENGTHS.size
MAX_HEADER_BYTES = 1 << 20


def prefix(header: bytes, payload_bytes: int = 0) -> bytes:
    """The two lengths that open a message."""
    return _LENGTHS.pack(len(header), payload_bytes)


def lengths(prefix: bytes | bytearray) -> tuple[int, int]:
    """Length of the header and of the payload, from the first `PREFIX_BYTES` of a message."""
    header_bytes, payload_bytes = _LENGTHS.unpack(prefix)
    return header_bytes, payload_bytes


def packed(header: dict[str, Any]) -> bytes:
    """A message without payload, ready to be written."""
    text = json.dumps(header).encode("ascii")
    return prefix(text) + text


def write(fd: int, header: dict[str, Any], payload: memoryview | bytes = b"") -> None:
    """Writes one message to a blocking pipe."""
    text = json.dumps(header).encode("ascii")
    payload = memoryview(payload).cast("B")
    for part in (prefix(text, payload.nbytes) + text, payload):  # joined would be copied
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(fd, rest) :]


def read(fd: int) -> dict[str, Any] | None:
    """The header of the next message, from a blocking pipe; None at its end."""
    message = read_with_payload(fd)
    return None if message is None else message[0]


def read_with_payload(fd: int) -> tuple[dict[str, Any], bytearray] | None:
    """The header and the payload of the next message, from a blocking pipe; None at its end."""
    start = _read_exactly(fd, PREFIX_BYTES)
    if start is None:
        return None
    header_bytes, payload_bytes = lengths(start)
    text = _read_exactly(fd, header_bytes)
    payload = _read_exactly(fd, payload_bytes)
    return None if text is None or payload is None else (json.loads(text), payload)


def _read_exactly(fd: int, num_bytes: int) -> bytearray | None:
    data = bytearray(num_bytes)
    rest = memoryview(data)
    with FileIO(fd, closefd=False) as file:
        while rest:
            got = file.readinto(rest)
            if not got:
                return None
            rest = rest[got:]
    return data
