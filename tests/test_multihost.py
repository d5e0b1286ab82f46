"""Several processes as one: the same losses, checkpoints and scores on any layout, and ends in good order.

Processes are real, machines are not: all run here, on CPU devices that XLA simulates.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import app
from matplotlib.figure import Figure

from loco_jax import cli, evaluate, experiment, train
from loco_jax import main as command
from loco_jax import step as training
from loco_jax.data import sources, streams
from loco_jax.ops import distributed
from loco_jax.runs import checkpoints, lock
from loco_jax.runs.ending import Stopped
from loco_jax.tasks import vha as vha_tasks
from tests.support import (
    TIMINGS,
    Mean,
    blank,
    devices,
    logged,
    main,
    python,
    saved_steps,
    spawn,
    tiny,
    toy_frame,
)
from tests.support.annotations import prepare_small_jta
from tests.tasks import test_tracks

CREATE = experiment.create_task
FRAMES, TEST_FRAMES = 11, 7  # of evaluations: no number of devices divides them


# ---- Layouts


@dataclasses.dataclass(frozen=True)
class Small(vha_tasks.VhaTask):
    """A real loss of real volumes, and a toy's scores: peaks would take long to compile."""

    score, summary = Mean.score, Mean.summary

    def predict(self, params, frames, key, thorough):
        some = jax.tree.leaves(params)[0].ravel()[0]
        return {"joints": frames.joints, "w": jnp.broadcast_to(some, frames.present.shape[:1])}

    def headline(self, summary):
        return {}


@dataclasses.dataclass(frozen=True)
class Ranked(Mean):
    """The toy, its frames ranked by their marks; a picture is the title and the frame's mark."""

    ranked_by = "the mark"

    def rank(self, record):
        return record[0]

    def picture(self, predicted, frames, index, title):
        figure = Figure(figsize=(8, 1))
        figure.suptitle(f"{title} {predicted['joints'][index, 0, 0, 0]:.3f}")
        return figure


def config_of(rows: int = 1):
    config = tiny(steps=4, log_every=1, checkpoint_every=2, eval_frames=FRAMES, mesh={"rows": rows})
    config.update({"test_frames": TEST_FRAMES})
    config.update({"data": {"batch_size": 4}, "model": {"blocks": 1, "width": 8}})
    return config


def stub(kind: str, setattr=setattr):
    """Makes frames toys, and every config's task the toy "mean" or the "small" one."""

    def small(config):
        task = CREATE(config)
        return Small(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})

    setattr(streams, "crowd_frame", toy_frame)
    setattr(train, "_curves", blank)
    setattr(experiment, "create_task", {"mean": lambda config: Ranked(noise=1.0), "small": small}[kind])


def join(coordinator: str, processes: str, number: str, kind: str):
    """Becomes one of several processes."""
    if int(processes) > 1:
        assert distributed.initialize(coordinator, int(processes), int(number))
    stub(kind)


def seen(workdir: str) -> str:
    """The workdir; in all processes but the first a place that cannot be."""
    return workdir if distributed.is_first() else f"/proc/{pathlib.Path(workdir).name}"


def work(rows: str, *workdirs: str):
    """What a process does: trainings, one after the other, and the scores of the last."""
    assert distributed.make_mesh(4, int(rows)).size == jax.device_count()
    for workdir in workdirs:
        summary = train.train(config_of(int(rows)), seen(workdir), print)
        if distributed.is_first():
            (pathlib.Path(workdir) / "summary.json").write_text(json.dumps(summary))
    if rows == "1":
        evaluate.evaluate(config_of(), seen(workdir), lambda text: None)
        scores = score_tracks()
        if distributed.is_first():
            (pathlib.Path(workdir) / "tracks.json").write_text(json.dumps(scores))


def score_tracks() -> dict:
    """The scores of three sequences in which two people are found with errors that differ."""
    true = test_tracks.walkers()
    shifts = np.float32([0.1, 0.3, 0.7])[:, None, None, None, None] * np.float32([1, 0, 0])
    films = [test_tracks.film(true + shift) for shift in shifts]
    config = config_of().unlock()
    config.tracks = {"sequences": 3, "frames": test_tracks.LENGTH, "fps": 3.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources.CrowdData, "sequences", lambda *_: iter(films))
        params = test_tracks.found(true[:, :2])
        return evaluate._score_tracks(test_tracks.Told(), params, config, "test")


