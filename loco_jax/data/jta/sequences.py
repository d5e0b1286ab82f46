"""Reads all sequences of a JTA, in several processes, into files from which the builder makes its examples."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from loco_jax.cli import progress
from loco_jax.data.jta import annotations, pictures
from loco_jax.data.jta.annotations import MAX_PEOPLE, NUM_FRAMES, SPLITS, AnnotationError, People, frames_of
from loco_jax.data.jta.pictures import PictureSize
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera

# A process takes as long to start as to read one or two real sequences, of about 25 MB each.
_BYTES_PER_WORKER = 50_000_000


@dataclasses.dataclass(frozen=True)
class Source:
    """A JTA on disk, and what the prepared data takes from it.

    Attributes:
      jta_dir: holds the annotations and pictures.
      files: the annotation files, by folder and sequence number.
      camera: intrinsics in pixels of the pictures as they come.
      num_frames: of each sequence.
      max_people: more people in a frame are an error.
      pictures: whether to take pictures.
      picture_height: resize pictures to this height in pixels; 0 leaves them as they are.
    """

    jta_dir: pathlib.Path
    files: Mapping[str, Mapping[int, pathlib.Path]]
    camera: Camera = cameras.JTA
    num_frames: int = NUM_FRAMES
    max_people: int = MAX_PEOPLE
    pictures: bool = False
    picture_height: int = 0

    def names(self) -> list[tuple[str, int]]:
        """Folder and number of each sequence."""
        return [(folder, number) for folder, numbered in self.files.items() for number in numbered]

    def frames(self, folder: str) -> list[int]:
        """The frames that the splits of a folder take of each sequence."""
        return frames_of(folder, self.num_frames)

    def picture_files(self, folder: str, number: int) -> list[pathlib.Path]:
        """The files of a sequence's pictures, whether they exist or not."""
        return pictures.source_files(self.jta_dir, folder, number, self.frames(folder))

    def describe(self) -> dict[str, str]:
        """The folder, and a digest of its files' sizes and times, which shows later whether files have changed."""
        digest = hashlib.sha256(f"{self.num_frames} frames\n".encode())
        for folder, number in self.names():
            of_pictures = self.picture_files(folder, number) if self.pictures else []
            for file in (file for file in (self.files[folder][number], *of_pictures) if file.exists()):
                status = file.stat()
                digest.update(f"{folder}/{number}/{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return {"jta_dir": str(self.jta_dir), "files": digest.hexdigest()}


class Read(NamedTuple):
    """A sequence after reading: the file of its `People`, counts per split, its pictures by frame, and their size."""

    path: pathlib.Path
    counts: dict[str, dict[str, int]]
    pictures: dict[int, pathlib.Path]
    size: PictureSize | None


def load_people(path: os.PathLike | str) -> People:
    """The people of a sequence that was read."""
    with np.load(path) as arrays:
        return People(**arrays)


def read_all(
    source: Source, work: pathlib.Path, num_workers: int, skip_bad: bool
) -> tuple[dict[str, dict[int, Read]], list[str]]:
    """Reads every sequence into `work`. Returns the sequences by folder and number, and a message for each bad one.

    Raises AnnotationError that names all bad files, unless they may be skipped and leave a sequence in each folder.
    """
    names = source.names()
    read: dict[str, dict[int, Read]] = {folder: {} for folder in source.files}
    bad = []
    worth = len(names)  # processes
    if not source.pictures:
        worth = sum(source.files[folder][number].stat().st_size for folder, number in names) // _BYTES_PER_WORKER
    with _mapper(min(num_workers, worth)) as mapper, bar("Reading", len(names), " sequences") as shown:
        results = mapper(functools.partial(_read_to_file, work=work, source=source), names)
        for result, (folder, number) in zip(results, names):
            shown.update()
            if isinstance(result, str):
                bad.append(result)
            else:
                read[folder][number] = result
    empty = [folder for folder in read if not read[folder]]
    if bad and (empty or not skip_bad):
        remedy = "Correct them, or prepare the other files with --skip_bad."
        if empty:
            remedy = f"Correct them: no good sequence is left in annotations/{', annotations/'.join(empty)}."
        head = f"{len(bad)} of {len(names)} sequences are bad, and nothing was prepared:"
        raise AnnotationError("\n  ".join([head, *bad, remedy]))
    return read, bad


def bar(what: str, total: int, unit: str):
    """A progress bar, shown if standard error is a terminal."""
    return progress.bar(total, unit, not sys.stderr.isatty(), desc=what, leave=False, dynamic_ncols=True)


def _read_to_file(name: tuple[str, int], *, work: pathlib.Path, source: Source) -> Read | str:
    """Writes the frames that the splits take of a sequence into `work`. Returns the message if a file is bad."""
    folder, number = name
    frames, out = source.frames(folder), work / f"{folder}_{number}"
    collected: tuple[dict[int, pathlib.Path], PictureSize | None] = {}, None
    try:
        people = annotations.read_sequence(source.files[folder][number], frames, source.max_people)
        if source.pictures:
            collected = pictures.collect_pictures(source.jta_dir, folder, number, frames, out, source.picture_height)
    except AnnotationError as error:
        shutil.rmtree(out, ignore_errors=True)  # it would stay until the end
        return str(error)
    np.savez(out.with_suffix(".npz"), **people._asdict())
    counts = {name: _count(people, s.up_to(source.num_frames)) for name, s in SPLITS.items() if s.folder == folder}
    return Read(out.with_suffix(".npz"), counts, *collected)


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
    except BaseException as error:
        for worker in set(multiprocessing.active_children()).difference(others):
            worker.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise OSError(
                "a process that read sequences was killed, perhaps because memory was short; try --num_workers=1"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
