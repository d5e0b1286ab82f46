"""Reading all sequences of a JTA, in several processes, into files that the builder takes its examples from."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from loco_jax.cli import progress
from loco_jax.data.jta import annotations, pictures
from loco_jax.data.jta.annotations import SPLITS, AnnotationError, People, frames_of
from loco_jax.data.jta.pictures import PictureSize

Files = Mapping[str, Mapping[int, pathlib.Path]]  # annotation files by folder and sequence number

# A process takes as long to start as to read one or two real sequences, of about 25 MB each.
_BYTES_PER_WORKER = 50_000_000


class Wanted(NamedTuple):
    """What to read of each sequence."""

    jta_dir: pathlib.Path
    max_people: int
    num_frames: int
    pictures: bool
    picture_height: int

    def picture_files(self, folder: str, number: int) -> list[pathlib.Path]:
        """The files of a sequence's pictures, whether they exist or not."""
        return pictures.source_files(self.jta_dir, folder, number, frames_of(folder, self.num_frames))


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
    files: Files, work: pathlib.Path, wanted: Wanted, num_workers: int, skip_bad: bool
) -> tuple[dict[str, dict[int, Read]], list[str]]:
    """Reads every file: what was read, by folder and number, and a message for each bad file.

    Raises AnnotationError that names all bad files, unless they may be skipped and leave a sequence in each folder.
    """
    names = [(folder, number) for folder in files for number in files[folder]]
    paths = [files[folder][number] for folder, number in names]
    read: dict[str, dict[int, Read]] = {folder: {} for folder in files}
    bad = []
    worth = len(paths) if wanted.pictures else sum(path.stat().st_size for path in paths) // _BYTES_PER_WORKER
    with _mapper(min(num_workers, worth)) as mapper, bar("Reading", len(paths), " sequences") as shown:
        results = mapper(functools.partial(_read_to_file, work=work, wanted=wanted), names, paths)
        for result, (folder, number) in zip(results, names):
            shown.update()
            if isinstance(result, str):
                bad.append(result)
            else:
                read[folder][number] = result
    empty = [folder for folder in files if not read[folder]]
    if bad and (empty or not skip_bad):
        remedy = "Mend them, or prepare the other files with --skip_bad."
        if empty:
            remedy = f"Mend them: no good sequence is left in annotations/{', annotations/'.join(empty)}."
        head = f"{len(bad)} of {len(paths)} sequences are bad, nothing was prepared:"
        raise AnnotationError("\n  ".join([head, *bad, remedy]))
    return read, bad


def bar(what: str, total: int, unit: str):
    """A progress bar, shown if standard error is a terminal."""
    return progress.bar(total, unit, not sys.stderr.isatty(), desc=what, leave=False, dynamic_ncols=True)


def _read_to_file(name: tuple[str, int], path: pathlib.Path, *, work: pathlib.Path, wanted: Wanted) -> Read | str:
    """Writes the frames that the splits take of a sequence into `work`. Returns the message if a file is bad."""
    folder, number = name
    frames, out = frames_of(folder, wanted.num_frames), work / f"{folder}_{number}"
    collected: tuple[dict[int, pathlib.Path], PictureSize | None] = {}, None
    try:
        people = annotations.read_sequence(path, frames, wanted.max_people)
        if wanted.pictures:
            collected = pictures.collect_pictures(wanted.jta_dir, folder, number, frames, out, wanted.picture_height)
    except AnnotationError as error:
        shutil.rmtree(out, ignore_errors=True)  # it would stay until the end
        return str(error)
    np.savez(out.with_suffix(".npz"), **people._asdict())
    counts = {name: _count(people, s.up_to(wanted.num_frames)) for name, s in SPLITS.items() if s.folder == folder}
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
