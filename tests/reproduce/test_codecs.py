"""Bytes of heatmaps, peaks and codes, against brute force."""

import itertools
import struct
import zlib

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import zstandard

from loco_jax.reproduce import codecs
from loco_jax.reproduce.codecs import Found

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)
FLOATS = st.floats(width=32)
SPARSE = arrays.arrays(np.float32, SHAPES, elements=FLOATS, fill=st.sampled_from([0.0, -0.0]))
FINITE = arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
MODERATE = arrays.arrays(np.float32, SHAPES, elements=st.floats(-8, 8, width=32))


@pytest.mark.parametrize("name", list(codecs.LOSSLESS))
@hypothesis.given(numbers=SPARSE)
def test_no_bit_is_lost(name, numbers):
    compress, decompress = codecs.LOSSLESS[name]
    again = decompress(compress(numbers), numbers.shape)
    assert again.dtype == np.float32 and again.shape == numbers.shape and again.flags.writeable
    np.testing.assert_array_equal(again.view(np.uint32), numbers.view(np.uint32))


@hypothesis.given(SPARSE)
@hypothesis.example(np.zeros((2, 3), np.float32))
@hypothesis.example(np.ones(4, np.float32))
@hypothesis.example(np.float32([0, 0, 1, -0.0, 0, 2, 3]))
def test_run_lengths_are_exact(numbers):
    words = [bytes(x) for x in numbers.reshape(-1, 1).view(np.uint8)]
    runs = [(zero, len(list(run))) for zero, run in itertools.groupby(words, lambda word: word == bytes(4))]
    if runs and not runs[0][0]:
        runs = [(True, 0), *runs]
    if runs[-1][0]:
        runs = runs[:-1]
    zeros, others = [n for zero, n in runs if zero], [n for zero, n in runs if not zero]
    numbers_there = b"".join(word for word in words if word != bytes(4))
    wanted = struct.pack(f"<{1 + 2 * len(zeros)}I", len(zeros), *zeros, *others) + numbers_there
    assert codecs.run_lengths(numbers) == wanted


def test_the_others_are_read_by_their_own_libraries():
    numbers = np.random.default_rng(0).normal(size=(20, 30)).round(1).astype(np.float32)
    plain = b"".join(struct.pack("<f", x) for x in numbers.reshape(-1))
    assert codecs.raw(numbers) == plain
    assert zlib.decompress(codecs.by_zlib(numbers)) == zstandard.decompress(codecs.by_zstd(numbers)) == plain
    assert len(codecs.by_zlib(numbers)) <= min(len(zlib.compress(plain, level)) for level in (1, 3, 6))
    assert len(codecs.by_zstd(numbers)) <= min(len(zstandard.compress(plain, level)) for level in (1, 3, 9))
    with pytest.raises(ValueError):
        codecs.from_raw(plain, (20, 31))


