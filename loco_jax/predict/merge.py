"""usage: python -m loco_jax.predict.merge FOLDER [--output=FILE.csv]

Makes one table of the results that shards (predict --shard=I/N --output=FOLDER) have written so far: a row for each
input of the shards that have started, with the number of frames, of people over all frames, of tracks in a video, and
the seconds it took. It says which inputs failed and which are still missing, and how many the other shards have. The
exit status is 0 if all inputs are done, else 1. It can be called while shards are at work.
"""

import collections
import csv
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import app, flags

from loco_jax import cli
from loco_jax.cli import disk

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", "", "The table; by default shards.csv in the folder.", flag_values=FLAGS)
_MOST_LINES = 20  # of each kind


class Row(NamedTuple):
    """An input. `state` is done, failed or missing. Unknown values are None, and so are the `tracks` of pictures."""

    input: str
    name: str  # of the files of its results
    shard: int
    state: str
    frames: int | None = None
    people: int | None = None
    tracks: int | None = None
    seconds: float | None = None
    failure: str | None = None


class Merged(NamedTuple):
    """The inputs of all shards that have started, and how far each of the shards is: not started, begun, or ended.

    `total` is the number of inputs of all shards. `failures` tell which arguments of the command gave no inputs.
    """

    rows: list[Row]
    shards: list[str]
    total: int
    failures: list[str]

    def are_done(self) -> bool:
        """Whether nothing failed and nothing is missing."""
        return len(self.rows) == self.total and not self.failures and all(row.state == "done" for row in self.rows)


def merge(folder: os.PathLike | str) -> Merged:
    """Merges the records in a folder. An input counts as done only if its JSON exists.

    Raises ValueError if there are no records, or if they do not belong together.
    """
    from loco_jax.predict import shards

    folder = pathlib.Path(folder).expanduser()
    records = {path: lines for path in shards.find(folder) if (lines := shards.read(path))}
    if not records:
        raise ValueError(f"{folder}: has no shard_I_of_N.jsonl; predict --shard=I/N --output={folder} writes them")
    firsts = [lines[0] for lines in records.values()]
    shards.check_same(list(records), firsts)
    count = firsts[0]["shard"][1]
    states = ["not started"] * count
    found: dict[str, dict[str, Any]] = {}
    for first, *lines in records.values():
        states[first["shard"][0]] = "ended" if {"ended": True} in lines else "begun"
        found |= {line["name"]: line for line in lines if "name" in line}
    placed = {}  # by place among all inputs
    for first in firsts:
        for place, (path, name) in enumerate(first["inputs"]):
            line = dict(found.get(name, {"name": name}))
            state = "failed" if "failure" in line else "done"
            if name not in found or (state == "done" and not (folder / f"{name}.json").exists()):
                line, state = {"name": name}, "missing"
            shard = first["shard"][0]
            placed[place * count + shard] = Row(input=path, shard=shard, state=state, **line)
    rows = [placed[place] for place in sorted(placed)]
    failures = dict.fromkeys(failure for first in firsts for failure in first["arguments"])
    return Merged(rows, states, firsts[0]["count"], list(failures))


def write(rows: Sequence[Row], path: os.PathLike | str) -> None:
    """Writes the rows as CSV, with a head. The file appears completely or not at all.

    Raises ValueError if the file exists and is not such a table.
    """
    if os.path.isfile(path):
        with open(path, "rb") as old:
            if old.readline(1000).strip() not in (b"", ",".join(Row._fields).encode()):
                raise ValueError(f"{path}: is not a table of this command; move it, or name another --output")
    with disk.whole(os.fspath(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(Row._fields)
        table.writerows(rows)


def describe(merged: Merged) -> list[str]:
    """Lines for the user: all inputs, those of each shard that is not done, and the inputs that are not."""
    total, count = len(merged.shards), merged.total
    unknown = count - len(merged.rows)  # inputs, of shards that have not started
    lines = [f"{count} inputs in {total} shard{'s' * (total > 1)}: {_states(merged.rows, unknown)}"]
    lines += [f"failed: {failure}" for failure in merged.failures]
    owned: dict[int, list[Row]] = {}
    for row in merged.rows:
        owned.setdefault(row.shard, []).append(row)
    for shard, state in enumerate(merged.shards):
        own = owned.get(shard, [])
        unknown = len(range(shard, count, total)) - len(own)
        if unknown or any(row.state != "done" for row in own):
            note = {"begun": "; it is at work, or was stopped", "not started": "; it has not started"}.get(state, "")
            lines.append(f"shard {shard}/{total}: {_states(own, unknown)}{note}")
    for state in ("failed", "missing"):
        some = [row for row in merged.rows if row.state == state]
        lines += [f"{state}: {row.input}" + (f": {row.failure}" if row.failure else "") for row in some[:_MOST_LINES]]
        if len(some) > _MOST_LINES:
            lines.append(f"{state}: {len(some) - _MOST_LINES} more, see the table")
    return lines


def _states(rows: Sequence[Row], unknown: int) -> str:
    counts = collections.Counter(row.state for row in rows)
    counts["missing"] += unknown
    return ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "missing") if counts[state]) or "none"


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise app.UsageError("name the one folder with the results of all shards")
    merged = merge(argv[1])
    path = pathlib.Path(_OUTPUT.value or pathlib.Path(argv[1]) / "shards.csv").expanduser()
    try:
        write(merged.rows, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); name another --output") from error
    print(*describe(merged), f"  {path}", sep="\n")
    return 0 if merged.are_done() else 1


if __name__ == "__main__":
    cli.start(main, FLAGS)
