"""The predict command, with a predictor that is exact: it measures discs."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import unittest.mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loco_jax import cli
from loco_jax.media import videos
from loco_jax.predict import __main__ as predict
from loco_jax.predict import film, page, people
from tests.support.discs import (
    Discs,
    Nobody,
    head,
    read,
    record,
    save,
)
from tests.support.strangers import (
    damaged,
    damages,
    fuzz,
    pictures_of_all_kinds,
    read_or_refused,
    videos_of_all_kinds,
)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command with the finder of discs, in an empty folder."""
    sources = []
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: sources.append(source) or Discs())
    monkeypatch.chdir(tmp_path)
    return run, sources


def run(*arguments) -> int:
    return cli.run(predict.main, ["predict", *map(str, arguments)], predict.FLAGS)


def test_the_least_score_goes_to_the_predictor_if_it_can_be_one(command, tmp_path, capsys, monkeypatch):
    main, _ = command
    save(tmp_path / "p.png")
    given = []
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: given.append(min_score) or Discs())
    assert main("p.png", "--min_score=0.25", "--quiet") == 0 and given == [0.25]
    capsys.readouterr()
    for value in ("1.5", "-0.1", "nan"):
        assert main("p.png", f"--min_score={value}", "--quiet") == 1
        assert capsys.readouterr().err == f"loco_jax: --min_score={value} must be from 0 to 1\n"
    assert given == [0.25]


def test_files_and_folders_and_what_is_wrong_with_some(command, tmp_path, capsys):
    main, sources = command
    (tmp_path / "folder").mkdir()
    (tmp_path / "nothing").mkdir()
    for name in ("folder/b.png", "folder/a.png", "p.png"):
        save(tmp_path / name)
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    (tmp_path / "bad.png").write_text("no picture")
    record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 3)
    status = main(
        "p.png", "bad.png", "folder", "folder/a.png", "missing.jpg", "nothing", "v.mp4", "--output=out", "--quiet"
    )
    printed = capsys.readouterr()
    assert status == 1 and sources == ["released"]
    for name in ("bad.png", "missing.jpg", "nothing"):
        assert printed.err.count(name) == 1
    assert printed.err.count("loco_jax: ") == 3
    written = sorted(p.name for p in (tmp_path / "out").glob("*.json"))
    assert written == ["a.json", "b.json", "p.json", "v.json"]
    assert "Using a finder of discs" in printed.out and "v.mp4: 3 frames" in printed.out
    assert "camera assumed" in printed.out


def test_what_is_left_out_of_folders_is_told(command, tmp_path, capsys):
    main, _ = command
    for name in ("p.png", "q.png"):
        save(tmp_path / name)
    for name in ("a.CR3", "b.nef", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    stereo = [Image.new("RGB", (320, 240), colour) for colour in ("red", "green")]
    stereo[0].save(tmp_path / "r.mpo", save_all=True, append_images=stereo[1:])
    record(tmp_path / "v.mp4", [[]])
    assert main("v.mp4", "--output=.", "--quiet") == 0  # its overlay is no input
    capsys.readouterr()
    assert main(".", "--output=out", "--quiet") == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "left out a.CR3, b.nef: " in told[0]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == ["p.json", "q.json", "r.json", "v.json"]


def test_videos_by_other_names_are_videos(command, tmp_path, capsys):
    main, _ = command
    for name in ("film.ogv", "film"):
        record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 3).rename(tmp_path / name)
    save(tmp_path / "p.png").rename(tmp_path / "picture")
    (tmp_path / "notes.txt").write_text("no video\n" * 100)
    (tmp_path / "a.heic").write_bytes(b"")
    assert main("film.ogv", "film", "picture", "notes.txt", "a.heic", "--quiet") == 1
    printed = capsys.readouterr()
    assert printed.out.count("3 frames, 1.0 people in each") == 2 and printed.out.count("_overlay.mp4") == 2
    assert "picture: 1 person" in printed.out and "picture_overlay.jpg" in printed.out
    assert "notes.txt: is not a picture" in printed.err and "a.heic: is empty" in printed.err


