"""The builder as a Beam pipeline, beside the builder that works in this process."""

import contextlib
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install 'apache-beam>=2.72,<3'")

from loco_jax.data import jta
from loco_jax.data.jta import beam, builder, sequences
from loco_jax.data.jta.prepared import Prepared
from loco_jax.geometry.camera import Camera
from tests.support.annotations import GOOD_ROW, random_rows, write_jta

ROOT = pathlib.Path(__file__).parents[2]
DIRECT = "runner=DirectRunner"
HERE = "runner=FnApiRunner"  # the part of DirectRunner that runs in this process
CAMERA = {"fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0}


def assert_same(mine: pathlib.Path, other: pathlib.Path, pictures: bool = False) -> None:
    """All examples are the same, in the same order."""
    for split in jta.SPLITS:
        examples = zip(jta.load(mine, split, pictures), jta.load(other, split, pictures), strict=True)
        for ours, theirs in examples:
            np.testing.assert_equal(ours, theirs)


def metadata(prepared: Prepared) -> dict:
    return json.loads((prepared.folder / "metadata.json").read_text())


def test_beam_gives_the_same_records_and_leaves_out_the_same(tmp_path):
    bad = {4: [[*GOOD_ROW[:-1], 2]], 7: "no JSON"}
    train = {0: random_rows(0, range(1, 41)), 2: random_rows(1, range(861, 901)), 10: [], **bad}
    write_jta(tmp_path / "jta", train, test={256: random_rows(3, range(1, 31)), 258: random_rows(4, range(1, 31))})
    here = jta.prepare(tmp_path / "jta", tmp_path / "here", skip_bad=True)
    by_beam = jta.prepare(tmp_path / "jta", tmp_path / "beam", skip_bad=True, beam_options=DIRECT)
    assert by_beam._replace(folder=here.folder) == here and metadata(by_beam) == metadata(here)
    assert len(here.left_out) == 2 and sum(count["people"] for count in here.splits.values()) > 30
    assert by_beam.folder == tmp_path / "beam/jta/poses/1.0.0" and os.listdir(tmp_path / "beam") == ["jta"]
    assert_same(tmp_path / "beam", tmp_path / "here")
    assert jta.prepare(tmp_path / "jta", tmp_path / "beam").reused


@pytest.fixture
def pictured(tmp_path):
    """A JTA of ten frames a sequence, with pictures; those of one sequence are PNGs."""
    rows = [[10, 7, 3, 50.0, 20.0, 1.5, -0.5, 3.0, 0, 1], [6, 7, 4, 30.5, 10.25, 1.0, -0.5, 3.0, 0, 0]]
    folder = write_jta(tmp_path / "jta", {0: rows, 3: rows[:1]}, {257: rows}, {256: rows})
    (folder / "camera.json").write_text(json.dumps({**CAMERA, "num_frames": 10}))
    rng = np.random.default_rng(0)
    for path in (folder / "annotations").glob("*/*.json"):
        frames = folder / "frames" / path.parent.name / path.stem
        frames.mkdir(parents=True)
        for frame in range(1, 11):
            ending = ".png" if path.stem == "seq_3" else ".jpg"
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(frames / f"{frame}{ending}")
    return folder


def test_beam_gives_the_same_pictures_made_smaller(pictured, tmp_path):
    options = {"pictures": True, "picture_height": 24}
    here = jta.prepare(pictured, tmp_path / "here", **options)
    by_beam = jta.prepare(pictured, tmp_path / "beam", beam_options=HERE, **options)
    assert by_beam._replace(folder=here.folder) == here and here.picture_size == (24, 32)
    assert by_beam.camera == Camera(**{name: value / 2 for name, value in CAMERA.items()})
    assert_same(tmp_path / "beam", tmp_path / "here", pictures=True)
    example = jta.load(tmp_path / "beam", "test", pictures=True)[0]
    assert example["frame"] == 10 and example["people"]["pixels"][0, 3].tolist() == [25, 10]


def test_bad_sequences_are_all_named(tmp_path):
    write_jta(tmp_path / "jta", {0: [GOOD_ROW], 4: [[*GOOD_ROW[:-1], 2]], 7: "no JSON"})
    with pytest.raises(jta.AnnotationError, match="2 of 5 sequences are bad, and nothing was prepared") as told:
        jta.prepare(tmp_path / "jta", tmp_path / "beam", beam_options=HERE)
    assert "seq_4.json" in str(told.value) and "seq_7.json" in str(told.value)
    assert not os.listdir(tmp_path / "beam")


def test_a_pipeline_that_fails_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "examples", lambda *_: [1 / 0])
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    with pytest.raises(OSError, match="^Beam's pipeline failed: .*division by zero") as told:
        jta.prepare(tmp_path / "jta", tmp_path / "beam", beam_options=HERE)
    assert "\n" not in str(told.value) and not os.listdir(tmp_path / "beam")


