"""What is odd against a loop over Python's numbers; skipped steps against Adam by hand; steps shown again."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import experiment, replay
from loco_jax import step as training
from loco_jax.configs import refiner
from loco_jax.data import streams
from loco_jax.runs import checkpoints, watch
from loco_jax.runs.ending import TrainingError
from tests.support import Mean, logged, quietly, saved_state, saved_watch, scenes, tiny, toy_frame, train_by_hand

CREATE = experiment.create_task


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)
    monkeypatch.setattr(experiment, "create_task", lambda config: Mean())


def watched(losses, spike: float, new_stage_after: float = math.inf) -> watch.Watch:
    now = watch.Watch(spike, most_skipped=2)
    for step, loss in enumerate(losses, start=1):
        scalars = {"loss": float(loss), "skipped": float(not math.isfinite(loss))}
        now.see(step, scalars, stage=int(step > new_stage_after))
    return now


def test_odd_steps_by_hand():
    rng = np.random.default_rng(0)
    losses = rng.uniform(1, 2, 120)
    losses[[3, 40, 41, 90]] *= 20  # the first comes too early to tell
    losses[[10, 60, 61, 119]] = [math.nan, math.inf, math.nan, -math.inf]
    usual, wanted = 0.0, []
    seen = 0
    for step, loss in enumerate(losses, start=1):
        most = 5 * usual if seen >= 20 else math.inf
        if not math.isfinite(loss) or loss > most:
            wanted.append((step, loss, usual, not math.isfinite(loss)))
        if math.isfinite(loss):
            keep = min(0.98, seen / (seen + 1))
            usual, seen = keep * usual + (1 - keep) * min(loss, most), seen + 1
    now = watched(losses, spike=5.0)
    assert json.loads(json.dumps(now.state)) == now.state and now.bad_step == 0
    means, found = now.take()
    assert [odd["odd_step"] for odd in found] == [11, 41, 42, 61, 62, 91, 120] == [step for step, *_ in wanted]
    for odd, (_, loss, usual, is_skipped) in zip(found, wanted):
        assert odd.get("odd_step_usual_loss") == (None if is_skipped else pytest.approx(usual))
        assert odd.get("odd_step_loss") == (loss if math.isfinite(loss) else None)
    assert means == {"loss": pytest.approx(np.mean(losses[np.isfinite(losses)]))}
    assert [now.state[name] for name in ("skipped", "in_a_row", "seen")] == [4, 1, 116]
    said = now.describe(found)
    assert said.startswith("Odd steps, see log.jsonl: 11, 41, 42, 61, 62 and 2 more. 4 skipped so far. ")
    assert said.endswith("--mode=replay --step=11 shows the first one's batch")
    assert now.take() == ({}, [])
    assert [odd["odd_step"] for odd in watched(losses, spike=0.0).take()[1]] == [11, 61, 62, 120]


def test_each_stage_has_its_usual_loss():
    rng = np.random.default_rng(1)
    losses = np.concatenate([rng.uniform(1, 2, 40), [50.0], rng.uniform(100, 200, 40), [3000.0]])
    _, odd = watched(losses, spike=5.0, new_stage_after=41).take()
    assert [x["odd_step"] for x in odd] == [41, 82]
    assert odd[1]["odd_step_usual_loss"] == pytest.approx(losses[41:-1].mean())


def test_the_first_of_too_many_in_a_row_is_remembered():
    now = watched([math.nan, 1.0, *[math.nan] * 38, 1.0], spike=0.0)
    assert now.bad_step == 5 and now.state["skipped"] == 39 and now.state["in_a_row"] == 0
    assert "and 34 more" in now.describe(now.take()[1])


# ---- In training


def spoil(monkeypatch, steps, how) -> None:
    """Makes the batches of some steps other ones."""
    original = streams.CrowdStream.__next__

    def following(self):
        frames = original(self)
        step = self.get_state()["batches"]
        return frames._replace(joints=how(frames.joints)) if step in steps else frames

    how = jax.jit(how)
    monkeypatch.setattr(streams.CrowdStream, "__next__", following)


def short_run(**changes):
    """A config whose step is compiled once for all of these tests."""
    config = tiny(ema=0.8, **changes)
    config.optimizer.update({"schedule": "constant", "learning_rate": 0.1, "max_skipped": 2})
    return config


def test_steps_that_are_not_finite_change_nothing(tmp_path, monkeypatch):
    bad = (1, 5, 6, 11)
    spoil(monkeypatch, bad, lambda joints: joints.at[1, 0, 0].set(jnp.inf))  # of the second frame only
    config = short_run(steps=12, log_every=3, checkpoint_every=6)
    _, said = quietly(config, tmp_path)
    good = [scenes("train", (2 * i, 2 * i + 1)) for i in range(12) if i + 1 not in bad]
    start = np.asarray(Mean().init(jax.random.key(0))["w"], np.float64)
    # By hand without those batches; a cosine this long is constant too. The average forgets by the step's number, which
    # goes on.
    config.steps = 10**12
    losses, _, ws, _ = zip(*train_by_hand(config, good, start))
    average, taken = start, iter(ws)
    for n in range(12):
        if n + 1 not in bad:
            keep = min(0.8, (2 + n) / (11 + n))
            average = keep * average + (1 - keep) * next(taken)
    state = saved_state(tmp_path, 12)
    np.testing.assert_allclose(state["['params']['w']"], ws[-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state["['ema']['w']"], average, rtol=1e-4, atol=1e-4)
    assert saved_watch(tmp_path, 12)["skipped"] == 4
    counts = [x for name, x in state.items() if "opt_state" in name and "count" in name]
    assert counts and all(x == 8 for x in counts)
    lines = [line for line in logged(tmp_path) if "skipped" in line]
    assert [line["skipped"] for line in lines] == [1, 3, 3, 4]
    means = [np.mean(losses[a:b]) for a, b in ((0, 2), (2, 3), (3, 6), (6, 8))]
    np.testing.assert_allclose([line["loss"] for line in lines], means, rtol=1e-4)
    assert [line["odd_step"] for line in logged(tmp_path) if "odd_step" in line] == [1, 5, 6, 11]
    assert sum(text.startswith("Odd steps") for text in said) == 3


def test_log_lines_without_a_finite_step(tmp_path, monkeypatch):
    spoil(monkeypatch, (3, 4), lambda joints: joints * jnp.nan)
    quietly(short_run(steps=6, log_every=2), tmp_path)
    lines = [line for line in logged(tmp_path) if "skipped" in line]
    assert ["loss" in line for line in lines] == [True, False, True]
    assert [line["skipped"] for line in lines] == [0, 2, 2]


def test_too_many_in_a_row_end_the_run(tmp_path, monkeypatch):
    spoil(monkeypatch, (3, 4, 8, 9, 10), lambda joints: joints * jnp.nan)
    config = short_run(steps=20, log_every=20, checkpoint_every=5)
    with pytest.raises(TrainingError, match="not finite at step 10 and the 2 before it .*step=8 shows the first"):
        quietly(config, tmp_path)
    # Found where step 10 would have been saved, between two log lines, and logged all the same.
    (line,) = [line for line in logged(tmp_path) if "skipped" in line]
    assert line["step"] == 10 and line["skipped"] == 5 and "loss" in line
    assert [line["odd_step"] for line in logged(tmp_path) if "odd_step" in line] == [3, 4, 8, 9, 10]
    assert all(np.isfinite(x).all() for x in saved_state(tmp_path, 5).values())
    config.optimizer.max_skipped = 3  # may change under a checkpoint
    quietly(config, tmp_path)
    assert saved_watch(tmp_path, 20)["skipped"] == 5
    config.optimizer.max_skipped = -1
    with pytest.raises(ValueError, match="config.optimizer.max_skipped=-1 must be"):
        quietly(config, tmp_path)


def test_a_spike_is_logged_and_shown_again_exactly(tmp_path, monkeypatch):
    spoil(monkeypatch, (31,), lambda joints: 30 * joints)
    # The checkpoint before the spike is of step 24.
    config = short_run(steps=40, log_every=10, checkpoint_every=8, keep_checkpoints=9)
    _, said = quietly(config, tmp_path)
    (line,) = [line for line in logged(tmp_path) if "odd_step" in line]
    assert line["step"] == 40 and line["odd_step"] == 31 and line["odd_step_loss"] > 4 * line["odd_step_usual_loss"]
    assert sum("--mode=replay --step=31 shows" in text for text in said) == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found, text = again(config, tmp_path, 31)
    assert found["loss"] == line["odd_step_loss"] and not found["skipped"]
    assert "from the checkpoint of step 24; 6 steps to do again" in text
    changed = {path for path in tmp_path.rglob("*") if before.get(path) != path.stat().st_mtime_ns} - {tmp_path}
    assert changed == {tmp_path / "replay", *(tmp_path / "replay").iterdir()}  # the run is as it was
    assert {"step_31.json", "step_31_frame_0.png"} <= {path.name for path in (tmp_path / "replay").iterdir()}
    assert json.loads((tmp_path / "replay" / "step_31.json").read_text()) == found
    # By hand, from the parameters as they were before the step.
    frames = scenes("train", (60, 61))
    weight = np.asarray(frames.present, np.float64)[..., None] * np.ones(3)
    config.checkpoint_every = 30
    quietly(config, tmp_path / "other")
    w = np.float64(saved_state(tmp_path / "other", 30)["['params']['w']"])
    difference = w - 30 * np.asarray(frames.joints, np.float64)
    gradient = np.sum(2 * difference * weight, axis=(0, 1)) / weight.size
    assert found["loss"] == pytest.approx(np.mean(difference**2 * weight), rel=1e-5)
    assert found["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    wanted = {"gradient/w": gradient, "parameters/w": w, "batch/joints": 30 * np.asarray(frames.joints)}
    for name, array in wanted.items():
        assert found["arrays"][name] == {"not_finite": 0, "greatest": pytest.approx(np.abs(array).max(), rel=1e-5)}


def again(config, workdir, step: int):
    said = []
    return replay.replay(config, str(workdir), step, said.append), "\n".join(said)


@pytest.mark.parametrize("source", ["crowd", "jta"])
def test_any_step_is_shown_again_bit_for_bit(source, small_jta, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "create_task", lambda config: Mean(noise=1.0, stages=3))
    # With a patience of one every second log line begins a stage: after steps 6 and 12.
    config = tiny(steps=16, log_every=3, checkpoint_every=5, ema=0.9, plateau={"patience": 1, "least_gain": 0.99})
    config.update({"data": {"source": source, "dir": str(small_jta), "max_people": 4, "batch_size": 2}})
    losses, compile_step = [], training.compile_step

    def recording(*arguments):
        step = compile_step(*arguments)

        def do(state, frames):
            state, scalars = step(state, frames)
            losses.append(float(jax.device_get(scalars["loss"])))
            return state, scalars

        return do

    monkeypatch.setattr(training, "compile_step", recording)
    quietly(config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)
    monkeypatch.setattr(experiment, "create_task", lambda config: Mean(noise=1.0, stages=3))
    assert len(set(losses)) == len(losses) == 16
    # Checkpoints are of steps 15 and 16: 16 begins there, 13 in the beginning, since what was between is gone.
    for step, begin in ((16, "the checkpoint of step 15"), (13, "the beginning")):
        found, text = again(config, tmp_path, step)
        assert found["loss"] == losses[step - 1] and begin in text
        assert found["stage"] == 2


def test_steps_that_cannot_be_shown(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no run here"):
        again(tiny(), tmp_path / "none", 3)
    quietly(tiny(steps=2), tmp_path)
    with pytest.raises(ValueError, match="--step=0: .* from 1"):
        again(tiny(steps=2), tmp_path, 0)
    with pytest.raises(checkpoints.CheckpointError, match="data.batch_size: 2 there, 3 now"):
        again(tiny(steps=2, data={"batch_size": 3}), tmp_path, 1)


def test_a_batch_that_is_not_finite_is_shown_in_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "create_task", CREATE)
    spoil(monkeypatch, (2,), lambda joints: joints.at[1, 0, 0, 1].set(jnp.nan))
    config = refiner.get_config("scale=demo")
    config.update({"steps": 2, "pictures": 2, "quiet": True, "eval_frames": 1, "data": {"batch_size": 2}})
    quietly(config, tmp_path)
    found, text = again(config, tmp_path, 2)
    assert found["skipped"] and found["loss"] is None and "loss: not finite" in text
    assert found["arrays"]["batch/joints"]["not_finite"] == 1
    gradients = [x["not_finite"] for name, x in found["arrays"].items() if name.startswith("gradient")]
    assert sum(gradients) > 1000 and all(
        x["not_finite"] == 0 for name, x in found["arrays"].items() if name.startswith("parameters")
    )
    assert len(list((tmp_path / "replay").glob("step_2_frame_*.png"))) == 2