def test_names_that_the_terminal_cannot_show(command, monkeypatch, tmp_path):
    main, _ = command
    paths = [save(tmp_path / "é\udcff.png", format="PNG"), tmp_path / "ü\udcff.png"]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(*paths, "--quiet") == 1
    out.flush(), err.flush()
    assert b"1 person" in out.buffer.getvalue() and b"no such file" in err.buffer.getvalue()


def test_success(command, tmp_path, capsys):
    main, sources = command
    save(tmp_path / "p.png")
    assert main("p.png", "--weights=runs/mine", "--fov=77.3196") == 0
    assert sources == ["runs/mine"] and capsys.readouterr().err == ""
    result = read(tmp_path / "out" / "p.json")
    assert result["camera"]["from"] == "--fov=77.3196"
    assert head(result["people"][0])["xyz"] == pytest.approx([0.2, -0.1, 3], rel=0.02, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["p.png", "--fov=500"], "--fov=500"),
        (["p.png", "--fov=60", "--fy=200"], "--fov says the same"),
        (["p.png", "--output=p.png"], "--output=p.png: cannot be written to"),
        (["p.png", "--output=p.png/out"], "--output=p.png/out: cannot be written to"),
        (["p.png", "--cx=-10000"], "p.png: --cx=-10000 is far outside"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (["p.png", "--fps=inf"], "--fps=inf must be a number"),
    ],
)
def test_clear_errors(command, tmp_path, capsys, arguments, words):
    main, sources = command
    save(tmp_path / "p.png")
    assert main(*arguments) == 1
    assert sources == [] or not any("--output" in argument for argument in arguments)  # known before the work
    error = capsys.readouterr().err
    assert words in error and error.startswith("loco_jax: ") and error.count("\n") == 1


def test_weights_that_cannot_be(command, monkeypatch, tmp_path, capsys):
    main, _ = command
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "p.png")
    assert main("p.png", "--weights=nowhere.safetensors") == 1
    assert "nowhere.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 9])
@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt(), RuntimeError("RESOURCE_EXHAUSTED\nand more"), signal.SIGTERM], ids=repr
)
def test_what_was_done_of_a_video_is_kept_whatever_stops_it(
    command, monkeypatch, tmp_path, capsys, own_sigterm, after, raised
):
    main, _ = command
    calls = []

    def stops(self, image, camera):
        calls.append(1)
        if len(calls) > after and raised == signal.SIGTERM:
            os.kill(os.getpid(), raised)
        elif len(calls) > after:
            raise raised
        return np.zeros((0, 14, 3)), np.zeros((0, 14))

    monkeypatch.setattr(Discs, "measure", stops)
    record(tmp_path / "v.mp4", [[]] * 12)
    failed = isinstance(raised, RuntimeError)
    assert main("v.mp4", "--output=out", "--quiet") == (1 if failed else 130)
    error = capsys.readouterr().err
    assert ("RESOURCE_EXHAUSTED" if failed else "stopped") in error
    assert error.count("\n") == (1 if failed or not after else 2)
    if not after:
        assert os.listdir(tmp_path / "out") == []
        return
    assert sorted(os.listdir(tmp_path / "out")) == ["v.json", "v_3d.html", "v_overlay.mp4"]
    result = read(tmp_path / "out" / "v.json")
    done = len(result["frames"])
    # Ctrl-C comes to the main thread, while others work on the next frames.
    assert done == 9 if failed else 5 <= done <= 9
    assert not result["complete"] and f"{done} frames before that were done" in error and result["fps"] == 10
    assert len(list(videos.read(tmp_path / "out" / "v_overlay.mp4"))) == done


