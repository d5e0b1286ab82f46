"""From prepared data to batches of `Frames`: shuffling, padding, batching, and a position that can be stored."""

import functools
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8
from PIL import Image

from loco_jax.data import augment as augmentation
from loco_jax.data.frames import Example, Frames, Origin
from loco_jax.data.lazy import Lazy
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import FROM_JTA, NUM_JOINTS

JTA_FPS = 30.0
_AHEAD_BYTES = 512_000_000


def read(
    examples: Sequence[Example],
    split: str,
    batch_size: int,
    max_people: int,
    *,
    seed: int = 0,
    training: bool = True,
    max_frames: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    pictures: bool = False,
    augment: bool = False,
) -> "Batches":
    """Iterates over batches of a data set in files: `Frames` of NumPy arrays with a leading axis B.

    For training it never ends. Every epoch has another order, and drops the frames that do not fill a batch on every
    process. Otherwise each frame comes exactly once, by sequence and frame number. The last batches are padded, and
    `is_real(frames)` tells frames from padding. All processes get the same number of batches.

    `get_state()` of the iterator is a dict that JSON can hold. After `set_state()`, an iterator with the same
    arguments, except perhaps `num_workers`, continues with exactly the same batches.

    Args:
      examples: the frames of a split, with random access.
      split: its name, for errors.
      batch_size: B, of this process.
      max_people: P; a frame with more is an error.
      seed: of the shuffling, 0 to 2^32 - 1.
      training: see above.
      max_frames: take only this many frames, evenly spread over the split.
      process_index, process_count: select this process's part of each epoch. The parts are disjoint; concatenated over
        the processes, batches are those that a single process would get.
      num_workers: processes that read ahead; with 0, threads of this process do.
      pictures: with them, decoded to `[B, height, width, 3]` uint8.
      augment: change pictures with `augment`; a frame of an epoch always changes in the same way.

    Raises:
      ValueError: too few frames for a batch. Also, at once or while iterating, for a damaged picture or more than
        `max_people` people, with the frame's name.
    """
    count = len(examples) if max_frames is None else min(max_frames, len(examples))
    global_batch = batch_size * process_count
    if training and count < global_batch:
        raise ValueError(
            f"split {split!r} has {count} frames, too few for batch_size={batch_size} on each of "
            f"{process_count} processes; take a smaller batch_size, or prepare more sequences"
        )
    padded_length = -(-count // global_batch) * global_batch
    padded = functools.partial(_padded, examples, count, max_people, pictures)
    source = Lazy(count if training else padded_length, padded)
    dataset = grain.MapDataset.source(source).seed(seed)
    if training:
        dataset = dataset.shuffle()
    if augment:
        dataset = dataset.random_map(augmentation.augment)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    # All processes get the same number of batches, so that none is an epoch ahead of another. They take turns, so that
    # together they have the batches of a single process.
    dataset = dataset[process_index : len(dataset) - len(dataset) % process_count : process_count]
    if training:
        dataset = dataset.repeat()  # with another seed for each epoch
    picture = source[0].image.nbytes if pictures else 0
    return Batches(dataset, read_ahead(batch_size * picture, num_workers, os.cpu_count() or 2), num_workers)


class Batches(Iterator[Frames]):
    """Iterates over a Grain data set, in this process or in workers.

    Its position is the number of batches so far, because Grain's own position depends on the number of workers.
    """

    def __init__(self, dataset: grain.MapDataset, options: grain.ReadOptions, num_workers: int):
        self._dataset, self._options, self._num_workers = dataset, options, num_workers
        self._done = 0
        self._iterator: Iterator[Frames] | None = None

    def __next__(self) -> Frames:
        if self._iterator is None:
            stream = self._dataset[self._done :].to_iter_dataset(self._options)
            if self._num_workers:
                if not flags.FLAGS.is_parsed():  # as in a notebook; Grain defines flags
                    flags.FLAGS.mark_as_parsed()
                stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._num_workers))
            self._iterator = iter(stream)
        batch = next(self._iterator)
        self._done += 1
        return batch

    def first(self) -> Frames:
        """The first of all batches; the position stays."""
        return self._dataset[0]

    def get_state(self) -> dict[str, int]:
        return {"batches": self._done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position. Raises ValueError if `state` is not one."""
        done = state.get("batches")
        if type(done) is not int or done < 0:
            raise ValueError(
                f"{state} is not a position in the data: another version of this program wrote the checkpoint; "
                "continue with that version, or start again in another --workdir"
            )
        if self._iterator is not None:
            self._iterator.close()  # type: ignore[attr-defined]  # stops its threads and workers
        self._iterator, self._done = None, done


def read_ahead(batch_bytes: int, num_workers: int, cores: int) -> grain.ReadOptions:
    """How many threads and prefetched batches each process has; `batch_bytes` are those of a batch's pictures.

    Batches without pictures are small. With pictures, all processes together keep at most 512 MB of batches, or one
    batch each if that is more, and the one or two that each is handing over.
    """
    if not batch_bytes:
        return grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    ahead = min(8, max(1, _AHEAD_BYTES // (batch_bytes * max(num_workers, 1))))
    threads = 2 if num_workers else max(2, cores // 2)
    return grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)


def is_real(frames: Frames) -> Any:
    """Which frames of a batch are real, bool `[B]`; the others fill the last batch of an evaluation.

    Padding has no people. Its camera is the last frame's with negative focal lengths. No real camera has those, and
    everything computed from them is finite.
    """
    return frames.camera.fx > 0


def _padded(examples: Sequence[Example], count: int, max_people: int, pictures: bool, index: int) -> Frames:
    """One of `count` of the examples, evenly spread, without batch axis; after them a frame of padding."""
    place = min(index, count - 1)
    frames = to_frames(examples[place * len(examples) // count], max_people, pictures)
    if index < count:
        return frames
    camera = frames.camera._replace(fx=-frames.camera.fx, fy=-frames.camera.fy)
    joints, present = np.zeros_like(frames.joints), np.zeros_like(frames.present)
    return frames._replace(joints=joints, present=present, camera=camera)


def to_frames(example: Example, max_people: int, pictures: bool) -> Frames:
    """An example padded to `max_people`, without batch axis.

    Raises ValueError with the frame's name for more people, and for a missing picture.
    """
    count = len(example.ids)
    if count > max_people:
        raise ValueError(
            f"{example.where} has {count} people, more than max_people={max_people}; raise it to {count} or more"
        )

    if pictures and example.picture is None:
        raise ValueError(f"{example.where} has no picture, but config.data.pictures asks for one")

    def padded(values, dtype):
        out = np.zeros((max_people, *values.shape[1:]), dtype)
        out[:count] = values
        return out

    origin = None
    if example.group >= 0:
        occluded = np.zeros_like(example.present) if example.occluded is None else example.occluded
        annotated = np.ones(NUM_JOINTS, bool) if example.annotated is None else example.annotated
        group, zoom = np.array(example.group, np.int32), np.array(example.zoom, np.float32)
        universal = None if example.universal is None else padded(example.universal, np.float32)
        origin = Origin(group, zoom, annotated, padded(occluded, bool), universal)
    image = example.picture() if pictures and example.picture is not None else None
    camera = Camera(*map(np.float32, example.camera))
    return Frames(padded(example.joints, np.float32), padded(example.present, bool), camera, image, origin=origin)


def jta_examples(records: Sequence[dict[str, Any]], pictures: bool) -> Sequence[Example]:
    """The records of a prepared JTA as examples: their people by ascending id, with LoCO's joints."""
    return Lazy(len(records), functools.partial(_example, records, pictures))


def _example(records: Sequence[dict[str, Any]], pictures: bool, index: int) -> Example:
    record = records[index]
    people, where = record["people"], _name(record)
    picture = functools.partial(decode, record) if pictures else None
    camera = Camera(*(record["camera"][field] for field in Camera._fields))
    joints, present = people["joints"][:, FROM_JTA], people["present"][:, FROM_JTA]
    time = int(record["frame"]) / JTA_FPS
    return Example(joints, present, people["id"], camera, (0, 0), where, time, picture, group=-1)


def decode(record: dict[str, Any]) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a record of JTA. Raises ValueError with sequence and frame if it is damaged."""
    try:
        with Image.open(io.BytesIO(record["image"]), formats=("JPEG", "PNG")) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{_name(record)}: the picture cannot be decoded ({error}); prepare the data again") from error


def _name(record: dict[str, Any]) -> str:
    return f"JTA sequence {record['sequence']}, frame {record['frame']}"
