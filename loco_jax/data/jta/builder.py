"""The TFDS builder of JTA: annotation files in, ArrayRecord files out, without TensorFlow."""

import contextlib
import functools
import hashlib
import itertools
import pathlib
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from loco_jax.data import scratch
from loco_jax.data.jta import annotations, pictures, reading
from loco_jax.data.jta.annotations import MAX_PEOPLE, SPLITS, AnnotationError, find_sequences, frames_of
from loco_jax.data.jta.camera_file import CAMERA_FILE, check_camera, read_camera, read_num_frames
from loco_jax.data.jta.reading import Files, Read, Wanted
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
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the folder that holds JTA's annotations/{train,val,test}/seq_N.json, and for pictures its "
        "videos/{train,val,test}/seq_N.mp4"
    )

    def __init__(
        self,
        *,
        camera: Camera | None = None,
        max_people: int = MAX_PEOPLE,
        skip_bad: bool = False,
        num_workers: int = 0,
        picture_height: int = 0,
        **kwargs: Any,
    ):
        """See `prepare` for the arguments; `kwargs` are those of TFDS, among them `config` and `data_dir`."""
        self._camera, self._max_people, self._picture_height = camera, max_people, picture_height
        self._skip_bad, self._num_workers = skip_bad, num_workers
        super().__init__(file_format="array_record", **kwargs)

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
                    **(image if self.builder_config.name == "frames" else {}),
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
        jta_dir, root = pathlib.Path(dl_manager.manual_dir), pathlib.Path(self.data_dir_root)
        files = find_sequences(jta_dir)
        asked = resolve_camera(jta_dir, self._camera)
        with_pictures, num_frames = self.builder_config.name == "frames", read_num_frames(jta_dir)
        wanted = Wanted(jta_dir, self._max_people, num_frames, with_pictures, self._picture_height)
        if with_pictures and (size := _first_size(files, wanted)):  # before hours of work
            _check_middle(asked, size)
            _check_space(root, files, wanted, size)
        opened = contextlib.ExitStack()
        self._clean_up = weakref.finalize(self, opened.close)
        work = opened.enter_context(scratch.folder(root, ".jta_scratch_"))
        # Everything is read and checked before anything is written, and a train file once for both of its splits.
        read, bad = reading.read_all(files, work, wanted, self._num_workers, self._skip_bad)
        stored = _common_size(read)
        factor = stored.factor if stored else 1.0
        camera = Camera(*asked.scaled(factor))
        counts = {split: [r.counts[split] for r in read[s.folder].values()] for split, s in SPLITS.items()}
        is_miniature = (jta_dir / annotations.MINIATURE_FILE).exists()
        self.info.metadata.update(
            source=describe_source(files, wanted),
            name="miniature of the crowd in JTA's format" if is_miniature else "JTA",
            asked={"camera": asked._asdict(), "picture_height": self._picture_height},
            camera=camera._asdict(),
            left_out=bad,
            splits={split: _total(some) for split, some in counts.items()},
            picture_size=stored and [stored.height, stored.width],
        )
        total = sum(count["frames"] for count in self.info.metadata["splits"].values())
        done = opened.enter_context(reading.bar("Writing", total, " frames")).update
        shards = {}
        for split, selection in SPLITS.items():
            write = functools.partial(_examples, read[selection.folder], camera, factor, work, done)
            places = _shards(read[selection.folder], selection.up_to(num_frames))
            shards[split] = [functools.partial(write, shard) for shard in places]
        return shards

    def _post_download_and_prepare_hook(self) -> None:
        self._clean_up()


def resolve_camera(jta_dir: pathlib.Path, camera: Camera | None) -> Camera:
    """`camera`, or that of `read_camera` if it is None. Raises ValueError if it is impossible."""
    return read_camera(jta_dir) if camera is None else check_camera(camera)


