"""Peaks against an oracle that labels plateaus with SciPy, and back from rendered joints.

Every shape compiles for seconds: there are four, and most tests share two of them.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from loco_jax.pose import heatmaps, peaks

SMALL = (5, 6, 7)  # within one block
BLOCKS = (9, 17, 10)  # 2 x 3 x 2 blocks, all but two of them cut by the border
EVERY = 256  # more peaks than SMALL has voxels
TOUCHING = np.ones((3, 3, 3))

# --- oracle


def _oracle(volume, threshold):
    """Score and voxel of every peak, best first: plateau by plateau, by the definition."""
    values = np.where(np.isnan(volume), -np.inf, volume).astype(np.float32)
    found = []
    for value in np.unique(values[values > max(np.float32(threshold), 0)]):  # what is outside is 0
        plateaus, number = ndimage.label(values == value, TOUCHING)
        for plateau in range(1, number + 1):
            within = plateaus == plateau
            around = ndimage.binary_dilation(within, TOUCHING) & ~within
            if (values[around] < value).all():
                found.append((float(value), tuple(np.argwhere(within)[0].tolist())))
    return sorted(found, key=lambda peak: (-peak[0], peak[1]))


def _strict_maxima(volume, threshold):
    """Voxels above all their neighbours: the poster's peaks, blind to plateaus."""
    around = TOUCHING.copy()
    around[1, 1, 1] = 0
    highest = ndimage.maximum_filter(volume, footprint=around.astype(bool), mode="constant", cval=0)
    return {tuple(voxel) for voxel in np.argwhere((volume > highest) & (volume > threshold)).tolist()}


# --- the code under test, all ways at once


@functools.partial(jax.jit, static_argnames="max_peaks")
def _every_way(volumes, threshold, max_peaks):
    def in_full(ids, scores, count):
        voxels = jnp.stack(jnp.unravel_index(ids, volumes.shape[1:]), axis=-1)
        return peaks.Peaks(voxels.astype(jnp.float32), scores, count)

    highest, (num_blocks, candidates) = peaks.block_maxima(volumes), peaks.CAPACITIES[-1]
    source = peaks.of_volume(volumes)
    *sparse, complete = peaks._sparse_peaks(source, highest, threshold, max_peaks, num_blocks, candidates * max_peaks)
    complete &= jnp.all(jnp.sum(highest > threshold, axis=(1, 2, 3)) <= num_blocks)
    dense = peaks._dense_peaks(volumes, threshold, max_peaks)
    plainly = peaks.find_peaks_plainly(volumes, threshold, max_peaks)
    return peaks.find_peaks(volumes, threshold, max_peaks), plainly, in_full(*sparse), in_full(*dense), complete


def _assert_peaks(found, j, want, max_peaks):
    """`found` of joint type `j` are the peaks `want`."""
    found = peaks.Peaks(*(x[j] for x in found))
    assert int(found.count) == len(want)
    assert found.voxels.shape == (max_peaks, 3) and found.scores.shape == (max_peaks,)
    assert found.scores.dtype == found.voxels.dtype == np.float32 and found.count.dtype == np.int32
    best = want[:max_peaks]
    listed = [(float(s), tuple(v)) for s, v in zip(found.scores, np.asarray(found.voxels).tolist())]
    assert listed[: len(best)] == best
    assert not np.asarray(found.voxels[len(best) :]).any() and not np.asarray(found.scores[len(best) :]).any()


