"""Shards: each of N processes takes every N-th input, and keeps a record for `loco_jax.predict.merge`.

A record is `shard_I_of_N.jsonl` in the folder of results. Its first line names the inputs of this shard, and has
digests of those of all shards. Each further line is about an input, as soon as that is done or has failed. The latest
line about an input counts. The last line says that the shard ended.
"""

import hashlib
import itertools
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple, TypeVar

from loco_jax.cli import disk
from loco_jax.predict import files
from loco_jax.predict.files import printable

Each = TypeVar("Each", bound=tuple)  # begins with an input's path and the beginning of the paths of its results
_MOST = 100_000  # shards


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
        raise ValueError(f"--shard={text} means no shards; N must be at least 1")
    if total > _MOST:
        raise ValueError(f"--shard={text} means too many shards; N must be at most {_MOST:,}")
    if number >= total:
        raise ValueError(f"--shard={text} does not exist; {total} shards have the numbers 0 to {total - 1}")
    return Shard(number, total)


def order(inputs: Iterable[Each]) -> list[Each]:
    """Inputs sorted by their paths, pictures before films, so that every shard gets its part of both."""
    return sorted(inputs, key=lambda each: (files.is_film(each[0]), os.fspath(each[0])))


class Record:
    """The record of a shard at work."""

    def __init__(self, shard: Shard, ordered: Sequence[tuple], output: os.PathLike | str, failures: Sequence[str] = ()):
        """Begins the record of a shard of `order(inputs)`, whose results go into `output`.

        `failures` are arguments of the command that give no inputs. An earlier record of the same inputs is kept until
        `begin`.

        Raises ValueError if another process works on this shard, or if the records of other shards in `output` have
        another number of shards, or other inputs. The earlier record is left as it was.
        """
        self.shard, self.failures, self._count = shard, tuple(map(printable, failures)), len(ordered)
        self._folder = pathlib.Path(output)
        self._path = self._folder / f"shard_{shard.number}_of_{shard.total}.jsonl"
        names = [[printable(each[0]), _name(each)] for each in ordered]
        self._first: dict[str, Any] = {
            "shard": list(shard),
            "count": len(names),
            "paths": _digest(path for path, _ in names),
            "names": _digest(name for _, name in names),
            "inputs": names[shard.number :: shard.total],
            "arguments": list(self.failures),
        }
        self._file: IO[str] = self._path.open("a", encoding="utf-8")
        self._locked = [self._file]  # old ones too, which others may have opened
        try:
            disk.lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{self._path}: another process works on --shard={shard}") from error
        before = self._path.read_bytes()
        try:
            lines = read(self._path)
            old = lines[1:] if lines and _same(lines[0], self._first) else []
            self._old = {line["name"]: line for line in old if "name" in line}
            # Two shards that begin together see each other, because each writes before it looks.
            self._rewrite([self._first, *self._old.values()])
            self._check_others(names)
        except BaseException:
            self._restore(before)
            raise
        self._last = time.monotonic()

    def __str__(self) -> str:
        return f"Shard {self.shard}: {len(self._first['inputs'])} of {self._count} inputs"

    def begin(self, done: Iterable[tuple], refused: Iterable[tuple[Any, str]] = ()) -> None:
        """Writes the record anew, with inputs that were done before, and those that are refused, with the reasons.

        Frames, people and tracks are counted in the JSON. The seconds are those of the earlier record.
        """
        lines = {}
        for name in map(_name, done):
            old = self._old.get(name, {})
            took = {"seconds": old["seconds"]} if {"frames", "seconds"} <= old.keys() else {}
            lines[name] = {"name": name, **_count(self._folder / f"{name}.json"), **took}
        refusals = [{"name": _name(each), "failure": _line(each[0], message)} for each, message in refused]
        self._rewrite([self._first, *lines.values(), *refusals])
        self._old, self._last = lines, time.monotonic()

    def fail(self, each: tuple, message: str) -> None:
        """Records that something failed for an input that was done before."""
        name = _name(each)
        self._write({"name": name, **self._old.get(name, {}), "failure": _line(each[0], message)})

    def add(self, each: tuple, outcome: Any, failure: str = "") -> None:
        """Records the outcome of an input, with the seconds since the one before.

        `outcome` is a `results.Done` or an error, and `failure` says what else failed.
        """
        now = time.monotonic()
        line: dict[str, Any] = {"name": _name(each), "seconds": round(now - self._last, 3)}
        self._last = now
        if isinstance(outcome, BaseException):
            line["failure"] = _line(each[0], outcome)
        else:
            line |= {"frames": outcome.frames, "people": outcome.people, "tracks": outcome.tracks}
            if problem := outcome.failure or failure:
                line["failure"] = _line(each[0], problem)
        self._write(line)

    def end(self) -> None:
        """Records that the shard ended."""
        self._write({"ended": True})

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        """Lets other processes work on the shard."""
        for file in self._locked:
            file.close()

    def _check_others(self, names: Sequence[Sequence[str]]) -> None:
        for other in find(self._folder):
            if other == self._path or not (lines := read(other)):
                continue
            first = lines[0]
            if first["shard"][1] == self.shard.total:
                mine = names[first["shard"][0] :: self.shard.total]
                _check(other, first, self._first, _difference(first["inputs"], mine, self._folder))
            _check(other, first, self._first)

    def _rewrite(self, lines: Iterable[dict[str, Any]]) -> None:
        """Replaces the record by a new one, which is locked too. The old one stays locked."""
        with disk.whole(os.fspath(self._path)) as part:
            self._file = part.open("w", encoding="utf-8")
            self._locked.append(self._file)
            disk.lock(self._file)
            self._file.writelines(json.dumps(line) + "\n" for line in lines)
            self._file.flush()

    def _restore(self, before: bytes) -> None:
        if before:
            with disk.whole(os.fspath(self._path)) as part:
                part.write_bytes(before)
        else:
            self._path.unlink(missing_ok=True)
        self.__exit__()

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
    try:
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
        if lines and not (_is_first(lines[0]) and all(map(_is_further, lines[1:]))):
            raise ValueError("it has other lines")
        return lines
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged, or not a shard's record; remove it and repeat the shard") from error


