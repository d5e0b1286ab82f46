"""Reads all sequences of a JTA, in several processes, into files from which the builder makes its examples."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from loco_jax.cli import progress
from loco_jax.data.jta import annotations, pictures
from loco_jax.data.jta.annotations import SPLITS, AnnotationError, People
from loco_jax.geometry.camera import Camera

_SEQUENCES_PER_WORKER = 8  # at least, without pictures: a process takes as long to start as to read one or two


class Source(NamedTuple):
    """A JTA on disk, and what the prepared data takes from it."""

    jta_dir: pathlib.Path
    files: Mapping[str, Mapping[int, pathlib.Path]]  # of annotations, by folder and sequence number
    camera: Camera  # intrinsics in pixels of the original pictures
    num_frames: int  # of each sequence
    max_people: int  # more people in a frame are an error
    pictures: bool  # whether to take pictures
    picture_height: int  # resize pictures to this height in pixels; 0 leaves them as they are

    def asked(self) -> dict[str, Any]:
        """The values that prepared data must have been prepared with, to be used again."""
        numbers = {"num_frames": self.num_frames, "picture_height": self.picture_height}
        return {"jta_dir": str(self.jta_dir), **self.camera._asdict(), **numbers}


class Read(NamedTuple):
    """A sequence after reading."""

    path: pathlib.Path  # of its `People`
    counts: dict[str, dict[str, int]]  # of each split
    pictures: dict[int, pathlib.Path]  # by frame
    size: tuple[int, int] | None  # height and width of the original pictures


class Gathered(NamedTuple):
    """All sequences after reading."""

    read: dict[str, dict[int, Read]]  # the good ones, by folder and number
    bad: list[str]  # a message for each bad one
    size: tuple[int, int] | None  # height and width of all original pictures


def load_people(path: os.PathLike | str) -> People:
    """The people of a sequence that was read."""
    with np.load(path) as arrays:
        return People(**arrays)


def read_all(source: Source, work: pathlib.Path, num_workers: int, skip_bad: bool) -> Gathered:
    """Reads every sequence into `work`, in up to `num_workers` processes. See `gather` for the result and errors."""
    names = names_of(source)
    with (
        _mapper(min(num_workers, len(names) // (1 if source.pictures else _SEQUENCES_PER_WORKER))) as mapper,
        bar("Reading", len(names), " sequences") as shown,
    ):
        results = mapper(functools.partial(read_to_file, work=work, source=source), names)
        return gather(source, _counted(results, shown), skip_bad)


def _counted(results: Iterable[Read | str], shown: Any) -> Iterator[Read | str]:
    for result in results:
        shown.update()
        yield result


def names_of(source: Source) -> list[tuple[str, int]]:
    """Folder and number of every sequence."""
    return [(folder, number) for folder, numbered in source.files.items() for number in numbered]


def gather(source: Source, results: Iterable[Read | str], skip_bad: bool) -> Gathered:
    """Orders the results of `read_to_file` for all `names_of` the source.

    Raises AnnotationError that names all bad files, unless they may be skipped and leave a sequence in each folder.
    Raises it at once for pictures of several sizes, and for those that the camera cannot have taken.
    """
    names = names_of(source)
    read: dict[str, dict[int, Read]] = {folder: {} for folder in source.files}
    bad: list[str] = []
    size: tuple[int, int] | None = None
    for result, (folder, number) in zip(results, names):
        if isinstance(result, str):
            bad.append(result)
            continue
        read[folder][number] = result
        if size is None and result.size:
            pictures.check_middle(source.camera, result.size)
        if size and result.size and size != result.size:
            ours, first = (f"{s[1]} x {s[0]}" for s in (result.size, size))
            raise AnnotationError(
                f"{folder}/seq_{number} has pictures of {ours} pixels, but the sequences before have {first}; "
                "one camera must have taken them all"
            )
        size = result.size
    empty = [folder for folder in read if not read[folder]]
    if bad and (empty or not skip_bad):
        remedy = "Correct them, or prepare the other files with --skip_bad."
        if empty:
            remedy = f"Correct them: no good sequence is left in annotations/{', annotations/'.join(empty)}."
        head = f"{len(bad)} of {len(names)} sequences are bad, and nothing was prepared:"
        raise AnnotationError("\n  ".join([head, *bad, remedy]))
    return Gathered(read, bad, size)


def bar(what: str, total: int, unit: str):
    """A progress bar, shown if standard error is a terminal."""
    return progress.bar(total, unit, not sys.stderr.isatty(), desc=what, leave=False, dynamic_ncols=True)


def read_to_file(
    name: tuple[str, int], *, work: pathlib.Path, source: Source, some: Sequence[str] = tuple(SPLITS)
) -> Read | str:
    """Writes the frames that `some` splits take of a sequence into `work`. Returns the message if a file is bad."""
    folder, number = name
    out = work / f"{folder}_{number}"
    splits = {split: s.up_to(source.num_frames) for split, s in SPLITS.items() if s.folder == folder and split in some}
    frames = sorted(sum(splits.values(), []))
    files: dict[int, pathlib.Path] = {}
    size = None
    try:
        people = annotations.read_sequence(source.files[folder][number], frames, source.max_people)
        if source.pictures:
            files, size = pictures.collect_pictures(source.jta_dir, folder, number, frames, out, source.picture_height)
    except AnnotationError as error:
        shutil.rmtree(out, ignore_errors=True)  # it would stay until the end
        return str(error)
    np.savez(out.with_suffix(".npz"), **people._asdict())
    return Read(out.with_suffix(".npz"), {split: _count(people, some) for split, some in splits.items()}, files, size)


def _count(people: People, frames: Sequence[int]) -> dict[str, int]:
    used = np.isin(people.frame, np.asarray(frames))
    most = np.bincount(people.frame[used], minlength=1).max()
    joints = people.present[used].sum()
    return {"frames": len(frames), "people": int(used.sum()), "joints": int(joints), "most_people": int(most)}


@contextlib.contextmanager
def _mapper(num_workers: int) -> Iterator[Callable]:
    """A `map` that works in `num_workers` processes, or in this one if there are fewer than two."""
    if num_workers < 2:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of JAX's threads may hang
    others = multiprocessing.active_children()
    # Workers ignore a terminal's Ctrl-C, because this process ends them.
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool.map
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OSError(
            "a process that read sequences was killed, perhaps because memory was short; try --num_workers=1"
        ) from error
    finally:
        for worker in set(multiprocessing.active_children()).difference(others):
            worker.terminate()
        pool.shutdown(cancel_futures=True)
