"""What compression buys, against the tasks' own scores and by hand."""

import dataclasses
import functools
import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from loco_jax import experiment
from loco_jax.data import datasets, streams
from loco_jax.geometry.volume import Volume
from loco_jax.ops import distributed
from loco_jax.pose import heatmaps, metrics, people
from loco_jax.reproduce import codecs, compression, compression_figure
from loco_jax.reproduce.codecs import Found
from loco_jax.reproduce.compression import BITS, Origin, Record, Way
from loco_jax.tasks.vha import METRES
from tests.support import tiny, toy_frame

FRAMES = 3


class Coarse(nn.Module):
    """No autoencoder, but quick and not blind: the code is where any joint is, the same heatmaps for all types."""

    level: int = 1
    depth_bins: int = 16
    dtype: type = jnp.float32

    @nn.compact
    def encode(self, x):
        x = nn.max_pool(jnp.moveaxis(x.max(axis=1), 0, -1)[None], (2, 2, 2), (2, 2, 2), "SAME")[0]
        return jnp.moveaxis(x, -1, 0)[..., : self.depth_bins // 2] + self.param("shift", lambda _: jnp.float32(0.0))

    def decode(self, code, size=None):
        for axis in (1, 2, 3):
            code = jnp.repeat(code, 2, axis=axis)
        return jnp.repeat(code[:, None, : size[0], : size[1]], 14, axis=1)

    def __call__(self, x):
        return self.decode(self.encode(x), x.shape[2:4])


@pytest.fixture(scope="module")
def config():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "crowd_frame", toy_frame)  # compiles in no time
        yield tiny()


@pytest.fixture(scope="module")
def networks(config):
    """A network that finds something, and a real one; each with another kind of heatmaps."""
    patch = experiment.create_task(config)
    tasks = [dataclasses.replace(patch, network=Coarse()), dataclasses.replace(patch, subvoxel=False)]
    return [(task, task.init(jax.random.key(i))) for i, task in enumerate(tasks)]


@pytest.fixture(scope="module")
def frames(config):
    """The frames that are measured, as one batch."""
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    ((batch, _),) = datasets.of(config).evaluation_batches("test", FRAMES, FRAMES, sharding)
    return jax.device_get(batch)


@pytest.fixture(scope="module")
def origins(networks):
    return [
        *(compression.of_heatmaps(task) for task, _ in networks),
        *(compression.of_network(task, params) for task, params in networks),
    ]


@pytest.fixture(scope="module")
def found(networks, origins, config):
    """What is measured of heatmaps, and later of codes."""
    task, _ = networks[0]
    parts = [compression.measure(some, task, config, FRAMES) for some in (origins[:2], origins[2:])]
    return compression.together(parts)


def test_every_way_is_measured(found, networks):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["frames"], found["heatmaps"]) == (FRAMES, [14, 16, 15, 16])
    assert found["data"] == "crowd, demo scale, test split"
    plain = [*codecs.LOSSLESS, "list of peaks"]
    names = [way["name"] for way in found["ways"]]
    bits = ["float32", "float16", "8 bits", "6 bits", "4 bits", "2 bits"]
    assert names == 2 * plain + [f"{name}, {b}" for name in ("Coarse(1)", "PatchVHA(1)") for b in bits]
    assert [way["subvoxel"] for way in found["ways"]] == [True] * 5 + [False] * 5 + [True] * 6 + [False] * 6
    assert [way.get("bits") for way in found["ways"][:16]] == [None] * 10 + list(BITS)
    for way in found["ways"]:
        assert way["bytes"] > 0 and min(way["seconds"].values()) > 0
        assert list(way["f1"]) == ["0.4 m", "0.8 m", "1.2 m", "0 vx", "1 vx", "2 vx"]
        assert 0 <= min(way["f1"].values()) <= max(way["f1"].values()) <= 1


def test_a_kill_loses_one_frame(networks, origins, config, tmp_path, monkeypatch):
    """The records of frames are kept, unless they are of another network."""
    task, _ = networks[0]
    kept, measured = compression.Kept(epath.Path(tmp_path) / "frames.jsonl", {"a": "now"}), []

    def measure_frame(origins, task, frame):
        measured.append(float(frame.joints.sum()))
        if len(measured) == 3:  # the first frame counts twice, since it compiles
            raise KeyboardInterrupt
        return [Record(len(measured), {"0.4 m": 0.5}, 0.1, 0.2) for origin in origins for _ in origin.ways]

    monkeypatch.setattr(compression, "measure_frame", measure_frame)
    with pytest.raises(KeyboardInterrupt):
        compression.measure(origins, task, config, FRAMES, kept=kept)
    with kept.path.open("a") as file:
        file.write('{"made_of": {"a"')  # it was killed while it wrote this
    found = compression.measure(origins, task, config, FRAMES, kept=kept)
    assert found["frames"] == FRAMES and len(measured) == 6
    assert measured[0] == measured[1] != measured[2] == measured[3] == measured[4] != measured[5]
    assert [records[0].bytes for records in kept.read()] == [2, 5, 6]
    other = kept._replace(made_of={"a": "later"})
    assert other.read() == [] and kept.read() == []


