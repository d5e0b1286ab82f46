"""Tests of fast decoding: the peaks of the plain networks' heatmaps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax import ops, weights
from loco_jax.benchmark import inputs
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera, skeleton
from loco_jax.geometry.volume import Volume
from loco_jax.models import patch_vha, vha
from loco_jax.ops.cpu import decoding
from loco_jax.pose import heatmaps, peaks
from loco_jax.tasks.vha import VhaTask

MOST = 16
# Networks and volumes whose rows and columns do not fill cells, blocks or tiles, and whose bins do not fill cells.
# The tests with trained networks have level 2.
VHAS = {1: (vha.VHA(1, 10), (9, 18, 10)), 3: (vha.VHA(3, 34), (20, 70, 34))}
PATCHES = {1: (patch_vha.PatchVHA(1, 11, 8), (9, 18, 11)), 3: (patch_vha.PatchVHA(3, 34, 8), (20, 30, 34))}
ALL = [*VHAS.values(), *PATCHES.values()]
NAMES = [f"{type(network).__name__}({network.level})" for network, _ in ALL]
of_each_kind = pytest.mark.parametrize("network, shape", [VHAS[1], PATCHES[3]], ids=["VHA", "PatchVHA"])


@pytest.fixture(scope="module", autouse=True)
def small_volumes_are_searched():
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ops, "_LEAST_TO_SEARCH", 0)
        m.setattr(peaks, "CAPACITIES", ((512, 4),))  # one in place of two: sooner compiled
        yield


@functools.cache
def _params(network):
    """Random ones, larger than at the start of training, with biases: heatmaps with hills and valleys."""
    cells = 2 ** (network.level + 1)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 14, cells, cells, network.depth_bins)))
    rng = np.random.default_rng(0)

    def larger(path, x):
        bias = 0.05 * rng.normal(size=x.shape) if path[-1].key == "bias" and isinstance(network, vha.VHA) else 0
        return jnp.float32(2 * x + bias)

    return jax.tree_util.tree_map_with_path(larger, params)


def _code(network, shape, kind, seed):
    """Empty, full, or with a few spots, some of them at the border and over each other.

    A published network's is never quite empty: with biases that would leave plateaus, which rounding breaks up.
    """
    rng = np.random.default_rng(seed)
    size = vha.code_shape(shape, network.level)
    noise = rng.normal(size=size).astype(np.float32)
    if kind == "full":
        return noise
    mask = np.zeros(size, bool)
    for _ in range(0 if kind == "empty" else rng.integers(1, 5)):
        corner = [rng.choice([0, rng.integers(s), s - 1]) for s in size]
        mask[tuple(slice(max(c - 1, 0), c + 1) for c in corner)] = True
    elsewhere = 0.1 * rng.normal(size=size) if isinstance(network, vha.VHA) else 0
    return np.where(mask, noise, elsewhere).astype(np.float32)


def _codes(network, shape):
    kinds = st.sampled_from(["empty", "spots", "full"])
    return st.builds(functools.partial(_code, network, shape), kinds, st.integers(0, 2**32 - 1))


@functools.cache
def _plain(network, shape):
    return jax.jit(lambda params, code: network.apply(params, code[None], shape[:2], method="decode")[0])


@functools.cache
def _fast(network, shape):
    """Finds peaks and their sub-voxel offsets."""

    def find(params, code, threshold):
        return ops.decode_peaks_and_offsets(network, params, code, shape[:2], threshold, MOST)

    return jax.jit(find)


def _above(plain, share):
    """The threshold that a share of voxels do not exceed."""
    return max(float(np.quantile(plain, share)), 1e-6)


def _assert_same(fast, plain, slack=0):
    """The same but for rounding, in which the order of scores may change that are all but equal.

    Rounding errors of logits are some 1e-5, and a small score has the same relative error.

    In noise, where two neighbours or a voxel and the threshold may be all but equal, counts may differ by `slack`.
    """
    fast, plain = jax.device_get((fast, plain))
    np.testing.assert_allclose(fast.count, plain.count, rtol=0, atol=slack)
    np.testing.assert_allclose(fast.scores, plain.scores, rtol=5e-5, atol=1e-7)
    for place in np.argwhere(np.abs(fast.voxels - plain.voxels).max(axis=-1) > 1e-3):
        *joint, k = place
        joint = tuple(joint)
        alike = np.isclose(plain.scores[joint], fast.scores[joint][k], rtol=5e-5, atol=1e-7)
        assert (np.abs(plain.voxels[joint][alike] - fast.voxels[joint][k]).max(axis=-1) < 1e-3).any()


@pytest.mark.parametrize("network, shape", ALL, ids=NAMES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_peaks_are_those_of_the_plain_heatmaps(network, shape, data):
    params, code = _params(network), data.draw(_codes(network, shape))
    plain = _plain(network, shape)(params, code)
    # Between the ripples of a published network's almost empty places rounding decides which are peaks.
    lowest = 0.9 if isinstance(network, vha.VHA) else 0.5
    threshold = _above(plain, data.draw(st.sampled_from([lowest, 0.99, 0.9999])))
    _assert_same(_fast(network, shape)(params, code, threshold)[0], peaks.find_peaks(plain, threshold, MOST), slack=1)


@of_each_kind
def test_subvoxel_peaks(network, shape):
    params, code = _params(network), _code(network, shape, "full", 1)
    plain = _plain(network, shape)(params, code)
    threshold = _above(plain, 0.99)
    want = peaks.find_peaks(plain, threshold, MOST, subvoxel=True)
    assert np.modf(want.voxels)[0].any()
    found, offsets = _fast(network, shape)(params, code, threshold)
    _assert_same(found._replace(voxels=found.voxels + offsets), want)


@of_each_kind
def test_values_at_voxels_are_those_of_the_plain_heatmaps(network, shape):
    params, code = _params(network), _code(network, shape, "full", 1)
    rng = np.random.default_rng(0)
    joints, at = rng.integers(0, 14, 60), np.stack([rng.integers(-2, size + 2, 60) for size in shape], axis=-1)
    at[:2] = [[0, 0, 0], np.array(shape) - 1]
    found = jax.jit(lambda p, c: ops.decode_at(network, p, c, shape[:2], joints, at))(params, code)
    inside = np.clip(at, 0, np.array(shape) - 1)
    np.testing.assert_allclose(found, _plain(network, shape)(params, code)[joints, *inside.T], rtol=1e-5, atol=1e-6)


def _no_peaks(heatmaps, threshold, max_peaks):
    nothing = jnp.zeros((heatmaps.shape[0], max_peaks), jnp.int32)
    return nothing, nothing.astype(jnp.float32), nothing[:, 0]


@of_each_kind
def test_dense_way_is_for_what_is_too_full(network, shape, monkeypatch):
    """The peaks are the same without the dense way, and where joint types have too many blocks for another one."""
    params, code = _params(network), _code(network, shape, "spots", 1)
    plain = _plain(network, shape)(params, code)
    threshold = float(np.mean(np.sort(plain, axis=None)[-301:-299]))
    want = peaks.find_peaks(plain, threshold, MOST)
    crowded_J = (peaks.block_maxima(plain) > threshold).sum(axis=(1, 2, 3)) > 1
    assert want.count[crowded_J].any()

    def found():
        return _fast.__wrapped__(network, shape)(params, code, threshold)[0]  # not what was traced before

    with monkeypatch.context() as m:
        m.setattr(peaks, "_dense_peaks", _no_peaks)
        _assert_same(found(), want)
    monkeypatch.setattr(peaks, "CAPACITIES", ((1, 8),))
    _assert_same(found(), want)


def test_more_blocks_than_a_patch_source_holds(monkeypatch):
    """Then the dense way is taken, though no joint type has more blocks or candidates than are looked into."""
    network, shape = PATCHES[3]
    params, code = _params(network), _code(network, shape, "full", 0)
    plain = _plain(network, shape)(params, code)
    reach_JxN = peaks.block_maxima(plain).reshape(14, -1)
    threshold = 1.0001 * float(jnp.sort(reach_JxN, axis=1)[:, -7].max())  # 6 blocks of a joint type reach it
    reached = int((reach_JxN > threshold).any(axis=0).sum())
    want = peaks.find_peaks(plain, threshold, MOST)
    assert reached > 12 and want.count.any()
    monkeypatch.setattr(decoding, "_CHUNK", 1)
    monkeypatch.setattr(decoding, "MAX_BLOCKS", 12)
    monkeypatch.setattr(peaks, "CAPACITIES", ((12, 8),))
    found, _ = _fast.__wrapped__(network, shape)(params, code, threshold)  # not what was traced before
    _assert_same(found, want)


def test_a_patch_source_holds_what_search_looks_into():
    assert decoding.MAX_BLOCKS >= peaks.CAPACITIES[-1][0]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_code_that_is_not_finite(number):
    """A PatchVHA spreads it as far as it does anyway, and no further."""
    network, shape = PATCHES[1]
    params, code = _params(network), _code(network, shape, "full", 3)
    code[-1, -2, -1] = number  # NaN as far as the middle of a block
    plain = _plain(network, shape)(params, code)
    assert np.isnan(plain).any() and np.isfinite(plain).any()
    threshold = float(np.nanquantile(plain, 0.9))
    want = peaks.find_peaks(plain, threshold, MOST)
    assert want.count.any()
    _assert_same(_fast(network, shape)(params, code, threshold)[0], want)


@pytest.mark.parametrize("network, shape", PATCHES.values(), ids=[f"PatchVHA({level})" for level in PATCHES])
def test_cells_are_left_out_only_where_they_cannot_reach_the_threshold(network, shape):
    """The worst last layer: a voxel of each cell (of some of them at level 1) points straight away from the mean."""
    params = jax.tree.map(lambda x: x, _params(network))
    last = params["params"]["to_logits"]["Dense_1"]

    @jax.jit
    def both(params, code, threshold):
        features = network.apply(params, code[None], method="decode_features")[0]
        hidden = network.apply(params, features, method=lambda net, x: net.to_logits(x, True))
        logits = network.apply(params, features, method=lambda net, x: net.to_logits(x))
        found = decoding._cell_maxima(network, params, features, threshold)
        return hidden.reshape(len(found), -1), jnp.max(logits.reshape(len(found), 14, -1), axis=-1), found

    share = []
    for seed in range(4):
        code = _code(network, shape, "spots", seed)
        hidden, _, _ = jax.device_get(both(params, code, 0.1))
        centre = hidden.mean(axis=0)
        away = (hidden - centre)[np.arange(last["bias"].size) % len(hidden)].T
        last["kernel"] = np.random.default_rng(seed).uniform(0.3, 0.4, away.shape[1]) * away
        last["kernel"] = last["kernel"] / np.linalg.norm(away, axis=0)
        last["bias"] = -5 - centre @ last["kernel"]
        for threshold in (0.02, 0.1, 0.2, 0.4):
            _, want, found = jax.device_get(both(params, code, threshold))
            out = found == -np.inf
            assert (want[out] < np.log(threshold / (1 - threshold))).all()
            assert (found[~out] >= want[~out]).all()  # and no more than a little greater
            np.testing.assert_allclose(found[~out], want[~out], rtol=1e-4, atol=1e-3)
            share.append(out.mean())
    assert min(share) < 0.2 and max(share) > 0.5 and np.ptp(share) > 0.4


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.1, 0.4]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_tiles_are_left_out_only_where_they_cannot_reach_the_threshold(seed, threshold, is_zero):
    """The worst kernels: they point straight from an empty patch to a place's, and just fail there or just do not."""
    rng = np.random.default_rng(seed)
    size, (rows, columns), channels = (29, 45), (32, 48), 3  # whole blocks
    empty = np.zeros(channels) if is_zero else rng.normal(size=channels)
    features = np.broadcast_to(empty, (rows, columns, channels)).copy()
    for _ in range(rng.integers(0, 4)):
        row, column = rng.integers(0, size)
        spot = features[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
        spot += rng.normal(size=spot.shape) * 10.0 ** rng.uniform(-1, 0)
    padded = np.pad(features, ((2, 2), (2, 2), (0, 0))).astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(padded.astype(np.float64), (5, 5), axis=(0, 1))
    patches = np.moveaxis(patches, 2, -1).reshape(rows * columns, -1)
    centre = np.tile(np.float32(empty).astype(np.float64), 25)
    lengths = np.linalg.norm(patches - centre, axis=1)
    away = patches[rng.choice(np.flatnonzero(lengths))] - centre if lengths.any() else rng.normal(size=centre.shape)
    kernel = np.outer(threshold / np.sum(away**2) * rng.choice([0.3, 0.99, 1.01], 6), away)
    kernel = kernel.astype(np.float32)
    last = decoding._Last(padded, kernel.reshape(6, 5, 5, channels), np.float32(-(kernel @ centre)), None)
    listed = np.asarray(decoding._may_reach(last, size, threshold))
    heat = (patches @ kernel.T.astype(np.float64) + last.bias).reshape(rows, columns, 6)
    heat[size[0] :], heat[:, size[1] :] = 0, 0
    reached = heat.reshape(rows // 8, 8, columns // 8, 8, 6).max(axis=(1, 3, 4)) > threshold
    assert not (reached & ~listed).any()
    # Nor is everything listed: far from all spots there is nothing to be found.
    without = np.pad(np.broadcast_to(empty, features.shape), ((2, 2), (2, 2), (0, 0))).astype(np.float32)
    touched = (padded != without).any(axis=-1)
    there = np.zeros((rows, columns), bool)
    for row, column in np.argwhere(touched):
        there[max(row - 4, 0) : row + 1, max(column - 4, 0) : column + 1] = True
    inner = ~there.reshape(rows // 8, 8, columns // 8, 8).any(axis=(1, 3))[1:-1, 1:-1]
    if touched.mean() < 0.3:
        assert not listed[1:-1, 1:-1][inner].any()


_listed = jax.jit(decoding._may_reach, static_argnums=1)
scales = st.sampled_from([1e-3, 1.0, 1e3])


@given(st.integers(0, 2**32 - 1), scales, scales, st.sampled_from([3, 40]), st.sampled_from(["any", "aimed", "alike"]))
@settings(max_examples=40, deadline=None)
def test_the_bound_is_safe(seed, of_kernel, of_features, channels, kind):
    """With a threshold just below what a tile's greatest is in float64, the tile is listed.

    Kernels that are aimed point from the empty places' patch to another, so the bound is as near as can be. Numbers
    that are alike are rounded alike, and errors add up.
    """
    rng = np.random.default_rng(seed)
    size, bins = (16, 24), 5
    rows, columns = size
    empty = rng.choice([0, 1, 100]) * rng.uniform(-1, 1, channels)
    features = np.broadcast_to(empty, (rows + 4, columns + 4, channels)).copy()
    spots = rng.uniform(size=features.shape[:2]) < rng.choice([0.005, 0.05])
    away = np.full(channels, 0.1) if kind == "alike" else rng.normal(size=(spots.sum(), channels))
    features[spots] += away * 10.0 ** rng.uniform(-6, 0)
    features = (of_features * features).astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(features.astype(np.float64), (5, 5), axis=(0, 1))
    patches = np.moveaxis(patches, 2, -1).reshape(rows * columns, -1)
    kernel = rng.normal(size=(bins, patches.shape[1]))
    from_empty = patches - np.tile((of_features * empty).astype(np.float32), 25)
    if kind != "any" and from_empty.any():
        kernel = from_empty[rng.choice(np.flatnonzero(from_empty.any(axis=1)), bins)]
        kernel = kernel / np.abs(kernel).max(axis=1, keepdims=True)
    kernel = (of_kernel * kernel).astype(np.float32)
    bias = -(kernel.astype(np.float64) @ np.tile(features[0, 0], 25)) * rng.choice([0, 1])
    with np.errstate(over="ignore"):
        bias = bias.astype(np.float32)
    last = decoding._Last(features, kernel.reshape(bins, 5, 5, channels), bias, None)
    highest = (patches @ kernel.T.astype(np.float64) + bias).reshape(2, 8, 3, 8, bins).max(axis=(1, 3, 4))
    for tile in np.ndindex(highest.shape):
        with np.errstate(over="ignore"):
            below = np.nextafter(np.float32(highest[tile]), np.float32(-np.inf))
        below = np.minimum(below, np.finfo(np.float32).max)
        if 0 <= below < highest[tile]:  # thresholds are not negative, nor is what ReLU leaves of less
            assert np.asarray(_listed(last, size, below))[tile]


@jax.jit
def _is_near(hidden, centres, last, limit):
    return decoding._around(centres, last, limit)(hidden)


@given(
    st.integers(0, 2**32 - 1),
    scales,
    scales,
    st.sampled_from([1, 3, 16, 100, 256, 611, 1000]),  # each compiled once
    st.sampled_from(["any", "aimed", "alike"]),
)
@settings(max_examples=40, deadline=None)
def test_the_bound_on_cells_is_safe_at_any_width(seed, of_kernel, of_hidden, width, kind):
    """With a limit just below what a cell's greatest logit is in float64, the cell is not near to any centre.

    Kernels that are aimed point from a centre to a cell, so the bound is as near as can be. Numbers that are alike are
    rounded alike, and errors add up.
    """
    rng = np.random.default_rng(seed)
    cells, centres, voxels = 6, 3, 4
    centre = rng.choice([0, 1, 100]) * (1 if kind == "alike" else rng.uniform(-1, 1, (centres, width)))
    centre = (of_hidden * np.broadcast_to(centre, (centres, width))).astype(np.float32)
    away = np.full((cells, width), 0.1) if kind == "alike" else rng.normal(size=(cells, width))
    away *= 10.0 ** rng.uniform(-6, 0, (cells, 1))
    hidden = (centre[rng.integers(centres, size=cells)] + of_hidden * away).astype(np.float32)
    kernel = rng.normal(size=(width, voxels))
    aim = hidden[rng.integers(cells, size=voxels)] - centre[rng.integers(centres, size=voxels)].astype(np.float64)
    if kind != "any" and aim.any(axis=1).all():
        kernel = (aim / np.abs(aim).max(axis=1, keepdims=True)).T
    kernel = (of_kernel * kernel).astype(np.float32)
    exact = kernel.astype(np.float64)
    with np.errstate(over="ignore"):
        bias = (-(centre[0] @ exact) * rng.choice([0, 1]) - rng.choice([0, 5])).astype(np.float32)
    highest = (hidden @ exact + bias).max(axis=1)
    last = {"kernel": kernel, "bias": bias}
    for cell in range(cells):
        with np.errstate(over="ignore"):
            below = np.nextafter(np.float32(highest[cell]), np.float32(-np.inf))
        if np.isfinite(below) and below < highest[cell]:
            assert not np.asarray(_is_near(hidden, centre, last, below))[cell]
    # Nor is everything far: where a limit is well above what can be reached.
    if of_kernel == of_hidden == 1:
        distance = np.linalg.norm(hidden[:, None].astype(np.float64) - centre, axis=-1)[..., None]
        sizes = np.linalg.norm(hidden, axis=-1)[:, None, None] + np.linalg.norm(centre, axis=-1)[:, None]
        reach = centre @ kernel + bias + (distance + 0.05 * sizes) * np.linalg.norm(kernel, axis=0)
        assert np.asarray(_is_near(hidden, centre, last, np.float32(reach.max() + 1e-2 * np.abs(reach).max()))).all()


def test_a_tile_with_a_number_that_is_not_finite_is_looked_into():
    features = np.zeros((12, 20, 2), np.float32)
    features[8, 15] = np.nan
    last = decoding._Last(features, np.ones((1, 5, 5, 2), np.float32), np.zeros(1, np.float32), None)
    assert decoding._may_reach(last, (8, 16), 0.1)[0, 1]
    features[8, 15] = 0
    assert not decoding._may_reach(last, (8, 16), 0.1).any()


@of_each_kind
def test_frames_together(network, shape):
    codes = np.stack([_code(network, shape, kind, 2) for kind in ("empty", "spots", "full")])
    params = _params(network)
    plain = np.stack([_plain(network, shape)(params, code) for code in codes])
    threshold = _above(plain, 0.99)
    want = jax.tree.map(lambda *x: np.stack(x), *[peaks.find_peaks(p, threshold, MOST) for p in plain])
    found, _ = jax.vmap(_fast(network, shape), in_axes=(None, 0, None))(params, codes, threshold)
    _assert_same(found, want)
    assert len(set(want.count.sum(axis=1).tolist())) > 1


@pytest.mark.parametrize("kind", [vha.VHA, patch_vha.PatchVHA])
def test_bfloat16_and_small_volumes_are_left_to_the_plain_network(kind, monkeypatch):
    def refuse(*args, **ways):
        raise AssertionError("another way")

    monkeypatch.setattr(ops, "_LEAST_TO_SEARCH", 2**20)
    monkeypatch.setattr(decoding, "search", refuse)

    def shape_of_scores(dtype, rows):
        network = kind(1, 10, dtype=dtype)
        params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 14, 4, 4, 10)))
        code = jax.ShapeDtypeStruct((rows // 2, 64, 5), jnp.float32)
        find = functools.partial(ops.decode_peaks, network, size=(rows, 128))
        return jax.eval_shape(lambda p, c: find(p, c), params, code).scores.shape

    assert shape_of_scores(jnp.bfloat16, 1024) == shape_of_scores(jnp.float32, 16) == (14, 128)
    with pytest.raises(AssertionError, match="another way"):
        shape_of_scores(jnp.float32, 1024)


@functools.cache
def _of_a_crowd():
    """Voxels and which are there, of the crowd's test scenes at demo scale by number."""

    @jax.jit
    def targets(number):
        crowd = crowds.DEMO
        scene = crowds.sample_scene(crowds.scene_key("test", number), crowd)
        joints = scene.joints[:, skeleton.FROM_JTA]
        present = scene.present[:, None] & crowd.volume.in_view(crowd.camera, joints)
        return crowd.volume.to_voxels(crowd.camera, joints), present

    return targets


@functools.cache
def _of_trained(kind):
    """Peaks with offsets, plain and fast, of joints in a demo volume with noise on the code."""
    shape = crowds.DEMO.volume.shape
    network, params = kind(2, shape[2]), _trained(kind)

    @jax.jit
    def both(voxels, present, seed=0, noise=0.0):
        volume = heatmaps.render(voxels, present, shape, 2.0)
        code = network.apply(params, volume[None], method="encode")[0]
        code += noise * jnp.std(code) * jax.random.normal(jax.random.key(seed), code.shape)
        plain = peaks.of_volume(network.apply(params, code[None], shape[:2], method="decode")[0])
        found = peaks.search(plain)
        fast = ops.decode_peaks_and_offsets(network, params, code, shape[:2])
        return (found, peaks.subvoxel_offsets(plain, found)), fast

    return lambda *arguments: jax.device_get(both(*arguments))


@pytest.mark.parametrize("kind", [patch_vha.PatchVHA, vha.VHA])
@given(st.lists(st.tuples(*[st.floats(-0.5, s - 0.5, width=32) for s in (40, 60, 80)]), max_size=7))
@settings(max_examples=4, deadline=None)
def test_crowds_through_trained_networks(kind, places):
    """Joints of real heatmaps, at borders and over each other: the released weights and the benchmark's."""
    voxels, present = (np.zeros_like(x) for x in _of_a_crowd()(0))
    places = [(12.0, 20.0, 40.0), *places]  # somebody whom it finds
    voxels[: len(places)] = np.reshape(places, (-1, 1, 3)) + np.arange(14)[:, None] % 5 - 2
    present[: len(places)] = True
    want, fast = (found._replace(voxels=found.voxels + more) for found, more in _of_trained(kind)(voxels, present))
    _assert_same(fast, want)
    assert want.count.any()


@pytest.mark.parametrize("kind", [patch_vha.PatchVHA, vha.VHA])
def test_test_scenes_through_trained_networks(kind):
    """Every peak of two frames of the made-up crowd, without and with a fifth of noise on the code."""
    num_found = 0
    for number in range(2):
        voxels, present = _of_a_crowd()(number)
        for noise in (0.0, 0.2):
            (want, _), (found, _) = _of_trained(kind)(voxels, present, number, noise)
            np.testing.assert_array_equal(found.count, want.count)
            scores = [
                {(joint, *p.voxels[joint, k]): p.scores[joint, k] for joint, k in np.argwhere(p.scores > 0)}
                for p in (want, found)
            ]
            assert scores[0].keys() == scores[1].keys()
            assert all(abs(score - scores[1][peak]) <= 1e-4 for peak, score in scores[0].items())
            num_found += len(scores[0])
    assert num_found > 8 * 14


def test_the_task_finds_the_same_by_it(monkeypatch):
    """In two frames, one of them empty, with and without noise on the code: peaks and sub-voxel points."""
    volume = Volume(image_size=(192, 320), stride=8, depth_bins=80, max_distance=25.0)
    assert volume.shape == (24, 40, 80)
    rng = np.random.default_rng(0)
    voxels = rng.uniform([2, 3, 20], [22, 37, 75], (6, 1, 3)) + rng.uniform(-1.5, 1.5, (6, 14, 3))
    here = camera.JTA.scaled(1 / 6)
    joints = np.stack([jax.jit(volume.to_camera)(here, voxels.astype(np.float32))] * 2)
    present = np.stack([np.ones((6, 14), bool), np.zeros((6, 14), bool)])
    frames = Frames(joints, present, camera.Camera(*(np.full(2, f, np.float32) for f in here)))
    task, params = VhaTask(volume, vha.VHA(2, 80), (2.0,), True, 0.0, MOST), _trained(vha.VHA)

    def predict():
        return jax.device_get(jax.jit(lambda *args: task.predict(*args, True))(params, frames, jax.random.key(0)))

    monkeypatch.setattr(ops, "_LEAST_TO_SEARCH", 2**40)
    plain = predict()
    search, searched = decoding.search, []
    monkeypatch.setattr(decoding, "search", lambda *args: searched.append(1) or search(*args))
    monkeypatch.setattr(ops, "_LEAST_TO_SEARCH", 0)
    fast = predict()
    assert searched
    _assert_same(fast.peaks, plain.peaks)
    assert (plain.peaks.count[0].sum(axis=-1) > 20).all()
    of_points = plain.peaks._replace(
        voxels=plain.points, scores=plain.peaks.scores[:, 0], count=plain.peaks.count[:, 0]
    )
    _assert_same(of_points._replace(voxels=fast.points, scores=fast.peaks.scores[:, 0]), of_points)
    np.testing.assert_array_equal(fast.code, plain.code)


@functools.cache
def _trained(kind):
    if kind is vha.VHA:
        params = inputs.passing_on(80)
    else:
        params = weights.load(weights.path_of(weights.RELEASED))[0]["vha"]
    return jax.tree.map(jnp.asarray, params)
