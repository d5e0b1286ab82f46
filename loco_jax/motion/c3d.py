"""C3D, the binary format of motion capture, as https://www.c3d.org describes it."""

import os
import struct
from collections.abc import Sequence

import numpy as np

from loco_jax.motion import Tracks
from loco_jax.motion.names import WRITER

_MOST = 65_535  # frames, and points: the format counts both in 16 bits
_NAMES = 255  # in a parameter
_BLOCK = 512  # bytes; sections begin at multiples
_HEADER = 1  # blocks
_KEY, _INTEL = 0x50, 84  # of the format, and of little-endian numbers


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes everybody's joints as points in millimetres, y up. Unknown joints are invisible: their residual is -1.

    Names of more than 255 points continue in the parameters LABELS2, LABELS3 and so on. Raises ValueError for more
    frames or points than the format holds, and OSError if the file cannot be written.
    """
    frames, points = len(tracks.times), len(tracks.labels())
    if max(frames, points) > _MOST:
        raise ValueError(
            f"C3D holds at most {_MOST:,} frames and {_MOST:,} points, and here are {frames:,} frames of {points:,} "
            "points; cut the video, or use trc, bvh, gltf or csv"
        )
    size = len(_parameters(tracks, 0)) // _BLOCK
    data = _HEADER + size + 1  # the number of the first block of points; blocks count from 1
    header = struct.pack(
        "<BBHHHHHfHHf", _HEADER + 1, _KEY, points, 0, 1, frames, 0, -1.0, data, 0, tracks.rate
    )  # the scale -1 says that points are float32
    with open(path, "wb") as file:
        file.write(_padded(header) + _parameters(tracks, data))
        for block in tracks.markers():
            known = np.isfinite(block).all(axis=-1, keepdims=True)
            places, residuals = np.where(known, block, 0), np.where(known, 0, -1)
            file.write(np.concatenate([places, residuals], axis=-1).astype("<f4").tobytes())


def _parameters(tracks: Tracks, data: int) -> bytes:
    """The section of parameters; `data` is the number of the first block of points."""
    labels = tracks.labels()
    parts = [labels[i : i + _NAMES] for i in range(0, len(labels), _NAMES)]
    integers = {"USED": len(labels), "FRAMES": len(tracks.times), "DATA_START": data}
    records = [
        _group(1, "MANUFACTURER"),  # at the beginning, where `names.is_ours` looks
        _texts(1, "SOFTWARE", [WRITER]),
        _group(2, "POINT"),
        *(_parameter(2, name, 2, (), struct.pack("<H", value)) for name, value in integers.items()),
        *(
            _parameter(2, name, 4, (), struct.pack("<f", value))
            for name, value in {"SCALE": -1.0, "RATE": tracks.rate}.items()
        ),
        _texts(2, "UNITS", ["mm"]),
        _texts(2, "X_SCREEN", ["+X"]),
        _texts(2, "Y_SCREEN", ["+Y"]),
        *(_texts(2, f"LABELS{i if i > 1 else ''}", part) for i, part in enumerate(parts, 1)),
        _group(3, "ANALOG"),
        _parameter(3, "USED", 2, (), bytes(2)),
    ]
    section = _padded(bytes(4) + b"".join(records) + bytes(2))
    # The count of blocks is a byte. Readers find the points by the header, and the end of the records by the zeros.
    return bytes([1, _KEY, min(len(section) // _BLOCK, 255), _INTEL]) + section[4:]


def _group(number: int, name: str) -> bytes:
    return _record(-number, name, b"\0")


def _texts(group: int, name: str, texts: Sequence[str]) -> bytes:
    """A parameter of ASCII texts, filled up with spaces to one length."""
    width = max(map(len, texts))
    return _parameter(group, name, -1, (width, len(texts)), "".join(text.ljust(width) for text in texts).encode())


def _parameter(group: int, name: str, kind: int, shape: Sequence[int], content: bytes) -> bytes:
    """A parameter; `kind` is -1 for text, 2 for int16, 4 for float32. It has no description."""
    return _record(group, name, struct.pack("<bB", kind, len(shape)) + bytes(shape) + content + b"\0")


def _record(group: int, name: str, content: bytes) -> bytes:
    return struct.pack("<bb", len(name), group) + name.encode() + struct.pack("<H", 2 + len(content)) + content


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _BLOCK)