@pytest.mark.parametrize("subvoxel", [True, False])
def test_codes_score_as_their_task_does(networks, config, frames, subvoxel):
    task, params = networks[0]
    task = dataclasses.replace(task, subvoxel=subvoxel)
    predicted = jax.jit(functools.partial(task.predict, thorough=False))(params, frames, jax.random.key(0))
    summary = task.summary(task.score(jax.device_get(predicted), frames))
    wanted = {t: score["f1"] for t, score in summary["scores"]["hungarian"]["noise 0"].items()}
    way = compression.measure([compression.of_network(task, params)], task, config, FRAMES)["ways"][0]
    assert way["name"] == "Coarse(1), float32" and way["f1"] == pytest.approx(wanted, abs=1e-6)
    assert wanted["1.2 m"] > 0.02 and wanted["2 vx"] > 0.02


def test_heatmaps_score_as_true_ones_and_lose_nothing(found, networks, frames):
    task = networks[0][0]
    scores = {f"{t} m": [] for t in METRES}

    @jax.jit
    def find(frame):
        voxels, present = task.targets(frame)
        volumes = heatmaps.render(voxels, present, task.volume.shape, 2.0, subvoxel=True)
        return people.find_points(volumes, frame.camera, task.volume, task.max_peaks, subvoxel=True), present

    for i in range(FRAMES):
        points, present = jax.device_get(find(jax.tree.map(lambda x, i=i: x[i], frames)))
        true = metrics.people_rows(frames.joints[i], present)
        for t in METRES:
            scores[f"{t} m"].append(metrics.joint_scores(metrics.peak_rows(points.xyz, points.scores), true, t).f1)
    wanted = {t: np.mean(f1) for t, f1 in scores.items()}
    assert {t: found["ways"][0]["f1"][t] for t in wanted} == pytest.approx(wanted) and wanted["1.2 m"] > 0.5
    for first in (0, 5):
        raw, *others, listed = found["ways"][first : first + 5]
        assert all(way["f1"] == raw["f1"] for way in others)
        assert listed["f1"] == pytest.approx(raw["f1"], abs=0.02)  # offsets are rounded


def test_bytes(found, frames):
    size = {(way["name"], way["subvoxel"]): way["bytes"] for way in found["ways"]}
    volume = 14 * 16 * 15 * 16
    for subvoxel in (True, False):
        assert size["raw float32", subvoxel] == 4 * volume
        plain = [size[name, subvoxel] for name in ("raw float32", "run lengths", "zlib", "list of peaks")]
        assert plain == sorted(plain, reverse=True)
        assert size["zstd", subvoxel] < size["raw float32", subvoxel] / 2
    assert size["list of peaks", True] < 28 + 10 * frames.present.sum() / FRAMES + 20
    noisy = [size[f"PatchVHA(1), {b}", False] for b in ("float32", "float16", "8 bits", "6 bits", "4 bits", "2 bits")]
    assert noisy == sorted(noisy, reverse=True) and noisy[0] < 4 * 8 * 8 * 8 + 20


