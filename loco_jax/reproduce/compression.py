"""What compression buys: bytes a frame against F1, for heatmaps, their peaks and codes of autoencoders."""

import contextlib
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Float32
from ml_collections import ConfigDict

from loco_jax import ops
from loco_jax.cli import progress
from loco_jax.data import datasets
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.volume import Volume
from loco_jax.models import vha
from loco_jax.ops import distributed
from loco_jax.pose import heatmaps, metrics, peaks, people
from loco_jax.pose.peaks import Peaks
from loco_jax.reproduce import codecs
from loco_jax.reproduce.codecs import Found
from loco_jax.runs import files
from loco_jax.tasks.vha import METRES, THRESHOLDS, VhaTask

PEAKS = "list of peaks"
BITS = (*codecs.FLOATS, *codecs.LEVELS)  # of a code's number
_SCENES_AT_ONCE = 4
_ALIKE = ("data", "frames", "heatmaps")  # fields of results that are compared on one page
T = TypeVar("T")


class Way(NamedTuple):
    """A way from an array to bytes, and from bytes to peaks.

    Attributes:
      name: for tables.
      network: the autoencoder's name; "" for ways without one.
      bits: of a code's number; 0 for ways without a code.
      subvoxel: whether the heatmaps' Gaussians are centred on the joints; if not, on the nearest voxels.
      compress: to bytes.
      restore: from bytes to peaks.
    """

    name: str
    network: str
    bits: int
    subvoxel: bool
    compress: Callable[[Float32[np.ndarray, "..."]], bytes]
    restore: Callable[[bytes], Found]


class Origin(NamedTuple):
    """What several ways begin with: `make` turns a frame without batch axis into heatmaps or into a code."""

    make: Callable[[Frames], Float32[np.ndarray, "..."]]
    ways: Sequence[Way]


class Record(NamedTuple):
    """One frame in one way: the size, F1 by threshold in words, and seconds from joints to bytes, bytes to peaks."""

    bytes: int
    f1: dict[str, float]
    compress: float
    restore: float


class Kept(NamedTuple):
    """The file `path` with the records of each frame, a line a frame, of what `made_of` identifies."""

    path: epath.Path
    made_of: Mapping[str, Any]

    def read(self) -> list[list[Record]]:
        """The records of the first frames. Other lines and incomplete ones are removed from the file."""
        lines = []
        for text in self.path.read_text().splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        lines = [line for line in lines if line["made_of"] == self.made_of]
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        return [[Record(*values) for values in line["records"]] for line in lines]

    def add(self, records: Sequence[Record]) -> None:
        """Adds the records of a frame."""
        with self.path.open("a") as file:
            file.write(json.dumps({"made_of": self.made_of, "records": records}) + "\n")


