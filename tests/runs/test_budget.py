"""A budget of training time: which rates follow from it, when a run ends, and that it can be resumed and replayed."""

import json
import math
import types

import jax
import numpy as np
import pytest

from loco_jax import evaluate, replay
from loco_jax import step as training
from loco_jax.data import sources, streams
from loco_jax.runs import budget, checkpoints, observation
from loco_jax.step import make_optimizer
from tests.support import (
    Crash,
    Mean,
    assert_same_run,
    at_batch,
    crash,
    logged,
    quietly,
    saved_state,
    saved_steps,
    scenes,
    tiny,
    train_by_hand,
)

SECONDS = 8  # of the budget below


def budgeted(**changes):
    """Eight seconds of training, of which a batch takes one where the clock is `seconds_a_batch`."""
    changes = {"steps": 1000, "log_every": 3, "checkpoint_every": 5, "ema": 0.8, **changes}
    config = tiny(budget_minutes=SECONDS / 60, **changes)
    config.optimizer.update({"learning_rate": 0.3, "warmup": 3})
    return config


@pytest.fixture
def seconds_a_batch(monkeypatch):
    """A clock that a batch moves on by a second, a save by 20 and an evaluation by 30, and nothing else."""
    clock = types.SimpleNamespace(time=100.0)
    monkeypatch.setattr(observation, "now", lambda: clock.time)

    def slow(owner, name, seconds):
        original = getattr(owner, name)

        def slowly(self, *arguments, **options):
            clock.time += seconds
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, name, slowly)

    slow(checkpoints.Checkpoints, "save", 20)
    slow(evaluate.Evaluator, "run", 30 - 2)  # two batches
    slow(streams.CrowdStream, "__next__", 1)
    monkeypatch.setattr(sources.CrowdData, "evaluation_batches", lambda *_: [])
    monkeypatch.setattr(Mean, "summary", lambda self, records: {"w": [0.0]})


def rates_of(workdir) -> list[float]:
    rates = budget.logged_rates(logged(workdir))
    assert list(rates) == list(range(1, len(rates) + 1))
    return list(rates.values())


# ---- The schedule


def test_the_rate_is_the_warm_up_in_steps_times_the_cosine_in_time():
    config = budgeted(steps=10**10)
    config.optimizer.update({"learning_rate": 0.02, "warmup": 100, "schedule": "cosine"})
    for step, used, wanted in (
        (0, 0.0, 0.0),
        (25, 0.0, 0.005),
        (50, 0.5, 0.005),
        (100, 0.0, 0.02),
        (200, 1 / 4, 0.02 * (2 + math.sqrt(2)) / 4),
        (300, 1 / 3, 0.015),
        (400, 2 / 3, 0.005),
        (10**9, 1.0, 0.0),
    ):
        assert budget.rate_at(config, step, used) == pytest.approx(wanted, abs=1e-12)
    config.steps = 400  # where these are nearer to their end than time is, they count
    for step, used, wanted in ((300, 0.1, 0.02 * (2 - math.sqrt(2)) / 4), (300, 0.9, 0.02 * 0.0244717), (400, 0.5, 0)):
        assert budget.rate_at(config, step, used) == pytest.approx(wanted, rel=1e-5, abs=1e-12)
    config.optimizer.schedule = "constant"
    assert budget.rate_at(config, 50, 0.9) == 0.01 and budget.rate_at(config, 100, 0.9) == 0.02
    config.optimizer.warmup = 0
    assert budget.rate_at(config, 0, 0.9) == 0.02


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_the_optimisers_own_rate_is_one(name):
    """For updates of matrices and of what is too thin for Muon."""
    one, given = tiny(), budgeted()
    one.optimizer.update({"name": name, "learning_rate": 1.0, "warmup": 0, "schedule": "constant"})
    given.optimizer.update({"name": name})
    params = {"w": np.ones((12, 12), np.float32), "b": np.ones(12, np.float32)}
    gradient = {"w": np.eye(12, dtype=np.float32) + 0.5, "b": np.arange(12, dtype=np.float32)}
    optimizers = [make_optimizer(config) for config in (one, given)]
    of_one, of_given = (
        jax.jit(optimizer.update)(gradient, optimizer.init(params), params)[0] for optimizer in optimizers
    )
    for leaf in params:
        np.testing.assert_allclose(of_given[leaf], of_one[leaf], rtol=1e-6)
        assert np.abs(of_one[leaf]).max() > 0