def test_scores_and_times_by_hand(config, frames):
    """One joint is found, one is off by half a metre, one peak is nobody's."""
    frame = jax.tree.map(lambda x: x[0], frames)
    volume = streams.volume_of(config)
    (camera,) = {tuple(map(float, frame.camera))}
    xyz = np.zeros((1, 14, 3), np.float32)
    voxels = np.array([[8, 7, 9], [6, 7, 5]], np.float32)
    offsets = np.array([[0.2, -0.3, 0.1], [0, 0, 0]], np.float32)
    xyz[0, 0] = metres(volume, camera, voxels[0] + offsets[0])
    xyz[0, 3] = metres(volume, camera, voxels[1] + [0, 0, 0.5 / volume.bin_size])
    present = np.isin(np.arange(14), [0, 3])[None]
    peaks = Found(np.zeros((14, 2, 3), np.float32), np.zeros((14, 2, 3), np.float32), np.zeros((14, 2), np.float32))
    for joint, place, peak in ((0, 0, 0), (3, 0, 1), (5, 0, 1)):
        peaks.voxels[joint, place], peaks.offsets[joint, place] = voxels[peak], offsets[peak]
        peaks.scores[joint, place] = 0.8
    peaks.voxels[7, 0], peaks.scores[7, 0] = [4, 4, 0], 0.5  # in the camera's centre: not in metres

    def slow(seconds, result):
        return lambda _: (time.sleep(seconds), result)[1]

    array = np.zeros(1, np.float32)
    way = Way("way", "", 0, True, slow(0.06, bytes(123)), slow(0.03, peaks))
    task = experiment.create_task(config)
    frame = frame._replace(joints=xyz, present=present)
    (record,) = compression.measure_frame([Origin(slow(0.05, array), [way])], task, frame)
    assert record.bytes == 123 and record.compress >= 0.11 and record.restore >= 0.03
    # In metres 1 or 2 of 2 joints and 3 peaks; 0.5 m are 0.3 bins, so in voxels 2 of 2 joints and 4 peaks.
    wanted = {"0.4 m": 2 / 5, "0.8 m": 4 / 5, "1.2 m": 4 / 5, "0 vx": 4 / 6, "1 vx": 4 / 6, "2 vx": 4 / 6}
    assert record.f1 == pytest.approx(wanted)


def metres(volume: Volume, camera, voxel) -> np.ndarray:
    fx, fy, cx, cy = camera
    ray = np.array([(volume.stride * voxel[1] - cx) / fx, (volume.stride * voxel[0] - cy) / fy, 1])
    return voxel[2] * volume.bin_size * ray / np.linalg.norm(ray)


def test_results_of_several_machines(found):
    other = {**found, "ways": found["ways"][:1], "device": "a field of an earlier version"}
    both = compression.together([found, other, found])
    assert both == {**found, "ways": found["ways"] + found["ways"][:1] + found["ways"]}
    assert compression.together([other, found])["ways"] == found["ways"][:1] + found["ways"]
    for parts in ([found, {**other, "frames": 2}], [{**other, "frames": 2}, found]):
        with pytest.raises(ValueError, match=r"poster.json: .* different data \(frames\)"):
            compression.together(parts)


def test_table(found):
    lines = compression_figure.table(found).splitlines()
    rows = {row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:-2])}
    assert len(rows) == len(found["ways"]) + 2
    header = rows["way"]
    assert header[:3] == ["bytes", "times smaller", "F1 @0.4 m"] and header[-2:] == ["compress (ms)", "restore (ms)"]
    for way, (name, row) in zip(found["ways"], list(rows.items())[2:]):
        assert name == way["name"] + ", whole voxels" * ("network" not in way and not way["subvoxel"])
        assert float(row[0].replace(",", "")) == pytest.approx(way["bytes"], abs=0.51)
        assert float(row[1].replace(",", "")) == pytest.approx(4 * 14 * 16 * 15 * 16 / way["bytes"], abs=0.51)
        assert float(row[2]) == pytest.approx(100 * way["f1"]["0.4 m"], abs=0.051)
        assert float(row[-1].replace(",", "")) == pytest.approx(1000 * way["seconds"]["restore"], abs=0.051)
    assert lines[-1].startswith("crowd, demo scale, test split: 3 frames. ")


def test_figure(found):
    drawing = compression_figure.figure(found)
    (axes,) = drawing.axes
    assert axes.get_xscale() == "log" and "bytes" in axes.get_xlabel() and axes.get_ylabel() == "F1 at 0.4 m (%)"
    markers = [tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    wanted = [(way["bytes"], 100 * way["f1"]["0.4 m"]) for way in found["ways"]]
    np.testing.assert_allclose(sorted(markers), sorted(wanted))
    lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
    assert len(lines) == 2 and len({line.get_color() for line in lines}) == 2
    for line, network in zip(lines, ("Coarse(1)", "PatchVHA(1)")):
        np.testing.assert_array_equal(
            line.get_xdata(), [w["bytes"] for w in found["ways"] if w.get("network") == network]
        )
    drawing.draw_without_rendering()
    (legend,) = drawing.legends
    box = legend.get_window_extent()
    assert box.x0 >= axes.get_window_extent().x1 and box.x1 <= drawing.bbox.x1 and box.y0 >= 0
    labels = [text.get_text().strip() for text in legend.get_texts()]
    assert {"zstd", "zstd, whole voxels", "PatchVHA(1)", "float16", "2"} <= set(labels)