def measure(
    origins: Sequence[Origin],
    task: VhaTask,
    config: ConfigDict,
    num_frames: int = 256,
    split: str = "test",
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Measures all ways of the origins on the first frames of a split of the config's data.

    Args:
      origins: of heatmaps or codes of the same volume.
      task: an autoencoder's for that volume, which says where the joints are.
      config: says what the data are.
      num_frames: how many; fewer if a split of JTA has fewer.
      split: "validation" or "test".
      kept: where the records of frames are, which are then not measured again; None to keep none.

    Returns:
      A dict for JSON. `ways` has for each way its name, its `network` and `bits` if any, whether it is `subvoxel`, the
      mean `bytes` a frame, `f1` by threshold (mean over frames, hungarian matching), and the median seconds a frame to
      `compress` joints to bytes and to `restore` peaks from bytes. Compilation is not counted.
    """
    ways = [way for origin in origins for way in origin.ways]
    records = kept.read() if kept else []
    before = len(records)
    with progress.bar(num_frames, "frame", config.quiet, initial=before, desc="compression", leave=False) as bar:
        for frame in itertools.islice(_frames(config, split, num_frames), before, None):
            if len(records) == before:
                measure_frame(origins, task, frame)  # compiles
            records.append(measure_frame(origins, task, frame))
            if kept:
                kept.add(records[-1])
            bar.update()
    return {
        "data": f"{datasets.of(config).name}, {split} split",
        "frames": len(records),
        "heatmaps": [skeleton.NUM_JOINTS, *task.volume.shape],
        "ways": [_summary(way, [frame[i] for frame in records]) for i, way in enumerate(ways)],
    }


def together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result of those of several calls of `measure`. Raises ValueError for different data, frames or volumes."""
    if different := [name for name in _ALIKE if any(one[name] != found[0][name] for one in found)]:
        named = ", ".join(different)
        raise ValueError(f"poster.json: bytes are measured on different data ({named}); remove one of these rows there")
    return {**found[0], "ways": [way for one in found for way in one["ways"]]}


def of_heatmaps(task: VhaTask) -> Origin:
    """The heatmaps of true joints in float32 without loss, and the list of their peaks."""
    volume, subvoxel = task.volume, task.subvoxel

    @jax.jit
    def render(frame):
        return heatmaps.render(*task.targets(frame), volume.shape, task.sigmas[-1], subvoxel)

    @jax.jit
    def find(volumes):
        source = peaks.of_volume(volumes)
        found = peaks.search(source, max_peaks=task.max_peaks)
        return found, peaks.subvoxel_offsets(source, found) if subvoxel else None

    def from_heatmaps(decompress, data):
        return as_found(*find(decompress(data, (skeleton.NUM_JOINTS, *volume.shape))))

    ways = [
        Way(name, "", 0, subvoxel, compress, functools.partial(from_heatmaps, decompress))
        for name, (compress, decompress) in codecs.LOSSLESS.items()
    ]
    unpack = functools.partial(codecs.unpack_peaks, joints=skeleton.NUM_JOINTS, most=task.max_peaks, subvoxel=subvoxel)
    ways.append(Way(PEAKS, "", 0, subvoxel, lambda x: codecs.pack_peaks(as_found(*find(x)), subvoxel), unpack))
    return Origin(lambda frame: np.asarray(render(frame)), ways)


def of_network(task: VhaTask, params: Any) -> Origin:
    """The codes that an autoencoder makes of true heatmaps, in all numbers of bits."""
    encode = jax.jit(lambda params, frame: task.encode(params, frame).astype(jnp.float32))

    @jax.jit
    def decode(params, code):
        return ops.decode_peaks_and_offsets(
            task.network,
            params,
            code,
            task.volume.shape[:2],
            max_peaks=task.max_peaks,
            offsets=task.subvoxel,
        )

    shape = vha.code_shape(task.volume.shape, task.network.level)

    def restore(bits, data):
        return as_found(*decode(params, codecs.unpack_code(data, shape, bits)))

    def way(bits):
        name = f"{task.name}, " + (f"{codecs.FLOATS[bits].name}" if bits in codecs.FLOATS else f"{bits} bits")
        pack = functools.partial(codecs.pack_code, bits=bits)
        return Way(name, task.name, bits, task.subvoxel, pack, functools.partial(restore, bits))

    return Origin(lambda frame: np.asarray(encode(params, frame)), [way(bits) for bits in BITS])


def measure_frame(origins: Sequence[Origin], task: VhaTask, frame: Frames) -> list[Record]:
    """A record for each way of each origin, in order, of a frame without batch axis and picture."""
    voxels, present = (np.asarray(x) for x in _targets(task, frame))
    true_voxels = metrics.people_rows(np.rint(voxels), present)
    true_points = metrics.people_rows(frame.joints, present)
    records = []
    for origin in origins:
        array, making = _time(origin.make, frame)
        for way in origin.ways:
            data, compressing = _time(way.compress, array)
            found, restoring = _time(way.restore, data)
            points = in_metres(task.volume, frame, found)
            f1 = {f"{t} m": metrics.joint_scores(points, true_points, t).f1 for t in METRES}
            at = metrics.peak_rows(found.voxels, found.scores)
            f1 |= {f"{t} vx": metrics.joint_scores(at, true_voxels, t).f1 for t in THRESHOLDS}
            records.append(Record(len(data), f1, making + compressing, restoring))
    return records


def in_metres(volume: Volume, frame: Frames, found: Found) -> Float[np.ndarray, "N 4"]:
    """Rows (joint type, x, y, z) of peaks at their positions, without those in the camera's centre."""
    count = np.zeros(len(found.scores), np.int32)
    points = _points(Peaks(found.voxels + found.offsets, found.scores, count), frame.camera, volume=volume)
    return metrics.peak_rows(points.xyz, points.scores)


def as_found(found: Peaks, offsets: Float[Array, "J K 3"] | None) -> Found:
    """Peaks at whole voxels, and their offsets if any, on the host."""
    voxels = np.asarray(found.voxels)
    return Found(voxels, np.zeros_like(voxels) if offsets is None else np.asarray(offsets), np.asarray(found.scores))


_targets = jax.jit(VhaTask.targets, static_argnums=0)
_points = jax.jit(people.in_metres, static_argnames="volume")


def _frames(config: ConfigDict, split: str, number: int) -> Iterator[Frames]:
    """Frames without batch axis and picture, on the first device."""
    config = config.copy_and_resolve_references()
    config.data.pictures = False
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    for frames, real in datasets.of(config).evaluation_batches(split, min(number, _SCENES_AT_ONCE), number, sharding):
        frames = frames._replace(image=None)
        for i in np.flatnonzero(real):
            yield jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), frames)


def _time(function: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """What a function returns, and the seconds that it takes."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def _summary(way: Way, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "name": way.name,
        **({"network": way.network, "bits": way.bits} if way.network else {}),
        "subvoxel": way.subvoxel,
        "bytes": statistics.fmean(r.bytes for r in records),
        "f1": {t: statistics.fmean(r.f1[t] for r in records) for t in records[0].f1},
        "seconds": {name: statistics.median(getattr(r, name) for r in records) for name in ("compress", "restore")},
    }