def test_errors_of_workers_are_a_line_and_nothing_is_logged(tmp_path, monkeypatch, capfd, caplog):
    def fails(*_, **__):
        raise OSError("this is\n  bad")

    monkeypatch.setattr(sequences, "read_to_file", fails)
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    for options in (HERE, DIRECT):
        with pytest.raises(OSError, match="this is") as told:
            jta.prepare(tmp_path / "jta", tmp_path / "beam", beam_options=options)
        assert "\n" not in str(told.value) and "while running" not in str(told.value)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_the_level_of_logging_stays():
    logging.disable(logging.ERROR)
    try:
        beam.parse(DIRECT)
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)
    beam.parse(DIRECT)
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="finds workers on Linux")
def test_a_signal_ends_workers_in_processes(tmp_path):
    write_jta(tmp_path / "jta", {number: random_rows(number, range(1, 400)) for number in range(0, 40, 2)})
    options = f"{DIRECT},direct_running_mode=multi_processing,direct_num_workers=2"
    command = [sys.executable, "-m", "loco_jax.data.jta", f"--jta_dir={tmp_path}/jta", f"--data_dir={tmp_path}/data"]
    environment = {**os.environ, "LOCO_JAX_MARK": str(tmp_path)}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([*command, f"--beam_options={options}"], env=environment, stderr=said, cwd=ROOT)

    def workers() -> list[int]:
        """Processes that have this test's mark in their environment."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"LOCO_JAX_MARK={tmp_path}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return [number for number in found if number != process.pid]

    try:
        until = time.monotonic() + 60
        while len(workers()) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert len(workers()) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130, (tmp_path / "said").read_text()
        assert not workers() and not os.listdir(tmp_path / "data")
    finally:
        process.kill()
        process.wait()
        for number in workers():
            os.kill(number, signal.SIGKILL)


def test_a_signal_stops_a_pipeline_in_this_process(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sequences, "read_to_file", interrupted)
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    with pytest.raises(KeyboardInterrupt):
        jta.prepare(tmp_path / "jta", tmp_path / "beam", beam_options=HERE)
    assert not os.listdir(tmp_path / "beam")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("runner=NoSuchRunner", "Unexpected pipeline runner: NoSuchRunner"),
        ("runner=no.such.Runner", "No module named 'no'"),
        ("runner=DirectRunner,direct_num_workers=x", "--direct_num_workers: invalid int value: 'x'"),
        ("runner=DirectRunner,direct_number=2", "Beam has no option direct_number"),
        ("--runner=DirectRunner", "'--runner=DirectRunner' is not NAME=VALUE"),
        ("=DirectRunner", "'=DirectRunner' is not NAME=VALUE"),
        ("runner=DataflowRunner", "Missing required option: project"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, words):
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    with pytest.raises(ValueError, match=f"^--beam_options={options}: ") as told:
        jta.prepare(tmp_path / "jta", tmp_path / "beam", beam_options=options)
    assert words in str(told.value) and "\n" not in str(told.value) and not (tmp_path / "beam").exists()


def test_engines_get_their_own_options():
    """Those of the servers of Flink and Spark are not known here."""
    options = beam.parse("runner=FlinkRunner, flink_master=host:8081,parallelism=8,object_reuse,").get_all_options(
        drop_default=True, retain_unknown_options=True
    )
    assert options["runner"] == "FlinkRunner" and options["flink_master"] == "host:8081"
    assert str(options["parallelism"]) == "8" and options["object_reuse"] is True
    assert beam.parse("").get_all_options()["runner"] in (None, "DirectRunner")