@hypothesis.given(bits=st.integers(1, 8), numbers=FINITE)
def test_the_quantiser_takes_the_nearest_level(bits, numbers):
    levels, least, greatest = codecs.quantise(numbers, bits)
    assert (least, greatest) == (numbers.min(), numbers.max())
    assert levels.dtype == np.uint8 and levels.shape == numbers.shape and levels.max() < 2**bits
    assert levels[numbers == least].max() == 0
    if greatest > least:
        assert levels[numbers == greatest].min() == 2**bits - 1
    grid = np.linspace(least, greatest, 2**bits)  # in float64
    distances = np.abs(numbers[..., None].astype(np.float64) - grid)
    taken = np.take_along_axis(distances, levels[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(taken, distances.min(axis=-1), rtol=1e-9, atol=1e-12 * (greatest - least))


@hypothesis.given(bits=st.sampled_from(codecs.LEVELS), code=FINITE)
@hypothesis.example(bits=8, code=np.float32([-3.4e38, 3.4e38, 1.0]))
@hypothesis.example(bits=2, code=np.full((2, 3), 0.7, np.float32))
@hypothesis.example(bits=4, code=np.float32([0, 1e-45, 3e-45]))
def test_a_quantised_code_errs_by_at_most_half_a_step(bits, code):
    again = codecs.unpack_code(codecs.pack_code(code, bits), code.shape, bits)
    assert again.dtype == np.float32 and again.shape == code.shape
    wide = code.astype(np.float64)
    step = (wide.max() - wide.min()) / (2**bits - 1)
    rounding = 2**-23 * np.abs(wide).max() + 1e-45
    assert np.abs(again - wide).max() <= step / 2 * (1 + 1e-9) + rounding
    if step == 0:
        np.testing.assert_array_equal(again, code)


@hypothesis.given(MODERATE)
def test_floating_point_codes(code):
    def back(bits):
        return codecs.unpack_code(codecs.pack_code(code, bits), code.shape, bits)

    np.testing.assert_array_equal(back(32), code, strict=True)
    np.testing.assert_array_equal(back(16), code.astype(np.float16).astype(np.float32), strict=True)


def test_numbers_beyond_float16_become_its_greatest():
    code = np.float32([1e6, -1e6, 1])
    again = codecs.unpack_code(codecs.pack_code(code, 16), (3,), 16)
    np.testing.assert_array_equal(again, np.float32([65504, -65504, 1]))


@hypothesis.given(bits=st.integers(1, 8), data=st.data())
def test_unpacking_bits_inverts_packing(bits, data):
    levels = data.draw(arrays.arrays(np.uint8, st.integers(1, 50), elements=st.integers(0, 2**bits - 1)))
    packed = codecs.pack_bits(levels, bits)
    digits = "".join(format(level, f"0{bits}b") for level in levels)
    digits += "0" * (-len(digits) % 8)
    assert packed == int(digits, 2).to_bytes(len(digits) // 8, "big")
    np.testing.assert_array_equal(codecs.unpack_bits(packed, len(levels), bits), levels, strict=True)


@pytest.mark.parametrize("bits, header", [(32, 0), (16, 0), (8, 8), (6, 8), (4, 8), (2, 8)])
def test_sizes_of_codes(bits, header):
    """Noise cannot be compressed to less than its bits, and a code of equal numbers is nearly nothing."""
    noise = np.random.default_rng(0).random((10, 15, 20), np.float32)
    size = len(codecs.pack_code(noise, bits)) - header
    assert 0.7 * noise.size * bits / 8 < size < noise.size * bits / 8 + 20
    assert len(codecs.pack_code(np.full_like(noise, 0.3), bits)) < 40


@pytest.mark.parametrize("bits", [0, 9, 12, 64, -1])
def test_other_numbers_of_bits(bits):
    with pytest.raises(ValueError, match=f"bits={bits} must be 1 to 8, or for codes 32 or 16"):
        codecs.pack_code(np.ones(3, np.float32), bits)


@pytest.mark.parametrize("code", [[1, np.nan], [np.inf, 1], []])
def test_codes_that_cannot_be_quantised(code):
    with pytest.raises(ValueError, match="want one or more numbers, all finite"):
        codecs.pack_code(np.float32(code), 4)


@pytest.mark.parametrize("subvoxel", [True, False])
def test_the_list_of_peaks(subvoxel):
    rng = np.random.default_rng(1)
    counts = np.array([3, 0, 5, 1])
    there = np.arange(5) < counts[:, None]
    voxels = rng.integers(0, [40, 240, 316], (4, 5, 3)) * there[..., None]
    voxels[2, 4] = 40, 300, 511
    offsets = rng.uniform(-1, 1, (4, 5, 3)) * there[..., None] * subvoxel
    scores = rng.uniform(0.1, 1, (4, 5)) * there
    scores[0, :2] = 1.3, 1e-4  # a published network's heatmaps may exceed 1
    found = Found(*(x.astype(np.float32) for x in (voxels, offsets, scores)))
    data = codecs.pack_peaks(found, subvoxel)
    assert len(zstandard.decompress(data)) == 2 * 4 + 9 * (6 + 1 + 3 * subvoxel)

    again = codecs.unpack_peaks(data, joints=4, most=5, subvoxel=subvoxel)
    assert {x.dtype for x in again} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(again.voxels, found.voxels)
    np.testing.assert_allclose(again.offsets, found.offsets, atol=0.5 / 127 + 1e-6)
    np.testing.assert_array_equal(again.scores > 0, there)
    wanted = np.clip(found.scores, 0, 1)
    wanted[0, 1] = 1 / 255
    np.testing.assert_allclose(again.scores, wanted, atol=0.5 / 255 + 1e-6)


def test_a_frame_without_peaks():
    nothing = Found(*(np.zeros(shape, np.float32) for shape in ((14, 8, 3), (14, 8, 3), (14, 8))))
    again = codecs.unpack_peaks(codecs.pack_peaks(nothing, True), 14, 8, True)
    for x, y in zip(again, nothing):
        np.testing.assert_array_equal(x, y, strict=True)
