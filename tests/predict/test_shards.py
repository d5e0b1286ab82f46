"""Shards of the predict command, and the table of their results."""

import collections
import csv
import fcntl
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_jax import cli
from loco_jax.predict import __main__ as predict
from loco_jax.predict import exporting, merge, people, shards
from tests.support.discs import HEADS, Discs, read, record, save

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Pictures and videos in two folders, some of one name, and a file that is none; the command finds discs."""
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: Discs())
    monkeypatch.chdir(tmp_path)
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("x.png", "y.png", "x.jpg")):
            save(tmp_path / folder / name, heads=HEADS[: number + 1])
        record(tmp_path / folder / "x.mp4", [HEADS[:2]] * 3)
    (tmp_path / "bad.png").write_text("no picture")
    record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 2)
    return ["v.mp4", "b", "bad.png", "a"]


COUNT = 10  # of these inputs


def run(*arguments: object) -> int:
    return cli.run(predict.main, ["predict", *map(str, arguments), "--quiet"], predict.FLAGS)


def run_merge(*arguments: object) -> int:
    return cli.run(merge.main, ["merge", *map(str, arguments)], merge.FLAGS)


def results(folder: pathlib.Path | str) -> dict[str, bytes]:
    """All files that do not tell when they were written, as MP4s do."""
    files = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
    return {
        name: b"" if name.endswith(".mp4") else content
        for name, content in files.items()
        if not name.endswith(("jsonl", "csv"))
    }


def table(path: pathlib.Path | str = "many/shards.csv") -> dict[str, dict[str, str]]:
    """The rows by input."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["input"] for row in rows})
    return {row["input"]: row for row in rows}


@given(st.integers(1, 40), st.lists(st.text("abc", min_size=1), unique=True))
def test_every_input_is_in_exactly_one_shard_and_shares_are_even(count, names):
    ordered = shards.order([(pathlib.Path(f"/nowhere/{name}.png"), name) for name in names])
    again = shards.order(reversed(ordered))
    parts = [shards.parse(f"{index}/{count}").of(again) for index in range(count)]
    assert sorted(name for part in parts for _, name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4/4", "--shard=4/4 does not exist; 4 shards have the numbers 0 to 3"),
        ("0/0", "--shard=0/0 means no shards"),
        ("1", "must be I/N"),
        ("x/4", "must be I/N"),
        ("-1/4", "must be I/N"),
        ("1.0/4", "must be I/N"),
        ("1/2/4", "must be I/N"),
        ("/4", "must be I/N"),
        ("1/100001", "--shard=1/100001 means too many shards; N must be at most 100,000"),
        ("²/4", "must be I/N"),
        (f"{'9' * 5000}/1", "must be I/N"),
    ],
)
def test_shards_that_cannot_be(inputs, capsys, text, words):
    assert run(*inputs, f"--shard={text}") == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not os.path.exists("out")


def test_shards_together_do_what_one_run_does(inputs, capsys):
    """In any order, with more shards than videos, and each input once."""
    assert run(*inputs, "--output=one") == 1
    capsys.readouterr()
    order = list(range(4))
    random.Random(0).shuffle(order)
    statuses = [run(*inputs, "--output=many", f"--shard={shard}/4") for shard in order]
    assert sorted(statuses) == [0, 0, 0, 1] and results("many") == results("one")
    printed = capsys.readouterr()
    told = collections.Counter(
        line.split(": ")[0] for line in printed.out.splitlines() if "person" in line or "people" in line
    )
    assert set(told.values()) == {1} and len(told) == COUNT - 1 and printed.err.count("bad.png") == 1
    assert all(f"Shard {shard}/4: {size} of 10 inputs" in printed.out for shard, size in enumerate((3, 3, 2, 2)))
    videos = [row["shard"] for row in table_of("many").values() if row["tracks"]]
    assert len(videos) == 3 == len(set(videos))


def table_of(folder: str) -> dict[str, dict[str, str]]:
    run_merge(folder)
    return table(f"{folder}/shards.csv")