@pytest.mark.parametrize("where", ["smoothing.smooth", "overlays.draw"])
def test_ctrl_c_after_the_search_leaves_what_there_is(command, monkeypatch, tmp_path, capsys, where):
    """While tracks are smoothed, they stay as they are; while the overlay is drawn, the rest is already there."""
    main, _ = command

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    module, name = where.split(".")
    monkeypatch.setattr(getattr(film, module), name, interrupted)
    record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 4)
    assert main("v.mp4", "--output=out", "--quiet") == 130
    error, result = capsys.readouterr().err, read(tmp_path / "out" / "v.json")
    assert [len(frame["people"]) for frame in result["frames"]] == [1] * 4
    smoothing = module == "smoothing"
    assert ("the 4 frames before that were done, but not smoothed" if smoothing else "the overlay is not") in error
    assert result["complete"] != smoothing
    assert sorted(os.listdir(tmp_path / "out")) == ["v.json", "v_3d.html"] + ["v_overlay.mp4"] * smoothing


def test_an_overlay_that_cannot_be_written(command, monkeypatch, tmp_path, capsys):
    main, _ = command

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(videos.Writer, "write", full)
    record(tmp_path / "v.mp4", [[]] * 4)
    assert main("v.mp4", "--output=out", "--quiet") == 1
    error = capsys.readouterr().err
    assert "v.mp4: No space left on device (JSON and page are written, the overlay is not)" in error
    assert error.count("\n") == 1 and sorted(os.listdir(tmp_path / "out")) == ["v.json", "v_3d.html"]


def test_ctrl_c_leaves_no_half_files(command, monkeypatch, tmp_path, capsys):
    main, _ = command

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "to_html", interrupted)
    assert main(save(tmp_path / "p.png"), "--output=out") == 130
    assert sorted(os.listdir(tmp_path / "out")) == ["p.json", "p_overlay.jpg"] and "stopped" in capsys.readouterr().err


def test_a_failing_device_is_told_for_its_file(command, monkeypatch, tmp_path, capsys):
    main, _ = command

    def fails(self, image, camera):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand much more")

    monkeypatch.setattr(Discs, "measure", fails)
    assert main(save(tmp_path / "p.png")) == 1
    assert capsys.readouterr().err == f"loco_jax: {tmp_path / 'p.png'}: RESOURCE_EXHAUSTED: out of memory\n"


def test_without_arguments_it_says_how():
    ran = subprocess.run([sys.executable, "-m", "loco_jax.predict"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == ""
    for word in ("usage:", "--weights", "--output", "--fov", "--fx", "EXIF"):
        assert word in ran.stderr


# ---- Files of strangers


@pytest.fixture(scope="module")
def some_files(folder):
    return pictures_of_all_kinds(folder)[:4] + videos_of_all_kinds(folder)[:6]


@fuzz(80)
@given(st.integers(0, 9), damages)
def test_any_file_of_strangers_is_taken_and_results_are_written_only_into_the_folder(folder, some_files, which, damage):
    """See support/strangers.py."""
    name, content = some_files[which]
    place = folder / "command"
    place.mkdir(exist_ok=True)
    path, out = place / f"x{name}", place / "out"
    path.write_bytes(damaged(content, damage))
    errors = unittest.mock.patch("sys.stderr", open(place / "errors", "w", encoding="utf-8"))
    with (
        unittest.mock.patch("loco_jax.predict.people.load_predictor", lambda source, min_score: Nobody()),
        errors as stderr,
    ):
        with contextlib.closing(stderr):
            status = read_or_refused(lambda path: run(path, f"--output={out}", "--quiet"), path, ZeroDivisionError)
    told = (place / "errors").read_text(encoding="utf-8")
    assert status == 0 or (status == 1 and str(path) in told and "Traceback" not in told)
    assert {p.name for p in place.iterdir()} <= {path.name, "out", "errors"}
    for result in out.iterdir():
        assert result.name.startswith("x") and not result.name.startswith(".")
        if result.suffix == ".json":
            json.loads(result.read_text(), parse_constant=pytest.fail)
        result.unlink()
    path.unlink()
