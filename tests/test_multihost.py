"""Several processes as one: the same losses, checkpoints and scores on any layout, and ends in good order.

Processes are real, machines are not: all run here, on CPU devices that XLA simulates.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from loco_jax import checkpoints, distributed, tasks, train
from loco_jax.data import streams
from loco_jax.tasks import vha as vha_tasks
from tests import test_train
from tests.test_train import ROOT, TIMINGS, Mean, logged, main, python, saved_steps, tiny

FRAMES = 11  # of an evaluation: no number of devices divides it


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


def config_of(rows: int = 1):
    config = tiny(steps=4, log_every=1, checkpoint_every=2, eval_frames=FRAMES, mesh={"rows": rows})
    config.update({"data": {"batch_size": 4}, "model": {"blocks": 1, "width": 8}})
    return config


def stub(kind: str, setattr=setattr):
    """Makes frames toys, and every config's task the toy "mean" or the "small" one."""

    def small(config):
        task = vha_tasks.create(config)
        return Small(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})

    setattr(streams, "crowd_frame", test_train.toy_frame)
    setattr(tasks, "create", {"mean": lambda config: Mean(noise=1.0), "small": small}[kind])


def work(coordinator: str, processes: str, number: str, kind: str, rows: str, *workdirs: str):
    """What a process does: trainings, one after the other."""
    if int(processes) > 1:
        assert distributed.initialize(coordinator, int(processes), int(number))
    stub(kind)
    assert distributed.make_mesh(4, int(rows)).size == jax.device_count()
    for workdir in workdirs:
        summary = train.train(config_of(int(rows)), workdir, print)
        if distributed.is_first():
            (pathlib.Path(workdir) / "summary.json").write_text(json.dumps(summary))


def start(processes: int, devices: int, *task: str) -> list[subprocess.Popen]:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    command = "import sys; from tests import test_multihost; test_multihost.work(*sys.argv[1:])"
    arguments = [f"127.0.0.1:{free_port()}", str(processes)]
    options = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return [python("-c", command, *arguments, str(number), *task, **options) for number in range(processes)]


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def finish(processes: list[subprocess.Popen]) -> str:
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert not any(process.returncode for process in processes), said
    return said[0]


def until_step_2(workdir: pathlib.Path, to: pathlib.Path) -> None:
    """A copy of a run as it was after step 2."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "checkpoints" / "4")


def test_the_same_answer_on_any_layout(tmp_path, monkeypatch):
    one, two, four, resumed = (str(tmp_path / name) for name in ("one", "two", "four", "resumed"))
    finish(start(1, 4, "mean", "1", one))
    until_step_2(tmp_path / "one", tmp_path / "resumed")
    both = start(2, 2, "mean", "1", two, resumed), start(4, 1, "mean", "1", four)
    said, _ = (finish(processes) for processes in both)
    assert said.count(f"{resumed}: going on from step 2") == 1
    # And what two processes began, a single device ends.
    until_step_2(tmp_path / "two", tmp_path / "alone")
    alone(tmp_path / "alone", "mean", monkeypatch)
    marks = json.loads((tmp_path / "one" / "summary.json").read_text())["marks"]
    assert len(set(marks)) == FRAMES
    for name in ("two", "four", "resumed", "alone"):
        assert_same_logs(tmp_path / name, tmp_path / "one")
        if name != "alone":
            assert json.loads((tmp_path / name / "summary.json").read_text())["marks"] == marks


def test_rows_shared_by_two_processes(tmp_path, monkeypatch):
    finish(start(2, 1, "small", "2", str(tmp_path / "rows")))
    alone(tmp_path / "alone", "small", monkeypatch)
    assert_same_logs(tmp_path / "rows", tmp_path / "alone")


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


def test_rows_that_no_device_could_have():
    with pytest.raises(ValueError, match="config.mesh.rows=7 cannot be shared"):
        distributed.make_mesh(4, 7)


# ---- Ends in good order

# Small, and of real frames: what the command itself does.
COMMAND = ["--config=configs/refiner.py:scale=demo", "--config.quiet=true", "--config.eval_every=0"]
COMMAND += ["--config.steps=1000000", "--config.log_every=1", "--config.checkpoint_every=1000000"]


def test_launched_locally_a_signal_saves_and_a_dead_process_ends_the_others(tmp_path):
    options = {"PYTHON": sys.executable, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    run = [f"--workdir={tmp_path / 'run'}", *COMMAND]
    launcher = spawn(["launch/local.sh", "2", "--", *run], **options)
    log = tmp_path / "run" / "log.jsonl"
    wait_for_lines(log, 2, [launcher])
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 75, said
    (step,) = saved_steps(tmp_path / "run")
    assert said.count(f"stopped by SIGTERM at step {step}, which is saved") == 1, said

    # On from there; then one is killed, and nobody but the runtime tells the other.
    port = free_port()
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    before = len(log.read_text().splitlines())
    both = [main(*flags, f"--process_id={n}", *run, JAX_PLATFORMS="cpu", **options) for n in range(2)]
    wait_for_lines(log, before + 1, both)
    both[1].kill()
    started = time.monotonic()
    said, _ = both[0].communicate(timeout=60)
    both[1].communicate()
    assert both[0].returncode != 0 and time.monotonic() - started < 60
    assert "Perhaps another process is lost" in said or "distributed service" in said, said
    assert saved_steps(tmp_path / "run") == [step]


def spawn(command: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_lines(log: pathlib.Path, count: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 200
    while not (log.exists() and len(log.read_text().splitlines()) >= count):
        ended = [process.communicate()[0] for process in processes if process.poll() is not None]
        assert not ended and time.monotonic() < deadline, ended
        time.sleep(0.1)


# ---- Flags, and who launched us


@pytest.mark.parametrize(
    "arguments, what",
    [
        (("host:1", 2, None), "--num_processes=2: give all of|want HOST:PORT"),
        (("host:1", None, None), "--coordinator=host:1: want HOST:PORT of the first process, with --num_processes"),
        (("", 2, 0), "--num_processes=2, --process_id=0: give all of"),
        (("auto", 2, 0), "or --coordinator=auto alone"),
        (("host", 2, 0), "want HOST:PORT"),
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