def test_the_table_has_what_was_found(inputs, capsys):
    for shard in range(3):
        run(*inputs, "--output=many", f"--shard={shard}/3")
    capsys.readouterr()
    assert run_merge("many") == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "10 inputs in 3 shards: 9 done, 1 failed",
        next(line for line in said.out.splitlines() if line.startswith("shard ")),
        "failed: bad.png: is not a picture of a known kind; convert it to JPEG or PNG",
        "  many/shards.csv",
    ]
    assert "1 failed" in said.out.splitlines()[1] and said.err == ""
    rows = table()
    assert len(rows) == COUNT and list(next(iter(rows.values()))) == [
        *("input", "name", "shard", "state", "frames", "people", "tracks", "seconds", "failure")
    ]
    bad = rows.pop("bad.png")
    assert (bad["state"], bad["frames"], bad["people"]) == ("failed", "", "") and float(bad["seconds"]) >= 0
    assert {row["name"] + ".json" for row in rows.values()} == {p.name for p in pathlib.Path("many").glob("*.json")}
    for path, row in rows.items():
        found = read(f"many/{row['name']}.json")
        assert found["file"] == os.path.basename(path) and row["state"] == "done" and row["failure"] == ""
        frames = found.get("frames", [found])
        assert int(row["frames"]) == len(frames) and 0 <= float(row["seconds"]) < 600
        assert int(row["people"]) == sum(len(frame["people"]) for frame in frames) > 0
        ids = {person["id"] for frame in frames for person in frame["people"]}
        assert row["tracks"] == (str(len(ids)) if "frames" in found else "")


def test_merging_while_shards_are_at_work(inputs, capsys, monkeypatch):
    """One has ended, one was interrupted at its second input, one has not started."""
    assert run(*inputs, "--output=many", "--shard=0/3") in (0, 1)
    calls = []

    def stops(self, images, cameras, find=Discs.find):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return find(self, images, cameras)

    with monkeypatch.context() as patch:
        patch.setattr(Discs, "find", stops)
        assert run(*inputs, "--output=many", "--shard=1/3") == 130
    capsys.readouterr()
    assert run_merge("many", "--output=table.csv") == 1
    said = capsys.readouterr().out
    states = collections.Counter((row["shard"], row["state"]) for row in table("table.csv").values())
    assert states["0", "missing"] == 0 and states["1", "missing"] >= 2 and sum(states.values()) == 7
    assert "missing; it is at work, or was stopped" in said and "shard 2/3: 3 missing; it has not started" in said
    assert said.count("\nmissing: ") == states["1", "missing"]


KILLED = """
import os, signal, sys
from loco_jax import cli
from loco_jax.predict import __main__ as predict, people
from tests.support.discs import Discs

class Killed(Discs):
    calls = 0
    def find(self, images, cameras):
        Killed.calls += 1
        if Killed.calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().find(images, cameras)

people.load_predictor = lambda source, min_score: Killed()
cli.run(predict.main, ["predict", *sys.argv[1:], "--quiet"], predict.FLAGS)
"""