def refuse(workdir: str, data: str):
    """What a process does: training that one of two cannot begin, in some ways, and then can."""
    first = distributed.is_first()

    def attempt(what, config, folder=workdir):
        try:
            train.train(config, seen(folder), print)
        except Exception as error:
            told = f"{what} {jax.process_index()} {type(error).__name__}: {error}".replace("\n", " ")
        else:
            told = f"{what} {jax.process_index()} done"
        print(told, flush=True)

    config = config_of()
    attempt("begun", config)
    with lock.locked(workdir, print) if first else contextlib.nullcontext():
        attempt("locked", config)
    config.seed = 5
    attempt("other", config)
    attempt("flags", config_of() if first else config)
    config.seed = 0
    config.data.source, config.data.dir = "jta", data if first else "/proc/none"
    attempt("no data", config, f"{workdir}_3")
    attempt("no folder", config_of(), "/dev/null/run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "wait", lambda self: (_ for _ in ()).throw(OSError("no room")))
        attempt("not saved", config_of(), f"{workdir}_2")
    if first:  # and one that the first cannot read is nobody's
        (pathlib.Path(workdir) / "checkpoints" / "4" / "position" / "metadata").write_text("{}")
    attempt("damaged", config_of())
    attempt("again", config_of())


def start(processes: int, count: int, kind: str, *task: str, do: str = "work") -> list[subprocess.Popen]:
    command = f"import sys; from tests.test_multihost import *; join(*sys.argv[1:5]); {do}(*sys.argv[5:])"
    arguments = [f"127.0.0.1:{free_port()}", str(processes)]
    numbers = map(str, range(processes))
    return [python("-c", command, *arguments, number, kind, *task, **devices(count)) for number in numbers]


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def finish(processes: list[subprocess.Popen]) -> str:
    """What the first says when all end well."""
    return finish_all(processes)[0]


def finish_all(processes: list[subprocess.Popen]) -> list[str]:
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        raise AssertionError(f"hang: {[process.communicate()[0] for process in processes]}") from None
    assert not any(process.returncode for process in processes), said
    return said


def until_step_2(workdir: pathlib.Path, to: pathlib.Path) -> None:
    """A copy of a run as it was after step 2."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "checkpoints" / "4")


def test_the_same_answer_on_any_layout(tmp_path, monkeypatch):
    one, two, resumed = (str(tmp_path / name) for name in ("one", "two", "resumed"))
    finish(start(1, 4, "mean", "1", one))
    until_step_2(tmp_path / "one", tmp_path / "resumed")
    said = finish(start(2, 2, "mean", "1", two, resumed))
    assert said.count(f"{resumed}: going on from step 2") == 1
    # And what two processes began, a single device ends.
    until_step_2(tmp_path / "two", tmp_path / "alone")
    alone(tmp_path / "alone", "mean", monkeypatch)
    marks = json.loads((tmp_path / "one" / "summary.json").read_text())["marks"]
    assert len(set(marks)) == FRAMES
    for name in ("two", "resumed", "alone"):
        assert_same_logs(tmp_path / name, tmp_path / "one")
        if name != "alone":
            assert json.loads((tmp_path / name / "summary.json").read_text())["marks"] == marks
    # Scores of the test split, and pictures of the frames of any process.
    results = [json.loads((tmp_path / name / "eval" / "results.json").read_text()) for name in ("one", "resumed")]
    assert results[0]["step"] == 4 and len(set(results[0]["marks"])) == TEST_FRAMES
    for result in results[1:]:
        assert result["marks"] == results[0]["marks"] and result["w"] == pytest.approx(results[0]["w"], rel=1e-4)
    drawn = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "eval").glob("*.png")}
        for name in ("one", "resumed")
    ]
    assert len(set(drawn[0].values())) == 5 and drawn[1] == drawn[0]
    # Each process has scored its share of the sequences.
    scores = [json.loads((tmp_path / name / "tracks.json").read_text()) for name in ("one", "resumed")]
    assert scores[0] == scores[1] and scores[0]["sequences"] == 3
    told = scores[0]["systems"]["told"]
    assert told["true"] == 36 and told["error_cm"] == pytest.approx((10 + 30 + 70) / 3, abs=1e-3)


def test_rows_shared_by_two_processes(tmp_path, monkeypatch):
    alone(tmp_path / "alone", "small", monkeypatch)
    until_step_2(tmp_path / "alone", tmp_path / "to_rows")
    finish(start(2, 1, "small", "2", str(tmp_path / "rows"), str(tmp_path / "to_rows")))
    until_step_2(tmp_path / "rows", tmp_path / "from_rows")
    alone(tmp_path / "from_rows", "small", monkeypatch)
    for name in ("rows", "to_rows", "from_rows"):
        assert_same_logs(tmp_path / name, tmp_path / "alone")


def alone(workdir: pathlib.Path, kind: str, monkeypatch) -> None:
    """Trains here, on one device."""
    stub(kind, monkeypatch.setattr)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    train.train(config_of(), str(workdir), print)


def assert_same_logs(one: pathlib.Path, other: pathlib.Path) -> None:
    lines = logged(one)
    assert len({line["loss"] for line in lines if "loss" in line}) == 4
    for a, b in zip(lines, logged(other), strict=True):
        assert a.keys() == b.keys()
        for field in a.keys() - TIMINGS:
            assert a[field] == pytest.approx(b[field], rel=1e-4, abs=1e-5), field
    assert saved_steps(one) == [2, 4]


def test_what_one_process_cannot_begin_no_process_begins(tmp_path):
    run = str(tmp_path / "run")
    both = finish_all(start(2, 1, "mean", run, str(prepare_small_jta(tmp_path)), do="refuse"))
    wanted = {
        "locked": (0, "another run is in there"),
        "other": (0, "seed: 0 there, 5 now"),
        "no data": (1, "/proc/none"),
        "no folder": (0, "/dev/null/run: cannot be written to"),
        "not saved": (0, "no room"),
    }
    told = [dict(re.findall(rf"^([a-z ]+) {number} (.*)", said, re.M)) for number, said in enumerate(both)]
    differ = "ValueError: process 1 has another config:   seed: 0 in process 0, 5 in 1 Give all processes the same."
    assert [some.pop("flags") for some in told] == [differ] * 2
    for what, (whose, why) in wanted.items():
        errors = [some.pop(what) for some in told]
        assert all(why in error for error in errors), errors
        assert errors[1 - whose].startswith(f"OtherProcessError: process {whose} could not go on: "), errors
        assert not errors[whose].startswith("Other"), errors
    assert told == [dict.fromkeys(("begun", "damaged", "again"), "done")] * 2
    assert "Damaged, so it is left out; the one before is of step 2" in both[0]
    assert f"{run}: going on from step 2" in both[0] and f"{run}: going on from step 4" in both[0]
    assert [path.name for path in (tmp_path / "run" / "damaged").iterdir()] == ["4"]
    assert saved_steps(tmp_path / "run") == [2, 4]


def test_rows_that_no_device_could_have():
    with pytest.raises(ValueError, match="config.mesh.rows=7 cannot be shared"):
        distributed.make_mesh(4, 7)


# ---- Ends in good order

# Small, and of real frames: what the command itself does.
COMMAND = ["--config=configs/refiner.py:scale=demo", "--config.quiet=true", "--config.eval_every=0"]
COMMAND += ["--config.steps=1000000", "--config.log_every=1", "--config.checkpoint_every=1000000"]


def interrupt(workdir: str):
    """What a process does: its user presses Ctrl-C before the first step, in the second of two."""

    def leave(*arguments, **options):
        raise KeyboardInterrupt

    if not distributed.is_first():
        training.init_state = leave
    sys.argv = ["main", "--config=configs/vha1.py:variant=patch,scale=demo", f"--workdir={workdir}"]
    sys.argv += ["--config.data.batch_size=2"]
    distributed.initialize = lambda *arguments: True
    app.run(command.main, flags_parser=cli.parse)


def test_one_that_is_interrupted_ends_the_others(tmp_path):
    began = time.monotonic()
    processes = start(2, 1, "mean", str(tmp_path), do="interrupt")
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 130] and time.monotonic() - began < 60, said
    assert "Perhaps another process is lost" in said[0], said


def stop(*workdirs: str):
    """A process's runs: one as on CPUs, one as on GPUs.

    In the third step a signal comes: in the first run to all processes, in the second one to the last process alone.
    """
    compile_step, begun = training.compile_step, []

    def compile_signalled_step(*arguments):
        do_step, steps = compile_step(*arguments), iter(range(1, 100))

        def start(state, frames):
            if next(steps) == 3 and (len(begun) == 1 or not distributed.is_first()):
                os.kill(os.getpid(), signal.SIGTERM)
            return do_step(state, frames)

        return start

    training.compile_step = compile_signalled_step
    config = config_of()
    config.steps, config.checkpoint_every = 50, 50
    for workdir, backend in zip(workdirs, ("cpu", "gpu")):
        begun.append(workdir)
        jax.default_backend = lambda: backend  # noqa: B023
        try:
            train.train(config, seen(workdir), functools.partial(print, flush=True))
        except Stopped as stopped:
            print(stopped)


def test_a_signal_ends_all_after_the_step_under_way_on_cpus_and_soon_elsewhere(tmp_path):
    runs = [tmp_path / "cpu", tmp_path / "gpu"]
    both = finish_all(start(2, 1, "mean", *map(str, runs), do="stop"))
    assert all("cpu: stopped by SIGTERM at step 3, which is saved" in said for said in both), both
    told = "SIGTERM: the step under way is finished and saved, then this ends"
    assert [said.count(told) for said in both] == [1, 0]
    # A signal to one is a signal to all.
    for said, cause in zip(both, ("another process", "SIGTERM")):
        assert f"gpu: stopped by {cause} at step 5, which is saved" in said, said
    assert [saved_steps(run) for run in runs] == [[3], [5]]


def test_launched_locally_a_signal_saves(tmp_path):
    options = {"PYTHON": sys.executable}
    run = [f"--workdir={tmp_path / 'run'}", *COMMAND]
    launcher = spawn(["launch/local.sh", "2", "--", *run], **options)
    log = tmp_path / "run" / "log.jsonl"
    wait_for_lines(log, 2, [launcher])
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 75, said
    (step,) = saved_steps(tmp_path / "run")
    assert said.count(f"stopped by SIGTERM at step {step}, which is saved") == 1, said


def test_a_process_that_dies_or_fails_ends_the_others(tmp_path):
    """On JTA: the first is killed; then the other cannot read its data any more."""
    data = prepare_small_jta(tmp_path)
    shutil.copytree(data, tmp_path / "other")
    log = tmp_path / "run" / "log.jsonl"

    def both():
        shared = [f"--workdir={tmp_path / 'run'}", *COMMAND, "--config.data.source=jta", "--config.checkpoint_every=5"]
        flags = [*shared, f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
        before = len(log.read_text().splitlines()) if log.exists() else 0
        folders = enumerate((data, tmp_path / "other"))
        processes = [
            main(*flags, f"--process_id={n}", f"--config.data.dir={folder}", JAX_PLATFORMS="cpu")
            for n, folder in folders
        ]
        return before, processes

    def assert_both_end(processes, status, why):
        began = time.monotonic()
        said = [process.communicate(timeout=100)[0] for process in processes]
        assert time.monotonic() - began < 60
        statuses = [process.returncode for process in processes]
        assert status in statuses and 0 not in statuses and any(re.search(why, some) for some in said), (statuses, said)
        return said

    lost = "Perhaps another process is lost|distributed service|coordination service"
    before, processes = both()
    wait_for_lines(log, before + 6, processes)
    wait_for_a_checkpoint(tmp_path / "run", processes)
    processes[0].kill()
    assert_both_end(processes, -signal.SIGKILL, lost)
    kept = max(saved_steps(tmp_path / "run"))
    assert kept >= 5
    before, processes = both()
    wait_for_lines(log, before + 3, processes)
    (shard,) = (tmp_path / "other").rglob("*train_vha*array_record*")
    os.truncate(shard, 1000)
    said = assert_both_end(processes, 1, lost)
    assert "cannot be read" in said[1] and "prepare the data again" in said[1], said
    assert f"going on from step {kept}" in said[0] and max(saved_steps(tmp_path / "run")) >= kept


def wait_for_lines(log: pathlib.Path, count: int, processes: list[subprocess.Popen]) -> None:
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= count, processes)


def wait_for_a_checkpoint(workdir: pathlib.Path, processes: list[subprocess.Popen]) -> None:
    """Checkpoints are written beside the training, so a later step can be in the log first."""
    wait_for(lambda: (workdir / "checkpoints").is_dir() and saved_steps(workdir), processes)


def wait_for(condition: Callable[[], object], processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        ended = [process.communicate()[0] for process in processes if process.poll() is not None]
        assert not ended and time.monotonic() < deadline, ended
        time.sleep(0.1)


# ---- Flags, and who launched us


@pytest.mark.parametrize(
    "arguments, what",
    [
        (("host:1", 2, None), "--num_processes=2: give all of --coordinator=HOST:PORT"),
        (("host:1", None, None), "--coordinator=host:1: give all of --coordinator=HOST:PORT"),
        (("", 2, 0), "--num_processes=2, --process_id=0: give all of"),
        (("auto", 2, 0), "or --coordinator=auto alone"),
        (("host", 2, 0), "--coordinator=host, --num_processes=2, --process_id=0: give all of"),
        (("host:1", 2, 2), "--process_id=2 is not one of 0 to --num_processes - 1 = 1"),
    ],
)
def test_half_given_flags(arguments, what):
    with pytest.raises(ValueError, match=what):
        distributed.initialize(*arguments)


SLURM = dict.fromkeys(("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"), "0")


@pytest.mark.parametrize(
    "environment, joins",
    [
        ({}, False),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({**SLURM, "SLURM_NTASKS": "8"}, True),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # the batch script itself: no step of it
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_launchers_are_known(environment, joins, monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
    for name in (*SLURM, "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.initialize() == joins == bool(asked)


def test_workdirs_in_buckets_stay_there():
    assert str(checkpoints._folder("gs://bucket/run")) == "gs://bucket/run/checkpoints"