# ---- A run


def test_the_run_ends_with_its_budget_and_uses_the_rates_that_it_logs(toy, tmp_path, seconds_a_batch):
    config = budgeted(eval_every=4)
    summary, said = quietly(config, tmp_path)
    # Nothing but batches took time that counts.
    assert saved_steps(tmp_path) == [5, 8] and said[-1] == f"{tmp_path}: 8 steps done"
    rates = rates_of(tmp_path)
    # Before the nth step n - 1 batches have been read.
    wanted = [0.3 * min(1, n / 3) * (1 + math.cos(math.pi * n / SECONDS)) / 2 for n in range(8)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)
    batches = [scenes("train", (2 * i, 2 * i + 1)) for i in range(8)]
    start = np.asarray(Mean().init(jax.random.key(config.seed))["w"], np.float64)
    *_, (_, _, w, average) = train_by_hand(config, batches, start, rates)
    state = saved_state(tmp_path, 8)
    np.testing.assert_allclose(state["['params']['w']"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["['ema']['w']"], average, rtol=1e-4, atol=1e-5)
    # The last rates and scores are there, and a finished run is left as it is.
    lines = logged(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 8]
    assert [line["step"] for line in lines if "validation/w" in line] == [4, 8] and summary
    assert [line["budget_used"] for line in lines if "loss" in line] == [3 / 8, 6 / 8, 1]
    assert quietly(config, tmp_path)[1][-1] == f"{tmp_path}: 8 steps done" and logged(tmp_path) == lines


@pytest.mark.parametrize("batch, step", [(5, 0), (8, 5)])  # killed before the step of that number
def test_a_resumed_run_counts_on(toy, tmp_path, seconds_a_batch, batch, step):
    """Where time is always the same, so is the run: lines after the checkpoint are dropped, and no rate is lost."""
    toy(noise=1.0, stages=2)
    config = budgeted()
    _, said = quietly(config, tmp_path / "straight")
    assert "step 6: stage 1 of 2 ends, since its share of the budget is used" in said
    with at_batch(batch, crash), pytest.raises(Crash):
        quietly(config, tmp_path / "parts")
    _, said = quietly(config, tmp_path / "parts")
    assert f"{tmp_path / 'parts'}: going on from step {step}" in said or not step
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 8)
    assert rates_of(tmp_path / "parts") == rates_of(tmp_path / "straight")


def test_a_budget_is_of_the_run_and_max_minutes_of_a_start(toy, tmp_path, seconds_a_batch):
    config = budgeted(max_minutes=1e-6)
    for step in (1, 2):
        assert f"stopped by config.max_minutes=1e-06 at step {step}" in quietly(config, tmp_path)[1][-1]
    other = budgeted()
    other.budget_minutes = 0.25
    with pytest.raises(checkpoints.CheckpointError, match="budget_minutes: 0.13.* there, 0.25 now"):
        quietly(other, tmp_path)
    config.max_minutes = 0.0
    assert quietly(config, tmp_path)[1][-1] == f"{tmp_path}: 8 steps done"


def test_the_clock_of_the_budget_is_chosen(toy, tmp_path, seconds_a_batch, monkeypatch):
    """The processor's clock stands still here, so the steps end the run, and a clock of no such name is refused."""
    monkeypatch.setattr(observation, "processor", lambda: 5.0)
    config = budgeted(steps=11)
    config.budget_clock = "processor"
    assert quietly(config, tmp_path / "a")[1][-1] == f"{tmp_path / 'a'}: 11 steps done"
    config.budget_clock = "sun"
    with pytest.raises(ValueError, match="config.budget_clock='sun'; there are wall, processor"):
        quietly(config, tmp_path / "b")