def _num_standing(volume, threshold):
    """The number of voxels above the threshold that have no greater neighbour."""
    values = np.nan_to_num(np.asarray(volume, np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    highest = ndimage.maximum_filter(values, footprint=TOUCHING, mode="constant", cval=-np.inf)
    return int(((values >= highest) & (values > threshold)).sum())


def _check(volumes, max_peaks, threshold=0.1):
    """All ways and their union agree with the oracle. Returns whether the sparse way was enough."""
    whole, plain, sparse, dense, complete = jax.device_get(_every_way(volumes, threshold, max_peaks))
    for j, volume in enumerate(volumes):
        want = _oracle(np.asarray(volume, np.float32), threshold)
        for found in (whole, dense, sparse) if complete else (whole, dense):
            _assert_peaks(found, j, want, max_peaks)
        if _num_standing(volume, threshold) <= 4 * max_peaks:
            _assert_peaks(plain, j, want, max_peaks)
    return bool(complete)


# --- volumes

_VALUES = np.array([0, 0.05, 0.1, 0.25, 0.5, np.nextafter(np.float32(0.5), 1), 1], np.float32)
_BROKEN = np.array([*_VALUES, -1, np.nan, np.inf, -np.inf], np.float32)


def _noise(shape, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "few values":
        return rng.choice(_VALUES, shape)
    if kind == "broken":
        return rng.choice(_BROKEN, shape)
    volume = rng.random(shape, np.float32)
    if kind == "hills":
        return ndimage.gaussian_filter(volume, 1.5)
    if kind == "terraces":  # wide plateaus of every form
        return np.round(8 * ndimage.gaussian_filter(volume, 1)) / np.float32(8)
    return volume


def _volumes(shape):
    noise = st.builds(
        functools.partial(_noise, shape),
        st.sampled_from(["few values", "broken", "floats", "hills", "terraces"]),
        st.integers(0, 2**32 - 1),
    )
    # Mostly one value, with a few others here and there.
    sparse = hnp.arrays(np.float32, shape, elements=st.sampled_from(_BROKEN.tolist()))
    return noise | sparse


def _painted(paint, background=0.0):
    volume = np.full(BLOCKS, background, np.float32)
    for voxel, value in paint.items():
        volume[voxel] = value
    return volume


def _line(columns, value=0.5, row=3, bin=7):
    return {(row, column, bin): value for column in columns}


# --- against the oracle


@given(st.tuples(_volumes(SMALL), _volumes(SMALL)), st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=60, deadline=None)
def test_small_volumes(volumes, threshold):
    """Two joint types, of which one may have too many candidates for the sparse way and the other not."""
    volumes = np.stack(volumes)
    _check(volumes, 4, threshold)
    assert _check(volumes, EVERY, threshold)


@given(_volumes(BLOCKS))
@settings(max_examples=40, deadline=None)
def test_volumes_of_many_blocks(volume):
    _check(volume[None], 16)


@pytest.mark.parametrize("kind, complete", [("hills", True), ("floats", False), ("few values", False)])
def test_both_ways_are_taken(kind, complete):
    volume = _noise(BLOCKS, kind, 0)
    assert _check(volume[None], 16) == complete
    assert len(_oracle(volume, 0.1)) > (0 if complete else 16)  # where it overflows, the count is still the truth


@pytest.mark.parametrize("seed", range(5))
def test_strict_maxima(seed):
    volumes = np.stack([_noise(SMALL, kind, seed) for kind in ("floats", "hills")])
    whole = jax.device_get(_every_way(volumes, 0.1, EVERY)[0])
    for j, volume in enumerate(volumes):
        voxels = {tuple(voxel) for voxel in whole.voxels[j, : whole.count[j]].astype(int).tolist()}
        assert voxels == _strict_maxima(volume, 0.1)


# --- by hand

_V = {(1, 1, 1): 0.5, (2, 2, 2): 0.5, (3, 3, 3): 0.5, (2, 4, 4): 0.5, (1, 5, 5): 0.5}
_RING = {(4, 8 + r, 5 + c): 0.5 for r, c in itertools.product((-1, 0, 1), repeat=2) if (r, c) != (0, 0)}


@pytest.mark.parametrize(
    "paint, want",
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({(4, 8, 5): 0.1}, [], id="at the threshold"),
        pytest.param({(4, 8, 5): np.nextafter(np.float32(0.1), 1)}, [(4, 8, 5)], id="just above it"),
        pytest.param({(4, 8, 5): 0.5, (4, 10, 5): 0.4}, [(4, 8, 5), (4, 10, 5)], id="two, a voxel between them"),
        pytest.param({(4, 8, 5): 0.4, (4, 10, 5): 0.5}, [(4, 10, 5), (4, 8, 5)], id="the better first"),
        pytest.param({(4, 8, 5): 0.5, (5, 9, 6): 0.4}, [(4, 8, 5)], id="neighbours by a corner"),
        pytest.param({(7, 7, 7): 0.4, (8, 8, 8): 0.5}, [(8, 8, 8)], id="neighbours in other blocks"),
        pytest.param({(4, 8, 5): 0.5, (4, 8, 6): 0.5}, [(4, 8, 5)], id="two equal"),
        pytest.param({(7, 7, 8): 0.5, (8, 8, 7): 0.5}, [(7, 7, 8)], id="two equal, by a corner and in other blocks"),
        pytest.param(_line(range(3, 6)) | {(4, 5, 7): 0.5, (5, 5, 7): 0.5}, [(3, 3, 7)], id="an L"),
        pytest.param(_V, [(1, 1, 1)], id="a V"),
        pytest.param({(8 - r, c, b): v for (r, c, b), v in _V.items()}, [(5, 3, 3)], id="a V upside down"),
        pytest.param(_V | {(1, 6, 6): 0.6}, [(1, 6, 6)], id="a V beside something higher"),
        pytest.param(_V | {(1, 6, 6): 0.4}, [(1, 1, 1)], id="a V beside something lower"),
        pytest.param(_RING, [(3 + 1, 7, 4)], id="a ring"),
        pytest.param(_RING | {(4, 8, 5): 0.6}, [(4, 8, 5)], id="a ring around a peak"),
        pytest.param(_RING | {(4, 8, 5): np.nan}, [(4, 7, 4)], id="a ring around a NaN"),
        pytest.param(_line(range(17)), [(3, 0, 7)], id="a line through all blocks"),
        pytest.param(_line(range(16)) | {(3, 16, 7): 0.6}, [(3, 16, 7)], id="a line that ends in something higher"),
        pytest.param(_line(range(1, 17)) | {(3, 0, 7): 0.6}, [(3, 0, 7)], id="a line that starts at something higher"),
        pytest.param(_line(range(7)) | _line(range(8, 17)), [(3, 0, 7), (3, 8, 7)], id="a line cut in two"),
        pytest.param({(4, 8, 5): np.nan, (4, 8, 6): 0.5}, [(4, 8, 6)], id="beside a NaN"),
        pytest.param({(4, 8, 5): np.inf, (4, 8, 6): 0.5, (1, 1, 1): -np.inf}, [(4, 8, 5)], id="infinite"),
        pytest.param({(4, 8, 5): np.inf, (4, 9, 6): np.inf, (0, 0, 0): 0.2}, [(4, 8, 5), (0, 0, 0)], id="two infinite"),
    ],
)
def test_by_hand(paint, want):
    volume = _painted(paint)
    assert [voxel for _, voxel in _oracle(volume, 0.1)] == want
    assert _check(volume[None], 16)


@pytest.mark.parametrize("background", [0.0, 0.05, -3.0, np.nan, -np.inf])
def test_corners_edges_and_faces(background):
    places = itertools.product(*[(0, size // 2, size - 1) for size in BLOCKS])
    paint = dict.fromkeys(places, 1.0)
    volume = _painted(paint, background)
    assert [voxel for _, voxel in _oracle(volume, 0.1)] == sorted(paint)
    assert _check(volume[None], 16)  # 27 peaks, 16 places: the first in voxel order


def _block_maxima(volumes):
    """By the definition, at places of whole blocks; a block without a number is -inf."""
    padded = np.pad(volumes, [(0, 0)] + [(0, -size % 8) for size in volumes.shape[1:]], constant_values=np.nan)
    joints, *sizes = padded.shape
    blocks = padded.reshape(joints, sizes[0] // 8, 8, sizes[1] // 8, 8, sizes[2] // 8, 8)
    return np.where(np.isnan(blocks), -np.inf, blocks).max(axis=(2, 4, 6))


@pytest.mark.parametrize("shape", [(2, *BLOCKS), (1, 9, 240, 316)])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.1, 0.99])
def test_nan_hides_nothing_in_block_maxima(shape, share):
    """XLA's own maximum over several axes forgets, on CPUs and in some shapes only, what came before a NaN."""
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=shape).astype(np.float32)
    volumes[rng.random(shape) < share] = np.nan
    np.testing.assert_array_equal(jax.jit(peaks.block_maxima)(volumes), _block_maxima(volumes))


def test_peak_beside_a_nan_in_one_joint_type_of_two():
    volumes = np.zeros((2, *BLOCKS), np.float32)
    volumes[0, 4, 4, 5], volumes[0, 4, 5, 5] = 0.5, np.nan
    found = jax.device_get(peaks.find_peaks(volumes, 0.1, 16))
    for j, volume in enumerate(volumes):
        _assert_peaks(found, j, _oracle(volume, 0.1), 16)
    assert found.count.tolist() == [1, 0]


@pytest.mark.parametrize("value, number", [(0.0, 0), (0.1, 0), (0.5, 1), (np.inf, 1), (-np.inf, 0), (np.nan, 0)])
def test_constant_volumes(value, number):
    volumes = np.full((2, *SMALL), value, np.float32)
    volumes[1, 0, 0, 0] = 0.6  # joint types do not mix
    assert _check(volumes, EVERY)
    _check(volumes, 4)
    assert _every_way(volumes, 0.1, EVERY)[0].count.tolist() == [number, 1]


def test_plateau_open_at_one_voxel_of_many():
    """All of the volume is one plateau, but for one higher voxel in its last corner."""
    volumes = np.full((2, *SMALL), 0.5, np.float32)
    volumes[0, -1, -1, -1] = 0.6
    volumes[1, -1, -1, -1] = 0.4
    assert _check(volumes, EVERY)
    whole = _every_way(volumes, 0.1, EVERY)[0]
    assert whole.count.tolist() == [1, 1]
    assert whole.voxels[:, 0].tolist() == [[4, 5, 6], [0, 0, 0]]
    assert not _check(volumes, 4)


def test_more_blocks_than_the_sparse_way_looks_into():
    """A volume so thin that 514 blocks are few voxels, with one peak a block: the peaks would have had room."""
    rng = np.random.default_rng(0)
    blocks = peaks.CAPACITIES[-1][0] + 2
    volume = np.zeros((1, 1, 1, 8 * blocks), np.float32)
    volume[..., 4::8] = rng.choice(_VALUES[3:], blocks)
    assert blocks < 4 * EVERY
    assert not _check(volume, EVERY)
    volume[..., :8] = volume[..., -8:] = 0
    assert _check(volume, EVERY)  # as many as it can hold


def test_frames_together_of_which_one_overflows():
    frames = np.stack([_noise(BLOCKS, "floats", 0), _noise(BLOCKS, "hills", 0), _painted(_V)])[:, None]
    together = jax.vmap(functools.partial(_every_way, threshold=0.1, max_peaks=16))(frames)
    assert together[-1].tolist() == [False, True, True]
    for frame, volumes in enumerate(frames):
        want = _oracle(volumes[0], 0.1)
        assert want
        _assert_peaks(jax.device_get(together[0]), (frame, 0), want, 16)


def test_bfloat16():
    """Rounding makes ties, and a threshold of 0.1 lies just below bfloat16's 0.1."""
    for kind in ("hills", "floats", "broken"):
        _check(jnp.stack([jnp.asarray(_noise(SMALL, kind, seed), jnp.bfloat16) for seed in range(2)]), 4)
    _check(jnp.full((2, *SMALL), 0.1, jnp.bfloat16), 4)
    assert _every_way(jnp.full((2, *SMALL), 0.1, jnp.bfloat16), 0.1, 4)[0].count.tolist() == [1, 1]


def test_defaults():
    """Threshold 0.1, 128 peaks, whole voxels."""
    volumes = np.stack([_noise(SMALL, "few values", 0), np.zeros(SMALL, np.float32)])
    volumes[1, [0, 2, 4], 1, 1] = 0.09, 0.11, 0.3
    found = jax.device_get(peaks.find_peaks(jnp.asarray(volumes)))
    for j, volume in enumerate(volumes):
        _assert_peaks(found, j, _oracle(volume, 0.1), 128)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="want heatmaps"):
        peaks.find_peaks(jnp.zeros(SMALL))


# --- rendered joints


@functools.partial(jax.jit, static_argnames=("sigma", "subvoxel"))
def _render(voxels, present, sigma, subvoxel=False):
    return heatmaps.render(voxels, present, BLOCKS, sigma, subvoxel)


def _crowd(seed):
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(-0.5, np.array(BLOCKS) - 0.5, (16, 1, 3)).astype(np.float32)
    return voxels, rng.random((16, 1)) < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_crowds(seed):
    voxels, present = _crowd(seed)
    for subvoxel in (False, True):
        _check(np.asarray(_render(voxels, present, 2, subvoxel)), 16)


@pytest.mark.parametrize("seed", range(10))
def test_joints_that_do_not_touch_are_found_where_they_are(seed):
    """However much their Gaussians overlap."""
    voxels, present = _crowd(seed)
    kept = []
    for person, voxel in enumerate(np.round(voxels[:, 0]).astype(int).tolist()):
        present[person] &= all(max(abs(a - b) for a, b in zip(voxel, other)) > 1 for other in kept)
        kept += [voxel] if present[person] else []
    assert len(kept) > 5
    found = jax.device_get(_every_way(_render(voxels, present, 2), 0.1, 16)[0])
    _assert_peaks(found, 0, [(1.0, tuple(voxel)) for voxel in sorted(kept)], 16)


def _refined(volume):
    return jax.device_get(peaks.find_peaks(volume, 0.1, 16, subvoxel=True))


@pytest.mark.parametrize("sigma", [1.5, 2, 4])
@given(st.tuples(*[st.floats(-0.5, size - 0.5, width=32) for size in BLOCKS]))
@settings(max_examples=40, deadline=None)
def test_subvoxel_centres_are_recovered(sigma, centre):
    voxels = np.array(centre, np.float32).reshape(1, 1, 3)
    volume = np.asarray(_render(voxels, np.ones((1, 1), bool), sigma, subvoxel=True))
    found = _refined(volume)
    assert found.count.tolist() == [1] and not found.voxels[0, 1:].any()
    assert found.scores[0, 0] == volume.max()  # the heatmap's, not the parabola's
    voxel = np.array(np.unravel_index(volume[0].argmax(), BLOCKS))
    on_border = (voxel == 0) | (voxel == np.array(BLOCKS) - 1)
    np.testing.assert_allclose(found.voxels[0, 0], np.where(on_border, voxel, centre), atol=1e-4)


def _top(before, centre, after):
    before, centre, after = np.log([before, centre, after])
    return (before - after) / (2 * (before - 2 * centre + after))


def test_subvoxel_by_hand():
    assert _top(0.5, 1, 0.25) == pytest.approx(-1 / 6)
    paint = _line([7, 8], 0.8, 4, 5) | {(4, 6, 5): 0.2}  # two equal: halfway; zeros in the other directions
    paint |= {(0, 0, 0): 0.5, (0, 1, 0): 0.25}
    paint |= {(0, 16, 9): 0.5, (1, 16, 9): 0.25, (0, 15, 9): 0.25, (0, 16, 8): 0.25}
    paint |= {(8, 2, 2): 0.5, (8, 1, 2): 0.4, (8, 3, 2): 0.2, (7, 2, 2): 0.4, (8, 2, 1): np.nan, (8, 2, 3): 0.4}
    paint |= {(8, 12, 2): 0.4, (8, 12, 1): -1.0, (8, 12, 3): 0.3}
    paint |= {(2, 14, 2): np.inf, (2, 13, 2): 0.5, (2, 15, 2): 0.25}
    want = [(2, 14, 2), (4, 7.5, 5), (0, 0, 0), (0, 16, 9), (8, 2 + _top(0.4, 0.5, 0.2), 2), (8, 12, 2)]
    found = _refined(_painted(paint)[None])
    np.testing.assert_allclose(found.voxels[0, :6], want, atol=1e-5)
    np.testing.assert_array_equal(found.scores[0, :7], np.array([np.inf, 0.8, 0.5, 0.5, 0.5, 0.4, 0], np.float32))
    assert found.count.tolist() == [6] and not found.voxels[0, 6:].any()


@jax.jit
def _offsets(heatmaps, some):
    return peaks.subvoxel_offsets(peaks.of_volume(heatmaps), some)


def test_subvoxel_offsets():
    volume = _painted({(4, 8, 5): 0.8, (3, 8, 5): 0.4, (5, 8, 5): 0.2, (4, 7, 5): 0.1, (4, 9, 5): 0.7, (4, 10, 5): 0.6})
    # A peak, an empty place (where there would be an offset), and two slopes: one whose parabola's top is more than a
    # voxel away, one that curves upwards and has none.
    voxels = jnp.array([[[4, 8, 5], [4, 8, 5], [4, 9, 5], [4, 7, 5]]], jnp.float32)
    volume[4, 6, 5] = 0.05
    some = peaks.Peaks(voxels, jnp.array([[0.8, 0.0, 0.7, 0.1]]), jnp.array([3]))
    want = [(_top(0.4, 0.8, 0.2), _top(0.1, 0.8, 0.7), 0), (0, 0, 0), (0, -1, 0), (0, 0, 0)]
    assert _top(0.8, 0.7, 0.6) < -1 and np.log(0.05 * 0.8) > 2 * np.log(0.1)
    np.testing.assert_allclose(_offsets(volume[None], some)[0], want, atol=1e-5)
