"""Training that starts from weights: what it takes over, what it makes anew, and what it refuses."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import experiment, weights
from loco_jax.configs import loco as loco_config
from loco_jax.configs import refiner as refiner_config
from loco_jax.configs import vha as vha_config
from loco_jax.runs import checkpoints
from loco_jax.step import TrainState, init_state, make_optimizer, read_init
from tests.support import (
    Crash,
    Mean,
    assert_same_run,
    at_batch,
    crash,
    quietly,
    saved_state,
    scenes,
    tiny,
)


def released() -> dict:
    return weights.load(weights.path_of(weights.RELEASED))[0]


def assert_same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def first_state(config) -> TrainState:
    task = experiment.create_task(config)
    return init_state(task, make_optimizer(config), config, scenes("train", (0, 1)))


# ---- Where the parameters come from


@pytest.mark.parametrize("averaged", [True, False])
def test_a_runs_parameters_with_a_fresh_optimiser(toy, tmp_path, averaged):
    quietly(tiny(steps=3, ema=0.9 * averaged), tmp_path / "source")
    source = saved_state(tmp_path / "source", 3)
    wanted = source["['ema']['w']" if averaged else "['params']['w']"]
    config = tiny(steps=2, checkpoint_every=1, ema=0.5, seed=7, init=str(tmp_path / "source"))
    state = first_state(config)
    np.testing.assert_array_equal(state.params["w"], wanted)
    np.testing.assert_array_equal(state.ema["w"], wanted)
    assert int(state.step) == 0 and all(not np.any(x) for x in jax.tree.leaves(state.opt_state))
    # The run itself begins there: Adam's first step moves each parameter by the learning rate.
    quietly(config, tmp_path / "run")
    moved = saved_state(tmp_path / "run", 1)["['params']['w']"] - wanted
    np.testing.assert_allclose(np.abs(moved), config.optimizer.learning_rate, rtol=1e-3)


def test_a_resumed_run_needs_its_source_no_more(toy, tmp_path):
    toy(noise=1.0)
    quietly(tiny(steps=3), tmp_path / "source")
    config = tiny(steps=6, checkpoint_every=2, log_every=2, ema=0.9, init=str(tmp_path / "source"))
    quietly(config, tmp_path / "straight")
    with at_batch(6, crash), pytest.raises(Crash):
        quietly(config, tmp_path / "parts")
    shutil.rmtree(tmp_path / "source")
    _, said = quietly(config, tmp_path / "parts")
    assert f"{tmp_path / 'parts'}: going on from step 4" in said
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 6)


def test_released_weights_of_each_task():
    whole = released()
    config = vha_config.get_config(2, "variant=patch,scale=demo")
    config.init = "released"
    assert_same(read_init(experiment.create_task(config), config), whole["vha"])
    config = refiner_config.get_config("scale=demo")
    config.init = "released-refiner"
    task = experiment.create_task(config)
    refiner = weights.read("refiner", "released-refiner", jax.eval_shape(task.init, jax.random.key(0)))
    assert_same(read_init(task, config), refiner)
    assert_same(jax.tree.map(np.asarray, first_state(config).params), refiner)


def test_a_whole_loco_needs_no_other_autoencoder(tmp_path):
    config = loco_config.get_config(2, "variant=patch,trunk=compact,scale=demo")
    config.vha, config.init = str(tmp_path / "none"), "released"
    task, whole = experiment.create_task(config), released()
    experiment.check_sources(config, task)
    assert_same(read_init(task, config), whole)
    config.refiner = str(tmp_path / "none")
    with pytest.raises(weights.WeightsError, match="config.refiner=.*none: .*no such file"):
        experiment.check_sources(config, experiment.create_task(config))


@dataclasses.dataclass(frozen=True)
class MeanAndMore(Mean):
    def init(self, key):
        return {**super().init(key), "more": {"a": {"k": jax.random.normal(key, (3,)), "b": jnp.zeros(2)}}}


def test_modules_that_are_missing_may_be_new(toy, tmp_path, monkeypatch):
    quietly(tiny(steps=1), tmp_path / "run")
    w = saved_state(tmp_path / "run", 1)["['params']['w']"]
    weights.save(tmp_path / "file", {"w": w}, {"kind": "vha"})
    weights.save(tmp_path / "half", {"w": w, "more": {"a": {"b": jnp.ones(2)}}}, {"kind": "vha"})
    weights.save(tmp_path / "nothing", {"other": {"k": w}}, {"kind": "vha"})
    monkeypatch.setattr(experiment, "create_task", lambda config: MeanAndMore())
    fresh = MeanAndMore().init(jax.random.key(tiny().seed))
    for name in ("run", "file"):
        config = tiny(init=str(tmp_path / name), ema=0.9)
        with pytest.raises(weights.WeightsError, match="missing more/a/k"):
            first_state(config)
        config.init_missing = True
        state = first_state(config)
        assert_same(state.params, {"w": w, "more": fresh["more"]})
        assert_same(state.ema, state.params)
    for name, wanted in (("half", "missing more/a/k"), ("nothing", "unexpected other/k")):
        with pytest.raises(weights.WeightsError, match=wanted):
            first_state(tiny(init=str(tmp_path / name), init_missing=True))


def test_what_is_not_trained_may_not_be_missing(toy, tmp_path, monkeypatch):
    class Frozen(MeanAndMore):
        frozen = ("more",)

    weights.save(tmp_path / "file", {"w": jnp.ones((14, 3))}, {"kind": "vha"})
    monkeypatch.setattr(experiment, "create_task", lambda config: Frozen())
    with pytest.raises(weights.WeightsError, match="^config.init=.*file: lacks more, which is not trained"):
        quietly(tiny(steps=1, init=str(tmp_path / "file"), init_missing=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_data_are_never_of_weights(toy, tmp_path, monkeypatch):
    class WithData(MeanAndMore):
        frozen = frozen_data = ("more",)

        def pretrained(self, params, initialised=False):
            return {**params, "more": jax.tree.map(lambda x: x + 1, self.init(jax.random.key(3))["more"])}

    weights.save(tmp_path / "file", {"w": jnp.ones((14, 3))}, {"kind": "vha"})
    monkeypatch.setattr(experiment, "create_task", lambda config: WithData())
    config = tiny(steps=2, checkpoint_every=1, init=str(tmp_path / "file"))
    made = WithData().pretrained({"w": jnp.ones((14, 3))})
    assert_same(first_state(config).params, made)
    quietly(config, tmp_path / "run")
    state = saved_state(tmp_path / "run", 2)
    np.testing.assert_array_equal(state["['params']['more']['a']['k']"], made["more"]["a"]["k"])
    read = read_init(WithData(), tiny(init=str(tmp_path / "run")))
    assert_same(read, {"w": state["['params']['w']"]})


# ---- What will not do


def test_what_does_not_fit_is_told_before_anything_is_written(toy, tmp_path):
    good = {"w": jnp.ones((14, 3))}
    weights.save(tmp_path / "other", {"w": jnp.zeros((14, 4))}, {"kind": "vha"})
    weights.save(tmp_path / "more", {**good, "x": jnp.zeros(3)}, {"kind": "vha"})
    weights.save(tmp_path / "less", {}, {"kind": "vha"})
    weights.save(tmp_path / "kind", good, {"kind": "refiner"})
    (tmp_path / "folder").mkdir()
    for name, wanted in (
        ("none", "no such file of weights"),
        ("folder", "not the folder of a run"),
        ("other", r"w has shape \(14, 4\), not \(14, 3\)"),
        ("more", "unexpected x"),
        ("less", "missing w"),
        ("kind", "holds weights of kind 'refiner', not vha"),
    ):
        with pytest.raises(weights.WeightsError) as error:
            quietly(tiny(steps=1, init=str(tmp_path / name)), tmp_path / "run")
        error.match(f"^config.init={tmp_path / name}: .*")
        error.match(wanted)
        assert str(error.value).count("config.init=") == 1
    assert not (tmp_path / "run").exists()
    weights.save(tmp_path / "good", good, {"kind": "vha"})
    quietly(tiny(steps=1, init=str(tmp_path / "good")), tmp_path / "run")


def test_weights_of_another_grid_are_refused():
    config = vha_config.get_config(2, "variant=patch")
    config.init = "released"
    wanted = "^config.init=released: trained for something else: volume.depth_bins is 80 there, 316 here"
    with pytest.raises(weights.WeightsError, match=wanted):
        read_init(experiment.create_task(config), config)


def test_a_run_that_is_there_is_not_begun_anew(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path / "run")
    before = saved_state(tmp_path / "run", 2)
    with pytest.raises(checkpoints.CheckpointError, match="init: '' there, '.*' now"):
        quietly(tiny(steps=2, init=str(tmp_path / "none")), tmp_path / "run")
    after = saved_state(tmp_path / "run", 2)
    assert all((after[name] == before[name]).all() for name in before)