_FIRST = {"shard": list, "count": int, "paths": str, "names": str, "inputs": list, "arguments": list}
_NUMBER = (int, float, type(None))
_FURTHER: dict[str, Any] = {
    "name": str,
    "frames": int,
    "people": int,
    "tracks": _NUMBER,
    "seconds": _NUMBER,
    "failure": str,
}


def _is_first(line: Any) -> bool:
    if not (isinstance(line, dict) and line.keys() == _FIRST.keys()):
        return False
    if not all(isinstance(line[key], kind) for key, kind in _FIRST.items()):
        return False
    if not all(map(_is_pair, [line["shard"], *line["inputs"]])):
        return False
    number, total = line["shard"]
    if not (type(number) is type(total) is int and 0 <= number < total <= _MOST):
        return False
    return all(isinstance(text, str) for text in [*itertools.chain(*line["inputs"]), *line["arguments"]])


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _is_further(line: Any) -> bool:
    if line == {"ended": True}:
        return True
    known = isinstance(line, dict) and "name" in line and line.keys() <= _FURTHER.keys()
    return known and all(isinstance(value, _FURTHER[key]) for key, value in line.items())


def check_same(paths: Sequence[pathlib.Path], firsts: Sequence[dict[str, Any]]) -> None:
    """Raises ValueError unless the first lines of these records are of one set of shards with the same inputs."""
    for path, first in zip(paths[1:], firsts[1:]):
        _check(path, first, firsts[0])


def _same(first: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(first[key] == other[key] for key in ("shard", "count", "paths", "names"))


def _check(path: pathlib.Path, other: dict[str, Any], mine: dict[str, Any], difference: str = "") -> None:
    total, wanted = other["shard"][1], mine["shard"][1]
    if total != wanted:
        problem = f"belongs to a set of {total} shards, not {wanted}"
        raise ValueError(f"{path}: {problem}; remove the records of {total} or {wanted}, or name another folder")
    difference = f" ({difference})" if difference else ""
    if (other["count"], other["paths"]) != (mine["count"], mine["paths"]):
        raise ValueError(
            f"{path}: was made from other inputs{difference}; remove the old records and repeat all shards"
        )
    if other["names"] != mine["names"]:
        raise ValueError(
            f"{path}: was made with other names of results{difference}; remove the old records and repeat all shards"
        )


def _difference(theirs: Sequence[Sequence[str]], mine: Sequence[Sequence[str]], folder: pathlib.Path) -> str:
    """The first difference between a shard's inputs in its record and here; empty if it lies in other shards."""
    for their, my in itertools.zip_longest(theirs, mine):
        if my is None or their is None or their[0] != my[0]:
            return f"{their[0] if their else 'nothing'} there, {my[0] if my else 'nothing'} here"
        if their != my:
            ways = [folder / file for file in files.outputs(their[1]) if os.path.lexists(folder / file)]
            because = f", because of {printable(ways[0])}" if ways else ""
            return f"those of {my[0]} {their[1]} there, {my[1]} here{because}"
    return ""


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


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
