"""The TFDS builder of JTA: annotation files in, ArrayRecord files out, without TensorFlow."""

import contextlib
import functools
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from loco_jax.data.jta import annotations, pictures, sequences
from loco_jax.data.jta.annotations import SPLITS, AnnotationError
from loco_jax.data.jta.camera_file import CAMERA_FILE
from loco_jax.data.jta.sequences import Read, Source
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JTA_JOINTS, NUM_JTA_JOINTS

_SHARD_BYTES = 200_000_000  # TFDS keeps a file's examples in memory until it is written


class Jta(tfds.core.ShardBasedBuilder):
    """One example per frame, ordered by sequence and frame, frames without people included.

    Features:
      sequence, frame: integers; frames count from 1.
      camera: fx, fy, cx, cy in pixels, float32.
      image: only in the config `frames`: the picture, a JPEG file's bytes.
      people: P people by ascending id. `id` [P] int64, `pixels` [P, 22, 2] and `joints` [P, 22, 3] float32 (metres),
        `present`, `occluded` and `self_occluded` [P, 22] bool, as in `People`.

    Each file of a split holds about 200 MB of consecutive frames.
    """

    VERSION = tfds.core.Version(annotations.VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="poses", description="People's joints and the camera."),
        tfds.core.BuilderConfig(name="frames", description="The same, and the pictures."),
    ]

    def __init__(self, source: Source, skip_bad: bool, num_workers: int, data_dir: pathlib.Path):
        """`data_dir` is also for work in progress, which stays there. See `prepare` for the other arguments."""
        self._source, self._skip_bad, self._num_workers = source, skip_bad, num_workers
        config = "frames" if source.pictures else "poses"
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        array = tfds.features.Tensor

        def joints(dtype, *coordinates):
            doc = f"joints in order: {', '.join(JTA_JOINTS)}"
            return array(shape=(None, NUM_JTA_JOINTS, *coordinates), dtype=dtype, doc=doc)

        image = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Joint Track Auto: people in virtual streets, with their joints in 2D and 3D.",
            homepage="https://github.com/fabbrimatteo/JTA-Dataset",
            citation="Fabbri et al.: Learning to Detect and Track Visible and Occluded Body Joints in a Virtual World",
            features=tfds.features.FeaturesDict(
                {
                    "sequence": np.int32,
                    "frame": np.int32,
                    **(image if self._source.pictures else {}),
                    "camera": {field: np.float32 for field in Camera._fields},
                    "people": {
                        "id": array(shape=(None,), dtype=np.int64),
                        "pixels": joints(np.float32, 2),
                        "joints": joints(np.float32, 3),
                        "present": joints(np.bool_),
                        "occluded": joints(np.bool_),
                        "self_occluded": joints(np.bool_),
                    },
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, Any]:
        source, work = self._source, pathlib.Path(self.data_dir_root) / "sequences"
        work.mkdir()
        if source.pictures and (size := _first_size(source)):  # before hours of work
            _check_middle(source.camera, size)
            _check_space(work, source, size)
        # Everything is read and checked before anything is written, and a train file once for both of its splits.
        read, bad = sequences.read_all(source, work, self._num_workers, self._skip_bad)
        stored = _common_size(read)
        factor = stored.factor if stored else 1.0
        camera = Camera(*source.camera.scaled(factor))
        counts = {split: [r.counts[split] for r in read[s.folder].values()] for split, s in SPLITS.items()}
        is_miniature = (source.jta_dir / annotations.MINIATURE_FILE).exists()
        self.info.metadata.update(
            source=source.describe(),
            name="miniature of the crowd in JTA's format" if is_miniature else "JTA",
            asked={"camera": source.camera._asdict(), "picture_height": source.picture_height},
            camera=camera._asdict(),
            left_out=bad,
            splits={split: _total(some) for split, some in counts.items()},
            picture_size=stored and [stored.height, stored.width],
        )
        total = sum(count["frames"] for count in self.info.metadata["splits"].values())
        self._bar = sequences.bar("Writing", total, " frames")
        shards = {}
        for split, selection in SPLITS.items():
            write = functools.partial(_examples, read[selection.folder], camera, factor, work, self._bar.update)
            places = _shards(read[selection.folder], selection.up_to(source.num_frames))
            shards[split] = [functools.partial(write, shard) for shard in places]
        return shards

    def _post_download_and_prepare_hook(self) -> None:
        self._bar.close()


def _first_size(source: Source) -> tuple[int, int] | None:
    """Height and width of the first picture or video that can be read, None without any."""
    for name in source.names():
        with contextlib.suppress(Exception):  # all bad files are reported together, later
            return pictures.size_of(source.picture_files(*name)[0])
    return None


def _check_middle(camera: Camera, size: tuple[int, int]) -> None:
    """Raises AnnotationError if the camera does not look at about the middle of pictures of this height and width."""
    height, width = size
    # JTA's camera looks at the exact middle. If it is only assumed, this shows that pictures were made smaller.
    allowed = 0.02 if camera == cameras.JTA else 0.25
    if max(abs(float(camera.cx) / width - 0.5), abs(float(camera.cy) / height - 0.5)) > allowed:
        raise AnnotationError(
            f"the pictures have {width} x {height} pixels, but the camera looks at pixel ({camera.cx:g}, "
            f"{camera.cy:g}), which is not their middle. Give the camera of these pictures with --fx --fy --cx --cy or "
            f"in {CAMERA_FILE}. --picture_height needs no other camera: it shrinks the camera with the pictures"
        )


def _check_space(folder: pathlib.Path, source: Source, size: tuple[int, int]) -> None:
    """Raises OSError if the disk of `folder` has too little room for pictures that come in this height and width."""
    needed = sum(
        pictures.bytes_needed(source.picture_files(*name), len(source.frames(name[0])), size, source.picture_height)
        for name in source.names()
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the disk of --data_dir has {free / 1e9:.1f} GB free, but the pictures need about {needed / 1e9:.1f} GB; "
            "choose another --data_dir, or make the pictures smaller with --picture_height"
        )


def _common_size(read: Mapping[str, Mapping[int, Read]]) -> pictures.PictureSize | None:
    """The size of all pictures, None if there are none. Raises AnnotationError if sizes differ: all have one camera."""
    sizes: dict[pictures.PictureSize | None, str] = {}
    for folder, numbered in read.items():
        for number, sequence in numbered.items():
            sizes.setdefault(sequence.size, f"{folder}/seq_{number}")
    if len(sizes) > 1:
        came = {name: (s.width / s.factor, s.height / s.factor) for s, name in sizes.items() if s}
        listed = ", ".join(f"{name} has {width:.0f} x {height:.0f}" for name, (width, height) in came.items())
        raise AnnotationError(f"the pictures differ in size, but one camera must have taken them all: {listed}")
    return next(iter(sizes))


def _total(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total = {key: sum(count[key] for count in counts) for key in ("frames", "people", "joints")}
    return {"sequences": len(counts), **total, "most_people": max(count["most_people"] for count in counts)}


def _shards(read: Mapping[int, Read], frames: Sequence[int]) -> list[list[tuple[int, int]]]:
    """All (sequence, frame) in order, in lists of at most `_SHARD_BYTES`."""
    shards: list[list[tuple[int, int]]] = [[]]
    filled = 0
    for number, sequence in read.items():
        people = sequence.path.stat().st_size // len(frames)
        for frame in frames:
            size = people + (sequence.pictures[frame].stat().st_size if sequence.pictures else 0)
            if shards[-1] and filled + size > _SHARD_BYTES:
                shards.append([])
                filled = 0
            shards[-1].append((number, frame))
            filled += size
    return shards


def _examples(
    read: Mapping[int, Read],
    camera: Camera,
    factor: float,
    work: pathlib.Path,
    done: Callable[[], Any],
    shard: Sequence[tuple[int, int]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples of the (sequence, frame) in `shard`. It calls `done` after each.

    Pictures in `work` are removed after reading: no two splits share a frame.
    """
    for number, group in itertools.groupby(shard, key=lambda place: place[0]):
        people = sequences.load_people(read[number].path)
        people = people._replace(pixels=people.pixels * np.float32(factor))
        for _, frame in group:
            first, end = (np.searchsorted(people.frame, frame, side) for side in ("left", "right"))
            example: dict[str, Any] = {"sequence": number, "frame": frame, "camera": camera._asdict()}
            example["people"] = {k: v[first:end] for k, v in people._asdict().items() if k != "frame"}
            if path := read[number].pictures.get(frame):
                example["image"] = path.read_bytes()
                if path.is_relative_to(work):
                    path.unlink()
            yield number * (annotations.NUM_FRAMES + 1) + frame, example
            done()
