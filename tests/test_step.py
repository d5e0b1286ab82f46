"""One step: randomness, the learning rate, the optimiser's fields, stages."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import experiment
from loco_jax.configs import vha as vha_config
from loco_jax.step import Stages, init_state, make_optimizer, train_step
from tests.support import Mean, scenes, tiny


def test_randomness_is_of_the_seed_and_the_step(toy):
    task, config = Mean(noise=1.0), tiny()
    optimizer, frames = make_optimizer(config), scenes("train", (0, 1))
    state = init_state(task, optimizer, config)

    def loss(step, seed=0):
        now = state.replace(step=jnp.int32(step))
        return train_step(now, frames, task=task, optimizer=optimizer, stage=0, seed=seed, ema=0.0)[1]["loss"]

    first = float(loss(0))
    assert first == float(loss(0)) and len({first, float(loss(1)), float(loss(2)), float(loss(0, 1))}) == 4


def updates_of(config, steps: int) -> np.ndarray:
    """A parameter's changes when its gradient is always 1: Adam makes them the learning rate."""
    optimizer = make_optimizer(config)
    params = {"w": jnp.float32(0)}
    state, changes = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update({"w": jnp.float32(1)}, state, params)
        changes.append(-float(update["w"]))
    return np.array(changes)


def test_published_learning_rate_is_there_from_the_first_step():
    config = vha_config.get_config(2)
    assert config.optimizer.schedule == "constant"
    np.testing.assert_allclose(updates_of(config, 3), 1e-4, rtol=1e-3)
    config.optimizer.warmup = 4
    np.testing.assert_allclose(updates_of(config, 6), 1e-4 * np.array([0, 1, 2, 3, 4, 4]) / 4, rtol=1e-3)


def test_unknown_optimisers_are_told():
    for field, value, known in (("name", "sgd", "adam, muon"), ("schedule", "linear", "constant, cosine")):
        config = tiny()
        config.optimizer[field] = value
        with pytest.raises(ValueError, match=f"config.optimizer.{field}='{value}'; there are {known}"):
            experiment.check(config)


def test_stages_by_hand():
    config = tiny(plateau={"patience": 2, "least_gain": 0.1})
    stages = Stages(config, Mean(stages=4))

    def moves(*losses):
        return [bool(stages.move_on({"loss": float(loss)}, 0.0)) for loss in losses]

    # Best 10; 9.5 is no gain of a tenth, 8.9 is; then 8.9 twice without.
    assert moves(10, 9.5, 8.9, 8.5, 8.1) == [False] * 4 + [True] and stages.now == 1
    # It starts over, and any loss is a gain at first.
    assert moves(50, 49, 44, 43, 41) == [False] * 4 + [True] and stages.now == 2
    assert moves(7.0, 6.9) == [False, False] and not stages.move_on({}, 0.0)
    saved, stages = json.loads(json.dumps(stages.state)), Stages(config, Mean(stages=4))
    stages.state = saved
    assert moves(6.8, 6.7, 6.6, 6.5) == [True, False, False, False] and stages.now == 3  # the last


def test_stages_share_a_budget_equally():
    def moves(*lines):
        stages = Stages(tiny(plateau={"patience": 2, "least_gain": 0.1}), Mean(stages=3))
        why = [stages.move_on({"loss": loss} if loss else {}, used) for loss, used in lines]
        assert stages.now == sum(map(bool, why))
        return why

    flat, share = "the loss no longer falls", "its share of the budget is used"
    assert moves((9.0, 0.3), (8.0, 0.34), (9.0, 0.66), (8.0, 0.67), (7.0, 0.9)) == ["", share, "", share, ""]
    # After a plateau in the first stage the second one still ends at two thirds.
    assert moves((9.0, 0.1), (9.0, 0.11), (9.0, 0.12)) == ["", "", flat]
    assert moves((9.0, 0.1), (9.0, 0.11), (9.0, 0.12), (9.0, 0.34), (8.0, 0.66), (7.0, 0.67))[3:] == ["", "", share]
    # Without losses too, and a stage for each line even where shares have passed between lines.
    assert moves((None, 0.2), (None, 0.7), (None, 0.7), (None, 0.7)) == ["", share, share, ""]
    # At the end nobody would train the next stage.
    assert moves((9.0, 0.2), (8.0, 1.0)) == ["", ""]
    assert moves((9.0, 0.1), (9.0, 0.2), (9.0, 1.0)) == ["", "", ""]