def test_a_shard_that_was_killed_and_repeated_gives_the_same(inputs, capsys):
    run(*inputs, "--output=one")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOCO_JAX_UNCHECKED": "1"}
    command = [sys.executable, "-c", KILLED, *inputs, "--output=many", "--shard=1/2"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -9
    there = {row["name"] for row in table_of("many").values() if row["state"] == "done"}
    assert 1 <= len(there) < 5
    times = {name: os.stat(f"many/{name}.json").st_mtime_ns for name in there}
    # As if it was killed while it wrote a line.
    path = pathlib.Path("many/shard_1_of_2.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    before = json.loads(lines[1])
    path.write_text("".join(lines) + '{"name": "y", "fra')
    assert table_of("many")
    for shard in (1, 0, 1):
        run(*inputs, "--output=many", f"--shard={shard}/2", "--resume")
    assert results("many") == results("one")
    assert times == {name: os.stat(f"many/{name}.json").st_mtime_ns for name in there}
    rows = table_of("many")
    assert [row["state"] for row in rows.values()].count("done") == COUNT - 1
    (row,) = [row for row in rows.values() if row["name"] == before["name"]]
    assert float(row["seconds"]) == before["seconds"]


def test_results_of_a_run_without_shards_are_counted_too(inputs):
    run(*inputs, "--output=one")
    for shard in range(2):
        run(*inputs, "--output=many", f"--shard={shard}/2")
        run(*inputs, "--output=one", f"--shard={shard}/2", "--resume")
    mine, other = table_of("one"), table_of("many")
    for path, row in mine.items():
        assert path == "bad.png" or row.pop("seconds") == ""
        assert row.items() <= other[path].items() or path == "bad.png"


def test_an_input_that_is_refused_has_failed(inputs):
    """The results of exporting would replace a file of somebody else's."""
    os.mkdir("many")
    pathlib.Path("many/v.csv").write_text("mine")
    statuses = [run(*inputs, "--output=many", f"--shard={shard}/3", "--export=csv") for shard in range(3)]
    row = table_of("many")["v.mp4"]
    assert statuses == [1, 0, 0] and row["state"] == "failed"
    assert row["failure"].startswith("many/v.csv: is not a file that predict or convert wrote")
    assert pathlib.Path("many/v.csv").read_text() == "mine" and os.path.exists("many/y.csv")


def test_results_that_are_gone_are_missing(inputs):
    run(*inputs, "--output=many", "--shard=0/1")
    os.unlink("many/v.json")
    assert table_of("many")["v.mp4"]["state"] == "missing"


def test_shards_with_other_inputs_or_of_another_number_are_refused(inputs, capsys):
    assert run(*inputs, "--output=many", "--shard=0/2") in (0, 1)
    capsys.readouterr()
    save(pathlib.Path("a/new.png"))
    written = results("many")
    assert run(*inputs, "--output=many", "--shard=1/2") == 1
    said = capsys.readouterr().err
    assert (
        "many/shard_0_of_2.jsonl: was made from other inputs (a/x.jpg there, a/new.png here)" in said
        and said.count("\n") == 1
    )
    assert run(*inputs, "--output=many", "--shard=1/3") == 1
    said = capsys.readouterr().err
    assert "many/shard_0_of_2.jsonl: belongs to a set of 2 shards, not 3" in said and said.count("\n") == 1
    assert results("many") == written and len(shards.find("many")) == 1
    assert run(*inputs, "--output=many", "--shard=0/2") in (0, 1)  # alone, it begins anew
    assert run(*inputs, "--output=many", "--shard=1/2") in (0, 1)


def test_a_shard_is_not_processed_twice_at_a_time(inputs, capsys):
    run(*inputs, "--output=many", "--shard=0/2")
    capsys.readouterr()
    with open("many/shard_0_of_2.jsonl") as file:
        content = file.read()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(*inputs, "--output=many", "--shard=0/2") == 1
    said = capsys.readouterr().err
    assert "another process works on --shard=0/2" in said and said.count("\n") == 1
    assert pathlib.Path("many/shard_0_of_2.jsonl").read_text() == content


def test_more_shards_than_inputs(tmp_path, monkeypatch, inputs):
    for shard in range(3):
        assert run("v.mp4", "--output=many", f"--shard={shard}/3") == 0
    assert run_merge("many") == 0 and [row["state"] for row in table().values()] == ["done"]


def test_folders_that_cannot_be_merged(inputs, capsys):
    def refused(*arguments):
        assert run_merge(*arguments) == 1
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and said.out == ""
        return said.err

    assert "nowhere: has no shard_I_of_N.jsonl; predict --shard=I/N --output=nowhere writes them" in refused("nowhere")
    run("v.mp4", "--output=many", "--shard=0/2")
    capsys.readouterr()
    pathlib.Path("many/shard_0_of_3.jsonl").write_text(pathlib.Path("many/shard_0_of_2.jsonl").read_text())
    assert run_merge("many") == 0  # what counts is what the records say
    capsys.readouterr()
    assert "no/table.csv: cannot be written (No such file or directory)" in refused("many", "--output=no/table.csv")
    lines = [json.loads(line) for line in pathlib.Path("many/shard_0_of_2.jsonl").read_text().splitlines()]
    pathlib.Path("many/shard_0_of_3.jsonl").write_text(json.dumps(lines[0] | {"shard": [0, 3]}) + "\n")
    assert "many/shard_0_of_3.jsonl: belongs to a set of 3 shards, not 2" in refused("many")
    changes: list[dict] = [
        {"shard": [3, 3]},
        {"shard": [-1, 3]},
        {"shard": [0, 10**9]},
        {"shard": 3},
        {"shard": [0, 1.0]},
    ]
    changes += [{"inputs": [["v.mp4"]]}, {"inputs": [[1, "v"]]}, {"inputs": 5}, {"arguments": [5]}, {"other": 1}]
    firsts = [json.dumps(lines[0] | change) for change in changes]
    later = ["5", '{"frames": 1}', '{"name": "v", "frames": "x"}', '{"name": "v", "shard": 1}', '{"name": []}']
    for text in (
        "nonsense",
        "[1]",
        '{"shard": 3}',
        "[" * 10**5,
        *firsts,
        *(f"{json.dumps(lines[0])}\n{x}" for x in later),
    ):
        pathlib.Path("many/shard_0_of_3.jsonl").write_text(text + "\n")
        assert "many/shard_0_of_3.jsonl: is damaged, or not a shard's record" in refused("many")
    pathlib.Path("many/shard_0_of_3.jsonl").write_text("")  # one that is just beginning
    assert run_merge("many") == 0


def test_shards_that_begin_together_with_other_inputs_see_each_other(inputs):
    """Each has written its first line when it looks for others, and has taken that back after it refuses to work."""
    ordered = [(pathlib.Path(name), name) for name in "abc"]
    os.mkdir("many")
    seen = []

    def looks(folder, find=shards.find):
        seen.append([path.name for path in find(folder) if shards.read(path)])
        return find(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "find", looks)
        with shards.Record(shards.Shard(0, 2), ordered, "many"):
            with pytest.raises(ValueError, match="shard_0_of_2.jsonl: was made from other inputs"):
                shards.Record(shards.Shard(1, 2), ordered[:2], "many")
    assert seen == [["shard_0_of_2.jsonl"], ["shard_0_of_2.jsonl", "shard_1_of_2.jsonl"]]
    assert os.listdir("many") == ["shard_0_of_2.jsonl"]


def test_a_record_stays_until_the_results_are_looked_at(inputs):
    run(*inputs, "--output=many", "--shard=0/1")
    before = table_of("many")
    ordered = shards.order((pathlib.Path(row["input"]), row["name"]) for row in before.values())
    with shards.Record(shards.Shard(0, 1), ordered, "many"):
        pass  # as if it was killed
    assert table_of("many") == before
    pathlib.Path("many/y.json").write_text(
        pathlib.Path("many/y.json").read_text().replace('"people": [', '"people": [], "x": [')
    )
    done = [each for each in ordered if each[0].name != "bad.png"]
    with shards.Record(shards.Shard(0, 1), ordered, "many") as mine:
        for _ in range(2):  # the records that replace the old one are locked, too
            with pytest.raises(ValueError, match="another process works on --shard=0/1"):
                shards.Record(shards.Shard(0, 1), ordered, "many")
            mine.begin(done)
    after = table_of("many")
    (changed,) = [path for path, row in before.items() if row["name"] == "y"]
    assert after.pop("bad.png")["state"] == "missing" and before.pop("bad.png")["state"] == "failed"
    assert after == before | {changed: before[changed] | {"people": "0"}}


def test_failed_exports_are_in_the_table(inputs, monkeypatch):
    """Of inputs that are done now, and of those that were done before."""

    def full(*_):
        raise OSError("No space left")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "export", full)
        assert run("v.mp4", "--output=many", "--shard=0/1", "--export=csv") == 1
        first = table_of("many")["v.mp4"]
        assert run("v.mp4", "--output=many", "--shard=0/1", "--export=csv", "--resume") == 1
        assert table_of("many")["v.mp4"] == first
    assert (first["state"], first["failure"], first["frames"]) == ("failed", "No space left", "2") and first["seconds"]
    assert run("v.mp4", "--output=many", "--shard=0/1", "--export=csv", "--resume") == 0
    assert table_of("many")["v.mp4"] == first | {"state": "done", "failure": ""}


def test_arguments_without_inputs_have_failed(inputs, capsys):
    os.mkdir("empty")
    statuses = [run("v.mp4", "empty", "--output=many", f"--shard={shard}/2") for shard in range(2)]
    (said,) = {line for line in capsys.readouterr().err.splitlines() if "empty" in line}
    assert statuses == [1, 1] and run_merge("many") == 1
    assert f"failed: {said.removeprefix('loco_jax: ')}\n" in capsys.readouterr().out


def test_a_file_that_changes_the_names_of_results_is_named(inputs, capsys):
    os.mkdir("many")
    assert run("v.mp4", "b", "--output=many", "--shard=1/2") == 0
    for path in [*pathlib.Path("many").glob("[xyv]*")]:
        path.unlink()
    for name in ("x", "x_2", "x_3", "y"):
        pathlib.Path(f"many/{name}_3d.html").write_text("mine")
    capsys.readouterr()
    assert run("v.mp4", "b", "--output=many", "--shard=0/2") == 1
    said = capsys.readouterr().err
    assert "was made with other names of results (those of b/" in said and "because of many/" in said
    assert said.count("\n") == 1


def test_a_shard_that_is_refused_loads_no_weights(inputs, capsys, monkeypatch):
    run("v.mp4", "--output=many", "--shard=0/2")
    monkeypatch.setattr(people, "load_predictor", lambda *_: pytest.fail("weights are loaded"))
    assert run("v.mp4", "--output=many", "--shard=0/3") == 1


def test_the_table_replaces_no_other_file(inputs, capsys):
    os.mkdir("many")
    pathlib.Path("many/shards.csv").write_text("mine\n")
    save(pathlib.Path("shards.png"))
    assert run("shards.png", "--output=many", "--shard=0/1", "--export=csv") == 0
    exported = pathlib.Path("many/shards_2.csv").read_bytes()
    capsys.readouterr()
    for arguments in (["many"], ["many", "--output=many/shards_2.csv"]):
        assert run_merge(*arguments) == 1
        said = capsys.readouterr().err
        assert "is not a table of this command; move it, or name another --output" in said and said.count("\n") == 1
    assert pathlib.Path("many/shards.csv").read_text() == "mine\n"
    assert pathlib.Path("many/shards_2.csv").read_bytes() == exported
    os.unlink("many/shards.csv")
    assert run_merge("many") == 0 == run_merge("many")


def test_merging_wants_one_folder(capsys):
    assert run_merge() == 2 == run_merge("a", "b")
    assert "name the one folder" in capsys.readouterr().err
