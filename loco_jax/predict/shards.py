"""Shards: each of N processes takes every N-th input, and keeps a record for `loco_jax.predict.merge`.

A record is `shard_I_of_N.jsonl` in the folder of results. Its first line names all inputs of all shards. Each further
line is about an input of this shard, as soon as that is done or has failed. The last line says that the shard ended.
"""

import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from loco_jax.cli import disk
from loco_jax.predict import files
from loco_jax.predict.files import printable

Each = TypeVar("Each", bound=tuple)  # begins with an input's path and the beginning of the paths of its results


class Shard(NamedTuple):
    """Which shard it is, from 0, and how many there are."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def of(self, ordered: Sequence[Each]) -> list[Each]:
        """This shard's part of `order(inputs)`."""
        return list(ordered[self.number :: self.total])


def parse(text: str) -> Shard | None:
    """A shard from I/N, or None from an empty text. Raises ValueError if there is no such shard."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match:
        raise ValueError(f"--shard={text} must be I/N with whole numbers, such as 0/4 for the first of four shards")
    number, total = map(int, match.groups())
    if not total:
        raise ValueError(f"--shard={text} says that there are no shards; N must be at least 1")
    if number >= total:
        raise ValueError(f"--shard={text} is not there: {total} shards have the numbers 0 to {total - 1}")
    return Shard(number, total)


def order(inputs: Iterable[Each]) -> list[Each]:
    """Inputs sorted by their paths, pictures before films, so that every shard gets its part of both."""
    return sorted(inputs, key=lambda each: (files.is_film(each[0]), os.fspath(each[0])))


class Record:
    """The record of a shard, in work."""

    def __init__(self, shard: Shard, ordered: Sequence[tuple], output: os.PathLike | str):
        """Begins the record of a shard of `order(inputs)`, whose results go into `output`.

        Raises ValueError if another process works on this shard, or if the records of other shards in `output` have
        another number of shards, or other inputs.
        """
        self._folder = pathlib.Path(output)
        self._first = {"shard": list(shard), "inputs": [[printable(each[0]), _name(each)] for each in ordered]}
        path = self._folder / f"shard_{shard.number}_of_{shard.total}.jsonl"
        for other in find(self._folder):
            if other != path and (lines := read(other)):
                _check(other, lines[0], self._first)
        self._file = path.open("a+", encoding="utf-8")
        try:
            disk.lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{path}: another process works on --shard={shard}") from error
        self._old = {line["name"]: line for line in read(path)[1:] if "name" in line and "failure" not in line}
        self._file.truncate(0)
        self._write(self._first)

    def keep(self, done: Iterable[tuple]) -> None:
        """Takes over inputs that were done before. What the last record does not have is counted in their JSON."""
        for each in done:
            name = _name(each)
            self._write(self._old.get(name) or {"name": name, **_count(self._folder / f"{name}.json")})

    def fail(self, refused: Iterable[tuple[Any, str]]) -> None:
        """Records inputs that are refused, with the reasons."""
        for each, message in refused:
            self._write({"name": _name(each), "failure": _line(each[0], message)})

    def follow(self, outcomes: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Passes outcomes on: pairs of an input and its `Done` or error. Each is recorded, with the seconds it took."""
        with self._file:
            last = time.monotonic()
            for each, outcome in outcomes:
                now = time.monotonic()
                line: dict[str, Any] = {"name": _name(each), "seconds": round(now - last, 3)}
                last = now
                if isinstance(outcome, BaseException):
                    line["failure"] = _line(each[0], outcome)
                else:
                    line |= {"frames": outcome.frames, "people": outcome.people, "tracks": outcome.tracks}
                    line |= {"failure": _line(each[0], outcome.failure)} if outcome.failure else {}
                self._write(line)
                yield each, outcome
            self._write({"ended": True})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def find(folder: os.PathLike | str) -> list[pathlib.Path]:
    """The records in a folder."""
    found = [path for path in pathlib.Path(folder).glob("shard_*_of_*.jsonl") if re.fullmatch(_NAME, path.name)]
    return sorted(found, key=lambda path: [int(number) for number in re.findall("[0-9]+", path.name)])


_NAME = r"shard_[0-9]+_of_[0-9]+\.jsonl"


def read(path: os.PathLike | str) -> list[dict[str, Any]]:
    """The lines of a record; none of one that is just beginning. A last line that is not complete is left out.

    Raises ValueError if this command did not write the file.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines()
    try:
        lines = [json.loads(line) for line in whole]
        if lines and not (isinstance(lines[0]["inputs"], list) and len(lines[0]["shard"]) == 2):
            raise ValueError("no inputs")
        return lines
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: is damaged, or not a shard's record; remove it and repeat the shard") from error


def check_same(paths: Sequence[pathlib.Path], firsts: Sequence[dict[str, Any]]) -> None:
    """Raises ValueError unless the first lines of these records are of one set of shards with the same inputs."""
    for path, first in zip(paths[1:], firsts[1:]):
        _check(path, first, firsts[0])


def _check(path: pathlib.Path, other: dict[str, Any], mine: dict[str, Any]) -> None:
    total, wanted = other["shard"][1], mine["shard"][1]
    if total != wanted:
        problem = f"is of {total} shards, not of {wanted}"
        raise ValueError(f"{path}: {problem}; remove the records of {total} or {wanted}, or name another folder")
    if other["inputs"] != mine["inputs"]:
        ours, theirs = ({tuple(each) for each in first["inputs"]} for first in (mine, other))
        which = min(ours ^ theirs, default=("the order", ""))[0]
        raise ValueError(f"{path}: was made of other inputs ({which}); repeat all shards, without the old records")


def _name(each: tuple) -> str:
    return os.path.basename(each[1])


def _line(path: pathlib.Path, message: BaseException | str) -> str:
    """The first line of a message, without the name of its file."""
    text = printable(str(message).strip().split("\n")[0] or type(message).__name__)
    return text.removeprefix(f"{printable(path)}: ")


def _count(path: pathlib.Path) -> dict[str, Any]:
    """Frames, people and tracks in JSON of results; see `results.Done`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "frames" not in content:
        return {"frames": 1, "people": len(content["people"]), "tracks": None}
    people = [person for frame in content["frames"] for person in frame["people"]]
    tracks = len({person["id"] for person in people})
    return {"frames": len(content["frames"]), "people": sum(p["score"] > 0 for p in people), "tracks": tracks}
