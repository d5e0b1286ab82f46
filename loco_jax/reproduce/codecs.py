"""Heatmaps, lists of peaks and codes as bytes, and back. On the host, in NumPy.

Shapes are not stored: they are the same for all frames, so reader and writer know them.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import zstandard
from jaxtyping import Float, Float32, UInt8

from loco_jax.geometry.arrays import Array

# Bits a number of codes that stay floating-point numbers.
FLOATS: dict[int, np.dtype[Any]] = {32: np.dtype("<f4"), 16: np.dtype("<f2")}
LEVELS = (8, 6, 4, 2)  # bits a number of codes that are quantised
_OFFSETS = 127  # steps in which a list of peaks stores an offset of one voxel
_SCORES = 255  # and a score of one
_RANGE = "<ff"  # a code's least and greatest number


class Found(NamedTuple):
    """Peaks with their sub-voxel positions; the places behind a joint type's last peak are zeros.

    Attributes:
      voxels: whole (row, column, bin).
      offsets: from those to the sub-voxel positions, at most one voxel; zeros without sub-voxel positions.
      scores: the heatmap's values.
    """

    voxels: Float[Array, "J K 3"]
    offsets: Float[Array, "J K 3"]
    scores: Float[Array, "J K"]


# ---- Without loss: any array of float32 numbers, bit for bit


def raw(numbers: Float32[np.ndarray, "..."]) -> bytes:
    """Four bytes a number, little-endian."""
    return numbers.astype("<f4").tobytes()


def from_raw(data: bytes, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """The inverse of `raw`. Raises ValueError for another number of bytes than the shape needs."""
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def run_lengths(numbers: Float32[np.ndarray, "..."]) -> bytes:
    """Runs of zeros by their lengths, and the other numbers as they are.

    Zeros and others take turns: how many zeros, how many others. There are first the number of such turns, then the
    zeros' lengths, then the others' lengths, all uint32, then the others. Zeros behind the last turn are not stored.
    A negative zero is no zero.
    """
    bits = numbers.astype("<f4").reshape(-1).view("<u4")
    edges = np.flatnonzero(np.diff(bits != 0, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    zeros = starts - np.concatenate([[0], ends[:-1]])[: len(starts)]
    header = np.concatenate([[len(starts)], zeros, ends - starts]).astype("<u4")
    return header.tobytes() + bits[bits != 0].tobytes()


def from_run_lengths(data: bytes, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """The inverse of `run_lengths`."""
    turns = int(np.frombuffer(data, "<u4", 1)[0])
    zeros, others = np.frombuffer(data, "<u4", 2 * turns, offset=4).reshape(2, turns).astype(np.int64)
    values = np.frombuffer(data, "<f4", offset=4 * (1 + 2 * turns))
    numbers = np.zeros(shape, np.float32)
    numbers.reshape(-1)[np.arange(len(values)) + np.repeat(np.cumsum(zeros), others)] = values
    return numbers


def by_zlib(numbers: Float32[np.ndarray, "..."]) -> bytes:
    """`raw` compressed by zlib at its best level."""
    return zlib.compress(raw(numbers), zlib.Z_BEST_COMPRESSION)


def from_zlib(data: bytes, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """The inverse of `by_zlib`."""
    return from_raw(zlib.decompress(data), shape)


def by_zstd(numbers: Float32[np.ndarray, "..."]) -> bytes:
    """`raw` compressed by zstd at its best level."""
    return _squeeze(raw(numbers))


def from_zstd(data: bytes, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """The inverse of `by_zstd`."""
    return from_raw(zstandard.decompress(data), shape)


LOSSLESS = {
    "raw float32": (raw, from_raw),
    "run lengths": (run_lengths, from_run_lengths),
    "zlib": (by_zlib, from_zlib),
    "zstd": (by_zstd, from_zstd),
}


# ---- The list of peaks: all that is read of heatmaps


def pack_peaks(found: Found, subvoxel: bool) -> bytes:
    """The peaks in few bytes: whole voxels exactly, the rest rounded, zstd behind.

    A coordinate takes two bytes, an offset one, in steps of 1/127 voxel, and a score one, in steps of 1/255; scores
    above 1 count as 1. There are first the numbers of peaks of each joint type, uint16, then all rows, all columns and
    so on. Without `subvoxel`, there are no offsets.
    """
    there = np.asarray(found.scores) > 0
    voxels, offsets, scores = (np.asarray(x)[there] for x in found)
    scores = np.clip(np.rint(_SCORES * scores), 1, _SCORES)  # a peak's score is never zero
    parts = [there.sum(axis=1).astype("<u2"), voxels.T.astype("<u2"), scores.astype(np.uint8)]
    if subvoxel:
        parts.append(np.rint(_OFFSETS * offsets.T).astype(np.int8))
    return _squeeze(b"".join(part.tobytes() for part in parts))


def unpack_peaks(data: bytes, joints: int, most: int, subvoxel: bool) -> Found:
    """The inverse of `pack_peaks` but for rounding: J is `joints`, K is `most`. Equal scores stay in order."""
    data = zstandard.decompress(data)
    counts = np.frombuffer(data, "<u2", joints).astype(np.int64)
    number = int(counts.sum())
    end = 2 * joints + 6 * number
    found = Found(*(np.zeros(shape, np.float32) for shape in ((joints, most, 3), (joints, most, 3), (joints, most))))
    there = np.arange(most) < counts[:, None]
    found.voxels[there] = np.frombuffer(data, "<u2", 3 * number, offset=2 * joints).reshape(3, number).T
    found.scores[there] = np.frombuffer(data, np.uint8, number, offset=end) / np.float32(_SCORES)
    if subvoxel:
        offsets = np.frombuffer(data, np.int8, 3 * number, offset=end + number)
        found.offsets[there] = offsets.reshape(3, number).T / np.float32(_OFFSETS)
    return found


# ---- Codes: floating-point numbers, or few bits a number


def pack_code(code: Float32[np.ndarray, "..."], bits: int) -> bytes:
    """A code with `bits` a number, zstd behind.

    With 32 and 16 bits the numbers are float32 and float16; numbers beyond float16 become its greatest. With 1 to 8
    bits they are quantised, see `quantise`, and the code's least and greatest number come first, in 8 bytes.
    Raises ValueError for another number of bits, and for a code that `quantise` does not take.
    """
    if bits in FLOATS:
        limit = np.finfo(FLOATS[bits]).max
        return _squeeze(np.clip(code, -limit, limit).astype(FLOATS[bits]).tobytes())
    levels, least, greatest = quantise(code, bits)
    return struct.pack(_RANGE, least, greatest) + _squeeze(pack_bits(levels, bits))


def unpack_code(data: bytes, shape: tuple[int, ...], bits: int) -> Float32[np.ndarray, "..."]:
    """The inverse of `pack_code` but for rounding."""
    if bits in FLOATS:
        return np.frombuffer(zstandard.decompress(data), FLOATS[bits]).reshape(shape).astype(np.float32)
    header = struct.calcsize(_RANGE)
    least, greatest = struct.unpack(_RANGE, data[:header])
    levels = unpack_bits(zstandard.decompress(data[header:]), int(np.prod(shape)), bits)
    return dequantise(levels.reshape(shape), least, greatest, bits)


def quantise(numbers: Float32[np.ndarray, "..."], bits: int) -> tuple[UInt8[np.ndarray, "..."], float, float]:
    """The nearest of 2^bits equally spaced levels from the least to the greatest number, and these two.

    Raises ValueError for bits other than 1 to 8, and for numbers that are not finite or of which there are none.
    """
    _check_bits(bits)
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(
            f"want one or more numbers, all finite; {np.isfinite(numbers).sum()} of {numbers.size} are finite"
        )
    least, greatest = float(numbers.min()), float(numbers.max())
    step = (greatest - least) / (2**bits - 1) or 1.0  # all numbers may be equal
    return np.rint((numbers.astype(np.float64) - least) / step).astype(np.uint8), least, greatest


def dequantise(
    levels: UInt8[np.ndarray, "..."], least: float, greatest: float, bits: int
) -> Float32[np.ndarray, "..."]:
    """The numbers that levels stand for: off by at most half a step, but for float32's rounding."""
    return (least + levels * ((greatest - least) / (2**bits - 1))).astype(np.float32)


def pack_bits(levels: UInt8[np.ndarray, "..."], bits: int) -> bytes:
    """The lowest `bits` of each level, 1 to 8, side by side; zeros fill up the last byte."""
    _check_bits(bits)
    return np.packbits(np.unpackbits(levels.reshape(-1, 1), axis=1)[:, 8 - bits :]).tobytes()


def unpack_bits(data: bytes, number: int, bits: int) -> UInt8[np.ndarray, " N"]:
    """The inverse of `pack_bits` for so many levels."""
    _check_bits(bits)
    each = np.unpackbits(np.frombuffer(data, np.uint8), count=number * bits).reshape(number, bits)
    return np.packbits(np.pad(each, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits} must be 1 to 8, or for codes {' or '.join(map(str, FLOATS))}")


def _squeeze(data: bytes) -> bytes:
    return zstandard.compress(data, zstandard.MAX_COMPRESSION_LEVEL)