def test_a_budget_may_change_where_the_learning_rate_does_not_follow_it(toy, tmp_path, seconds_a_batch):
    """A batch takes a second: three quarters of the old budget are three eighths of one twice as long."""

    def config(seconds, **changes):
        config = budgeted(**changes)
        config.budget_minutes, config.optimizer.schedule = seconds / 60, "constant"
        return config

    assert quietly(config(SECONDS, steps=6), tmp_path)[1][-1] == f"{tmp_path}: 6 steps done"
    assert quietly(config(2 * SECONDS), tmp_path)[1][-1] == f"{tmp_path}: {2 * SECONDS} steps done"
    assert quietly(config(SECONDS), tmp_path)[1][-1] == f"{tmp_path}: {2 * SECONDS} steps done"
    with pytest.raises(checkpoints.CheckpointError, match="budget_minutes: 0.13.* there, 0.0 now"):
        quietly(config(0), tmp_path)


def test_steps_may_end_a_run_before_its_budget(toy, tmp_path):
    summary, said = quietly(budgeted(steps=4), tmp_path)
    assert said[-1] == f"{tmp_path}: 4 steps done" and summary and 0 < logged(tmp_path)[-2]["budget_used"] < 1
    # Scores are of the run, whatever budget the command names.
    assert evaluate.evaluate(tiny(), str(tmp_path), lambda _: None)["step"] == 4


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_minutes_that_cannot_be_are_told(toy, tmp_path, value):
    with pytest.raises(ValueError, match=f"config.budget_minutes={value} must be a number of minutes, or 0 for none"):
        quietly(tiny(budget_minutes=value), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- A step again


def test_any_step_is_shown_again_bit_for_bit(toy, tmp_path, monkeypatch, seconds_a_batch):
    toy(noise=1.0, stages=2)
    losses, compile_step = [], training.compile_step

    class Recording:
        def __init__(self, *arguments):
            self._step = compile_step(*arguments)

        def __call__(self, *arguments):
            state, scalars = self._step(*arguments)
            losses.append(float(jax.device_get(scalars["loss"])))
            return state, scalars

    with monkeypatch.context() as patch:
        patch.setattr(training, "compile_step", Recording)
        quietly(budgeted(), tmp_path)
    assert len(losses) == len(set(rates_of(tmp_path))) == 8
    # From the checkpoint of step 5, from the beginning. At the log line of step 6 the second stage begins.
    for step, stage in ((7, 1), (4, 0)):
        found = replay.replay(tiny(), str(tmp_path), step, lambda _: None)
        assert found["loss"] == losses[step - 1] and found["stage"] == stage
    log = tmp_path / "log.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if json.loads(line)["step"] != 6))
    with pytest.raises(ValueError, match="--step=7: .*log.jsonl lacks the learning rate of step 6"):
        replay.replay(tiny(), str(tmp_path), 7, lambda _: None)


@pytest.mark.parametrize(
    "seconds, step, stage",
    [
        (13.5, 9, 1),  # half of the budget is used at the log line of the first end, step 7
        (10.0, 6, 0),  # at the checkpoint of step 5, which has no log line; the stage ends at step 6
    ],
)
def test_a_step_of_a_run_that_was_lengthened_is_shown_in_its_stage(
    toy, tmp_path, seconds_a_batch, seconds, step, stage
):
    toy(noise=1.0, stages=2)
    config = budgeted(steps=7, keep_checkpoints=1)
    config.budget_minutes, config.optimizer.schedule = seconds / 60, "constant"
    quietly(config, tmp_path)
    config.steps = 10
    quietly(config, tmp_path)
    found = replay.replay(tiny(), str(tmp_path), step, lambda _: None)
    stages = {line["step"]: line["stage"] for line in logged(tmp_path) if "stage" in line}
    assert found["stage"] == stage == stages[next(at for at in stages if at >= step)]


def test_without_a_budget_nothing_is_logged_of_it(toy, tmp_path):
    quietly(tiny(steps=2, log_every=1), tmp_path)
    assert not any(line.keys() & {"rates", "learning_rate", "budget_used"} for line in logged(tmp_path))
