"""The TFDS builder of JTA: annotation files in, ArrayRecord files out, without TensorFlow."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from loco_jax.data.jta import annotations, sequences
from loco_jax.data.jta.annotations import SPLITS
from loco_jax.data.jta.sequences import Gathered, Read, Source
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JTA_JOINTS, NUM_JTA_JOINTS

_SEQUENCES_A_FILE = 4  # TFDS keeps a file's examples in memory until it is written


class Described:
    """What the builders share: one example per frame, ordered by sequence and frame, frames without people included.

    Features:
      sequence, frame: integers; frames count from 1.
      camera: fx, fy, cx, cy in pixels, float32.
      image: only in the config `frames`: the picture, a JPEG file's bytes.
      people: P people by ascending id. `id` [P] int64, `pixels` [P, 22, 2] and `joints` [P, 22, 3] float32 (metres),
        `present`, `occluded` and `self_occluded` [P, 22] bool, as in `People`.
    """

    VERSION = tfds.core.Version(annotations.VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="poses", description="People's joints and the camera."),
        tfds.core.BuilderConfig(name="frames", description="The same, and the pictures."),
    ]

    info: tfds.core.DatasetInfo  # of TFDS's builder

    def __init__(self, source: Source, data_dir: pathlib.Path):
        self._source = source
        config = "frames" if source.pictures else "poses"
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")  # type: ignore[call-arg]

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

    def describe(self, gathered: Gathered) -> dict[str, dict[str, int]]:
        """Writes what was read into the data's metadata. Returns the counts of each split."""
        source, factor = self._source, shrinking(self._source, gathered)
        is_miniature = (source.jta_dir / annotations.MINIATURE_FILE).exists()
        splits = {
            split: _total([r.counts[split] for r in gathered.read[selection.folder].values()])
            for split, selection in SPLITS.items()
        }
        self.info.metadata.update(
            name="miniature of the crowd in JTA's format" if is_miniature else "JTA",
            asked=source.asked(),
            camera=Camera(*source.camera.scaled(factor))._asdict(),
            left_out=gathered.bad,
            splits=splits,
            picture_size=gathered.size and [round(n * factor) for n in gathered.size],
        )
        return splits


class Jta(Described, tfds.core.ShardBasedBuilder):
    """Builds the data on this machine. Each file of a split holds four consecutive sequences."""

    def __init__(self, source: Source, skip_bad: bool, num_workers: int, data_dir: pathlib.Path):
        """`data_dir` also gets the work in progress, which stays there. See `prepare` for the other arguments."""
        self._skip_bad, self._num_workers = skip_bad, num_workers
        super().__init__(source, data_dir)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, Any]:
        source, work = self._source, pathlib.Path(self.data_dir_root) / "sequences"
        work.mkdir()
        # Everything is read and checked before anything is written, and a train file once for both of its splits.
        gathered = sequences.read_all(source, work, self._num_workers, self._skip_bad)
        counts, factor = self.describe(gathered), shrinking(source, gathered)
        self._bar = sequences.bar("Writing", sum(count["frames"] for count in counts.values()), " frames")
        shards = {}
        for split, selection in SPLITS.items():
            some, frames = list(gathered.read[selection.folder].items()), selection.up_to(source.num_frames)
            shards[split] = [
                functools.partial(self._examples, some[i : i + _SEQUENCES_A_FILE], frames, factor, work)
                for i in range(0, len(some), _SEQUENCES_A_FILE)
            ]
        return shards

    def _examples(
        self, some: Sequence[tuple[int, Read]], frames: Sequence[int], factor: float, work: pathlib.Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Keys and examples of some sequences. Pictures in `work` are removed: no two splits share a frame."""
        camera = Camera(*self._source.camera.scaled(factor))
        for number, sequence in some:
            for key, example in examples(number, sequence, frames, camera, factor):
                if (path := sequence.pictures.get(example["frame"])) and path.is_relative_to(work):
                    path.unlink()
                yield key, example
                self._bar.update()


def shrinking(source: Source, gathered: Gathered) -> float:
    """The factor by which pictures and camera are made smaller."""
    return source.picture_height / gathered.size[0] if gathered.size and source.picture_height else 1.0


def examples(
    number: int, sequence: Read, frames: Sequence[int], camera: Camera, factor: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples of some frames of a sequence.

    `camera` is in pixels of the pictures as they are written, and `factor` takes annotated pixels there.
    """
    people = sequences.load_people(sequence.path)
    people = people._replace(pixels=people.pixels * np.float32(factor))
    for frame in frames:
        first, end = (np.searchsorted(people.frame, frame, side) for side in ("left", "right"))
        example: dict[str, Any] = {"sequence": number, "frame": frame, "camera": camera._asdict()}
        example["people"] = {k: v[first:end] for k, v in people._asdict().items() if k != "frame"}
        if path := sequence.pictures.get(frame):
            example["image"] = path.read_bytes()
        yield number * (annotations.NUM_FRAMES + 1) + frame, example


def _total(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total = {key: sum(count[key] for count in counts) for key in ("frames", "people", "joints")}
    return {"sequences": len(counts), **total, "most_people": max(count["most_people"] for count in counts)}
