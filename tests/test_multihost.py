"""Several processes as one: the same losses, checkpoints and scores on any layout, and ends in good order.

Processes are real, machines are not: all run here, on CPU devices that XLA simulates.
"""

import dataclasses
import json
import pathlib
import shutil
import socket
import subprocess

import jax
import numpy as np
import pytest

from loco_jax import distributed, tasks, train
from loco_jax.data import streams
from loco_jax.tasks.vha import VhaTask
from tests import test_train
from tests.test_train import TIMINGS, Mean, logged, python, saved_state, saved_steps, tiny

FRAMES = 11  # of an evaluation: no number of devices divides it


# ---- Layouts


@dataclasses.dataclass(frozen=True)
class Small(VhaTask):
    """A real loss of real volumes, and a toy's scores: peaks would take long to compile."""

    predict, score, summary = Mean.predict, Mean.score, Mean.summary

    def headline(self, summary):
        return {}


def config_of(rows: int = 1):
    # 9 rows of cells, which 2 do not divide.
    config = tiny(steps=4, log_every=1, checkpoint_every=2, eval_frames=FRAMES, mesh={"rows": rows})
    config.update({"data": {"batch_size": 4}, "model": {"code_noise": 0.2, "blocks": 1, "width": 8}})
    return config


def stub(setattr=setattr):
    setattr(streams, "crowd_frame", test_train.toy_frame)
    create = tasks.create

    def small(config):
        task = create(config)
        task = Small(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)})
        return dataclasses.replace(task, network=task.network.clone(width=4))

    setattr(tasks, "create", small)
    # What a toy's parameters are called.
    setattr(Small, "predict", lambda self, params, frames, key, thorough: _marks(params, frames))


def _marks(params, frames):
    some = jax.tree.leaves(params)[0].ravel()[0]
    return {"joints": frames.joints, "w": jax.numpy.broadcast_to(some, frames.present.shape[:1])}


def work(coordinator: str, processes: str, number: str, *runs: str):
    """What a process does: trainings WORKDIR=ROWS, one after the other."""
    if int(processes) > 1:
        assert distributed.initialize(coordinator, int(processes), int(number))
    stub()
    for run in runs:
        workdir, _, rows = run.rpartition("=")
        mesh = distributed.make_mesh(4, int(rows))
        assert mesh.size == jax.device_count() == 4, mesh
        summary = train.train(config_of(int(rows)), workdir, print)
        if distributed.is_first():
            (pathlib.Path(workdir) / "summary.json").write_text(json.dumps(summary))


def start(processes: int, devices: int, *runs: str) -> list[subprocess.Popen]:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    command = "import sys; from tests import test_multihost; test_multihost.work(*sys.argv[1:])"
    arguments = [f"127.0.0.1:{free_port()}", str(processes)]
    options = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return [python("-c", command, *arguments, str(number), *runs, **options) for number in range(processes)]


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
    one, two, four = (str(tmp_path / name) for name in ("one", "two", "four"))
    finish(start(1, 4, f"{one}=1"))
    until_step_2(tmp_path / "one", tmp_path / "resumed")
    # Rows of two devices of a process; and of two processes.
    said = finish(start(2, 2, f"{two}=1", f"{tmp_path / 'resumed'}=2"))
    assert f"{tmp_path / 'resumed'}: going on from step 2" in said
    finish(start(4, 1, f"{four}=1", f"{tmp_path / 'rows'}=2"))
    # And what two processes began, a single device ends.
    until_step_2(tmp_path / "two", tmp_path / "alone")
    stub(monkeypatch.setattr)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    train.train(config_of(), str(tmp_path / "alone"), print)

    state, losses = saved_state(tmp_path / "one", 4), [line["loss"] for line in logged(tmp_path / "one")[:4]]
    assert len(set(losses)) == 4
    marks = json.loads((tmp_path / "one" / "summary.json").read_text())["marks"]
    assert len(set(marks)) == FRAMES
    for name in ("two", "four", "resumed", "rows", "alone"):
        for a, b in zip(logged(tmp_path / name), logged(tmp_path / "one"), strict=True):
            for field in a.keys() - TIMINGS:
                assert a[field] == pytest.approx(b[field], rel=1e-4, abs=1e-5), (name, field)
        other = saved_state(tmp_path / name, 4)
        assert other.keys() == state.keys()
        for path in state:
            # Where a gradient is next to nothing, Adam makes much of its rounding: a step each at most.
            np.testing.assert_allclose(other[path], state[path], rtol=1e-3, atol=3 * 0.02, err_msg=path)
            assert np.isclose(other[path], state[path], rtol=1e-2, atol=1e-4).mean() > 0.98, (name, path)
        if name != "alone":
            assert json.loads((tmp_path / name / "summary.json").read_text())["marks"] == marks
        assert saved_steps(tmp_path / name) == [2, 4]


def test_rows_that_no_device_could_have(monkeypatch):
    with pytest.raises(ValueError, match="config.mesh.rows=7 cannot be shared"):
        distributed.make_mesh(4, 7)


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