def describe_source(files: Files, wanted: Wanted) -> dict[str, str]:
    """Tells, without reading them, whether annotations and pictures are the same as in an earlier run."""
    digest = hashlib.sha256(f"{wanted.num_frames} frames\n".encode())
    for folder, numbered in files.items():
        for number, path in numbered.items():
            of_pictures = wanted.picture_files(folder, number) if wanted.pictures else []
            for file in (file for file in (path, *of_pictures) if file.exists()):
                status = file.stat()
                digest.update(f"{folder}/{number}/{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return {"jta_dir": str(wanted.jta_dir), "files": digest.hexdigest()}


def _first_size(files: Files, wanted: Wanted) -> tuple[int, int] | None:
    """Height and width of the first picture or video that can be read, None without any."""
    for folder, numbered in files.items():
        for number in numbered:
            with contextlib.suppress(Exception):  # all bad files are reported together, later
                return pictures.size_of(wanted.picture_files(folder, number)[0])
    return None


def _check_middle(camera: Camera, size: tuple[int, int]) -> None:
    """Raises AnnotationError if the camera does not look at about the middle of pictures of this height and width."""
    height, width = size
    # JTA's camera looks at the exact middle. If it is only assumed, this shows that pictures were made smaller.
    allowed = 0.02 if camera == cameras.JTA else 0.25
    if max(abs(float(camera.cx) / width - 0.5), abs(float(camera.cy) / height - 0.5)) > allowed:
        raise AnnotationError(
            f"the pictures are {width} x {height} pixels, but the camera looks at pixel ({camera.cx:g}, "
            f"{camera.cy:g}), not at their middle. Give the camera of these very pictures with --fx --fy --cx --cy or "
            f"{CAMERA_FILE}; pictures made smaller with --picture_height need none, their camera shrinks with them"
        )


def _check_space(data_dir: pathlib.Path, files: Files, wanted: Wanted, size: tuple[int, int]) -> None:
    """Raises OSError if the disk of `data_dir` has too little room for pictures that come in this height and width."""
    needed = sum(
        pictures.bytes_needed(
            wanted.picture_files(folder, number), len(frames_of(folder, wanted.num_frames)), size, wanted.picture_height
        )
        for folder, numbered in files.items()
        for number in numbered
    )
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        raise OSError(
            f"{data_dir}: {free / 1e9:.1f} GB are free on that disk, and the pictures need about {needed / 1e9:.1f}; "
            "choose another --data_dir, or make them smaller with --picture_height"
        )


def _common_size(read: Mapping[str, Mapping[int, Read]]) -> pictures.PictureSize | None:
    """The size of all pictures, None if there are none. Raises AnnotationError if sizes differ: all have one camera."""
    sizes: dict[pictures.PictureSize | None, str] = {}
    for folder, sequences in read.items():
        for number, sequence in sequences.items():
            sizes.setdefault(sequence.size, f"{folder}/seq_{number}")
    if len(sizes) > 1:
        came = {name: (s.width / s.factor, s.height / s.factor) for s, name in sizes.items() if s}
        listed = ", ".join(f"{name} has {width:.0f} x {height:.0f}" for name, (width, height) in came.items())
        raise AnnotationError(f"the pictures have not all the same size, as those of one camera do: {listed}")
    return next(iter(sizes))


def _total(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total = {key: sum(count[key] for count in counts) for key in ("frames", "people", "joints")}
    return {"sequences": len(counts), **total, "most_people": max(count["most_people"] for count in counts)}


def _shards(sequences: Mapping[int, Read], frames: Sequence[int]) -> list[list[tuple[int, int]]]:
    """All (sequence, frame) in order, in lists of at most `_SHARD_BYTES`."""
    shards: list[list[tuple[int, int]]] = [[]]
    filled = 0
    for number, sequence in sequences.items():
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
    sequences: Mapping[int, Read],
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
        people = reading.load_people(sequences[number].path)
        people = people._replace(pixels=people.pixels * np.float32(factor))
        for _, frame in group:
            first, end = (np.searchsorted(people.frame, frame, side) for side in ("left", "right"))
            example: dict[str, Any] = {"sequence": number, "frame": frame, "camera": camera._asdict()}
            example["people"] = {k: v[first:end] for k, v in people._asdict().items() if k != "frame"}
            if path := sequences[number].pictures.get(frame):
                example["image"] = path.read_bytes()
                if path.is_relative_to(work):
                    path.unlink()
            yield number * (annotations.NUM_FRAMES + 1) + frame, example
            done()
