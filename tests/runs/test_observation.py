"""The time split adds up, on a clock that only moves where time is spent on purpose; memory."""

import os
import pathlib
import resource
import time
import types

import hypothesis
import hypothesis.strategies as st
import jax
import pytest

from loco_jax import evaluate, experiment, train
from loco_jax import step as training
from loco_jax.data import sources, streams
from loco_jax.runs import checkpoints, log, observation
from tests.support import Mean, logged, tiny, toy_frame


class Clock:
    """Stands still until somebody spends time."""

    def __init__(self):
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observation, "now", clock)
    return clock


STEPS = st.recursive(
    st.floats(0, 10),
    lambda inner: st.tuples(st.sampled_from(sorted(observation.PARTS)), st.lists(inner, max_size=4)),
    max_leaves=12,
)


@hypothesis.given(st.lists(st.lists(STEPS, max_size=4), max_size=4))
def test_parts_are_disjoint_and_add_up(laps):
    """Any nesting of parts: each second is the innermost part's, of the lap in which it passed."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(observation, "now", clock)
        split, wanted, of_steps = observation.Split("other"), {}, 0.0

        def follow(step, part):
            if isinstance(step, float):
                clock.spend(step)
                wanted[part] = wanted.get(part, 0.0) + step
                return
            with split.part(step[0]):
                for inner in step[1]:
                    follow(inner, step[0])

        for lap in laps:
            wanted, began = {}, clock.time
            for step in lap:
                follow(step, "other")
            of_steps += sum(wanted.get(part, 0.0) for part in observation.STEPS)
            assert split.spent(observation.STEPS) == pytest.approx(of_steps, abs=1e-9)
            found = split.lap()
            assert split.spent(observation.STEPS) == pytest.approx(of_steps, abs=1e-9)
            assert found == pytest.approx({f"seconds/{p}": wanted.get(p, 0.0) for p in observation.PARTS}, abs=1e-9)
            assert sum(found.values()) == pytest.approx(clock.time - began, abs=1e-9)
            training = clock.time - began - wanted.get("setup", 0.0) - wanted.get("evaluation", 0.0)
            assert sum(found[f"seconds/{p}"] for p in observation.TRAINING) == pytest.approx(training, abs=1e-9)


def test_processor_time_counts_work_and_not_sleep(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    began, split = time.process_time(), observation.Split("other", "processor")
    time.sleep(0.5)
    while time.process_time() < began + 0.2:
        pass
    assert 0.2 / 2 <= split.spent(["other"]) < 0.4 / 2


def test_a_part_that_fails_gives_the_time_back(clock):
    split = observation.Split("other")
    with pytest.raises(OSError), split.part("save"):
        clock.spend(2)
        raise OSError
    clock.spend(3)
    lap = split.lap()
    assert (lap["seconds/save"], lap["seconds/other"]) == (2, 3)


def test_a_runs_log_says_where_every_second_went(clock, tmp_path, monkeypatch):
    """Slow data, devices, saves, evaluations and compilations, each known."""
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)
    monkeypatch.setattr(experiment, "create_task", lambda config: Mean())

    def slow(owner, name, seconds):
        original = getattr(owner, name)

        def slowly(*arguments, **options):
            clock.spend(seconds)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, slowly)

    class Loss:
        """Of a device that needs a quarter of a second for a step, once somebody waits for it."""

        def __init__(self, step):
            self.step = step

        def is_ready(self):
            return self.step == 3  # so that step 4's batch, and no other, comes late

        def __float__(self):
            clock.spend(0.25)
            return 1.0

    compile_step = training.compile_step

    def compile_slowly(*arguments):
        clock.spend(7)
        do_step, steps = compile_step(*arguments), iter(range(1, 100))

        def start(state, frames):
            state, scalars = do_step(state, frames)
            return state, {**scalars, "loss": Loss(next(steps))}

        return start

    monkeypatch.setattr(training, "compile_step", compile_slowly)
    slow(streams.CrowdStream, "__next__", 0.5)
    slow(checkpoints.Checkpoints, "save", 2)
    slow(log.Log, "write", 0.125)
    scored = evaluate.Evaluator.run

    def score_slowly(self, params, *arguments, **options):
        clock.spend(3)
        with pytest.MonkeyPatch.context() as patch:  # its batches are no training data
            patch.setattr(sources.CrowdData, "evaluation_batches", lambda *_: [])
            patch.setattr(Mean, "summary", lambda self, records: {"w": [0.0]})
            return scored(self, params, *arguments, **options)

    monkeypatch.setattr(evaluate.Evaluator, "run", score_slowly)
    train.train(tiny(steps=6, log_every=3, checkpoint_every=2, eval_every=4), str(tmp_path), lambda _: None)

    first, fourth, second, last = logged(tmp_path)
    assert [line["step"] for line in (first, fourth, second, last)] == [3, 4, 6, 6]
    assert not any(name.startswith("seconds/") for name in fourth)

    def split(line):
        return {part: line[f"seconds/{part}"] for part in observation.PARTS}

    assert split(first) == {"setup": 7, "data": 1.5, "device": 0.75, "save": 2, "evaluation": 0, "other": 0}
    assert split(second) == {"setup": 0, "data": 1.5, "device": 0.75, "save": 2, "evaluation": 3, "other": 0.25}
    assert split(last) == {"setup": 0, "data": 0, "device": 0, "save": 2, "evaluation": 3, "other": 0.125}
    # All of the wall time, but for the last line's own writing.
    assert sum(sum(split(line).values()) for line in (first, second, last)) == clock.time - 100 - 0.125
    assert first["frames_per_second"] == 3 * 2 / 4.25 and second["frames_per_second"] == 3 * 2 / 4.5
    assert first["input_wait"] == 0 and second["input_wait"] == 0.5 / 4.5


def test_what_is_measured_is_explained_and_in_tensorboard_too(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)
    monkeypatch.setattr(experiment, "create_task", lambda config: Mean())
    train.train(tiny(steps=2, log_every=1), str(tmp_path), lambda _: None)
    line = logged(tmp_path)[0]
    known = {"step", "stage", "skipped", "loss", "size", "grad_norm", "update_norm"}  # the losses and the task's own
    measured = line.keys() - known
    assert measured == set(observation.NAMES) - {"memory/device_bytes", "memory/device_peak_bytes"}
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name.encode() in content for name in measured)


def test_memory_of_devices_that_can_tell(monkeypatch):
    stats = [{"bytes_in_use": 5, "peak_bytes_in_use": 70}, None, {"bytes_in_use": 6, "peak_bytes_in_use": 60}]
    devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert observation.memory() == {"memory/device_bytes": 6, "memory/device_peak_bytes": 70}
    del stats[0]["peak_bytes_in_use"], stats[2]["peak_bytes_in_use"]
    assert observation.memory() == {"memory/device_bytes": 6}


def test_memory_of_a_process():
    if any(device.memory_stats() for device in jax.local_devices()) or not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("devices can tell here, or the kernel cannot")
    (peak,) = observation.memory().values()
    resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    assert 0.95 * resident < peak  # the kernel counts in batches
    assert peak < 1.05 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
