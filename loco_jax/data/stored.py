"""Data sets whose frames are in files: batches and sequences of them, with pictures as a network wants them."""

import abc
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool, UInt8

from loco_jax.data import pipeline, streams
from loco_jax.data.datasets import DataSet
from loco_jax.data.frames import Example, Frames, Instant
from loco_jax.data.lazy import Lazy
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JOINTS
from loco_jax.media import canvas
from loco_jax.ops import distributed

# The joints that all people must have in training, by task; other tasks need all. These tasks' errors leave out joint
# types that a data set lacks, but two of them need head tops to group joints into people.
_NEEDS = {"vha": set[str](), "location_maps": {"head_top"}, "volumetric": {"head_top"}}
_SCORE_WHOLE_PEOPLE = ("refiner", "trunk")


class Stored(DataSet):
    """A data set in files. A subclass gives its `name` and the `examples` of a split; see docs/data.md.

    Pictures of any size and camera are resampled, so that a pixel spans the same angle as one of `camera`.
    """

    folder = "the folder of its files"
    remedy: ClassVar[str] = ""  # how training can get joints that the data set lacks, if it can

    def check(self) -> None:
        super().check()
        given = tuple(self.config.data.camera)
        if given and not (len(given) == 4 and min(given[:2]) > 0):
            raise ValueError(f"config.data.camera={given} must be (fx, fy, cx, cy) in pixels, or () for JTA's")

    @abc.abstractmethod
    def examples(self, split: str) -> Sequence[Example]:
        """The frames of a split, with random access. They are read when they are asked for, by several threads."""

    def films(self, split: str) -> Sequence[range]:
        """For each sequence its places among the `examples`, in order. All its pictures have one size and camera."""
        return [range(len(self.examples(split)))]

    @property
    def camera(self) -> Camera:
        """That of `config.data.camera`, or one with the angle of view of JTA's."""
        given = self.config.data.camera
        return Camera(*given) if given else cameras.JTA.scaled(self.config.volume.image_size[1] / 1920)

    def image_size(self, split: str) -> tuple[int, int]:
        """The size of `config.volume`, or more if a picture needs it. Raises ValueError for too wide an angle."""
        size, firsts = super().image_size(split), self._firsts(split)
        plans = [_plan(e.size, tuple(map(float, e.camera)), self.camera, size) for e in firsts]
        for example, plan in zip(firsts, plans):
            if plan.shrink < 1:
                raise ValueError(
                    f"{example.where}: its camera's angle of view is too wide: its picture needs more than "
                    f"{canvas.MOST_PIXELS} times the pixels of config.volume.image_size={size}; set a larger size"
                )
        rows, columns = zip(size, *(plan.size for plan in plans))
        return max(rows), max(columns)

    def shown(self, split: str) -> Sequence[Example]:
        """The `examples` with their pictures and cameras as a network sees them."""
        examples, size = self.examples(split), self.image_size(split)
        if not len(examples):
            raise ValueError(f"{self.config.data.dir}: split {split!r} has no frame")
        if size != tuple(self.config.volume.image_size):
            raise ValueError(f"{examples[0].where}: its pictures need config.volume.image_size={size}; set that field")
        return Lazy(len(examples), functools.partial(_shown, examples, self.camera, size))

    def read(self, split: str, batch_size: int, sharding: NamedSharding, **options: Any) -> pipeline.Batches:
        """This process's share of the batches. `options` are those of `pipeline.read`."""
        c = self.config.data
        examples = self.shown(split)
        part, parts = distributed.share(sharding.mesh)  # type: ignore[arg-type]
        options |= {"process_index": part, "process_count": parts, "pictures": c.pictures}
        workers = c.workers if c.pictures else 0  # they decode pictures
        return pipeline.read(examples, split, batch_size // parts, c.max_people, num_workers=workers, **options)

    def check_joints(self, split: str, training: bool) -> None:
        """Raises ValueError if sequences lack joints without which `config.task` learns, or scores, nothing."""
        task = self.config.task
        lacks = [(e.where, _lacks(e) & _NEEDS.get(task, {*JOINTS})) for e in self._firsts(split)]
        bad = [(where, names) for where, names in lacks if names]
        if bad and (training or (task in _SCORE_WHOLE_PEOPLE and len(bad) == len(lacks))):
            where, names = bad[0]
            remedy = self.remedy if training and self.remedy else "take another data set or task"
            names_in_order = ", ".join(name for name in JOINTS if name in names)
            raise ValueError(f"{where}: its data have no {names_in_order}, which config.task={task} needs; {remedy}")

    def _firsts(self, split: str) -> list[Example]:
        """The first frame of each sequence."""
        examples = self.examples(split)
        return [examples[film[0]] for film in self.films(split) if len(film)]

    def open(self, split: str) -> None:
        self.shown(split)
        self.check_joints(split, training=False)

    def training_stream(self, sharding: NamedSharding) -> streams.ReadStream:
        c = self.config.data
        self.check_joints(c.train_split, training=True)
        options = {"seed": self.config.seed, "augment": c.pictures and c.augment}
        return streams.ReadStream(self.read(c.train_split, c.batch_size, sharding, **options), sharding)

    def evaluation_batches(
        self, split: str, batch_size: int, num_frames: int, sharding: NamedSharding
    ) -> Iterator[tuple[Frames, Bool[np.ndarray, " b"]]]:
        self.check_joints(split, training=False)
        for frames in self.read(split, batch_size, sharding, training=False, max_frames=num_frames):
            yield distributed.put(frames, sharding), pipeline.is_real(frames)

    def sequences(self, split: str, number: int, frames: int, fps: float) -> Iterator[Iterator[Instant]]:
        examples, films = self.shown(split), self.films(split)
        for index in range(min(number, len(films))):
            yield self._instants(examples, films[index * len(films) // min(number, len(films))][:frames])

    def _instants(self, examples: Sequence[Example], places: range) -> Iterator[Instant]:
        c = self.config.data
        for example in (examples[place] for place in places):
            frame, ids = pipeline.to_frames(example, c.max_people, c.pictures), np.full(c.max_people, -1, np.int64)
            ids[: len(example.ids)] = example.ids
            yield Instant(example.time, ids, frame)


def _lacks(example: Example) -> set[str]:
    """The names of the joint types that the example's data set lacks."""
    return set() if example.annotated is None else {name for name, there in zip(JOINTS, example.annotated) if not there}


def _shown(examples: Sequence[Example], trained: Camera, size: tuple[int, int], index: int) -> Example:
    """An example whose picture is resampled for a camera, and padded to a size."""
    example = examples[index]
    plan = _plan(example.size, tuple(map(float, example.camera)), trained, size)
    if plan.size != size:
        raise ValueError(f"{example.where}: its picture or camera differs from the first of its sequence")
    picture = functools.partial(_show, plan, example) if example.picture else None
    zoom = plan.picture_size[1] / example.size[1]
    return example._replace(camera=plan.camera, picture=picture, zoom=zoom, size=plan.size)


@functools.lru_cache
def _plan(
    size: tuple[int, int], camera: tuple[float, ...], trained: Camera, trained_size: tuple[int, int]
) -> canvas.Canvas:
    return canvas.plan(size, Camera(*camera), trained, trained_size)


def _show(plan: canvas.Canvas, example: Example) -> UInt8[np.ndarray, "h w 3"]:
    assert example.picture is not None
    image = example.picture()
    if image.shape[:2] != example.size:
        raise ValueError(f"{example.where}: its picture has {image.shape[:2]} pixels, not {example.size}")
    return canvas.fill(plan, image)
