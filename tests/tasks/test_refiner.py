"""The refiner's task: what is spoilt, what is counted, and that it learns to do better than the spoilt poses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from loco_jax import evaluate, experiment, report, train, weights
from loco_jax import step as training
from loco_jax.configs import refiner as refiner_config
from loco_jax.data import streams
from loco_jax.geometry import skeleton
from loco_jax.models import refiner as network
from loco_jax.ops import distributed
from loco_jax.pose import association, refinement
from loco_jax.step import train_step
from loco_jax.tasks import refiner


@functools.lru_cache
def _setting():
    config = refiner_config.get_config("scale=demo")
    config.steps = 150
    config.optimizer.warmup = 20
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    stream = streams.CrowdStream(streams.crowd_of(config), "train", config.data.batch_size, sharding)
    return config, experiment.create_task(config), next(stream)


def _everywhere():
    """Where a step leaves its state: placed there before the first, the second is not compiled anew."""
    return NamedSharding(distributed.make_mesh(1), PartitionSpec())


def test_what_is_spoilt_is_what_it_says():
    _, task, frames = _setting()
    spoilt = jax.device_get(jax.jit(task.spoil)(frames, jax.random.key(1)))
    joints = np.asarray(frames.joints)
    assert set(np.unique(spoilt.kind[..., 0])) == {0, 1} and spoilt.known[..., 0].all()
    np.testing.assert_array_equal(spoilt.joints[spoilt.kind == 0], joints[spoilt.kind == 0])
    assert not spoilt.joints[spoilt.kind == 3].any()
    np.testing.assert_array_equal(spoilt.known, spoilt.kind != 3)
    changed = (spoilt.kind == 1) & np.asarray(frames.present)
    moved = np.linalg.norm((spoilt.joints - joints)[changed], axis=-1)
    ray = joints[changed] / np.linalg.norm(joints[changed], axis=-1, keepdims=True)
    along = np.sum((spoilt.joints - joints)[changed] * ray, axis=-1)
    across = np.sqrt((np.square(moved) - np.square(along)) / 2)  # a mean over the two axes
    rms = np.sqrt(np.mean(np.square(across)))
    assert rms == pytest.approx(task.move_by * np.sqrt(4 / 3), rel=0.15)  # sizes uniform up to twice `move_by`
    assert np.sqrt(np.mean(np.square(along))) == pytest.approx(task.along_ray * rms, rel=0.15)
    shares = [(spoilt.kind[..., 1:] == k).mean() for k in range(4)]
    assert shares[3] == pytest.approx(task.missing, abs=0.05)
    assert shares[0] == pytest.approx((1 - task.moved) * (shares[0] + shares[1]), abs=0.03)


def test_nobody_has_no_error():
    _, task, frames = _setting()
    frames = jax.device_get(frames._replace(present=np.zeros_like(frames.present)))
    zeros = np.zeros_like(frames.joints)
    found = refiner.Found(zeros, zeros, zeros, np.zeros(frames.present.shape, np.int32))
    summary = task.summary(task.score(found, frames))
    assert set(summary["joints"].values()) == {0}
    nothing = {*summary["before_cm"].values(), *summary["after_cm"].values(), summary["clean_cm"]}
    assert nothing == {None} and task.headline(summary) == {}
    assert report.table_of("refiner", summary)


def test_normalising_and_back():
    rng = np.random.default_rng(0)
    joints = jnp.asarray(rng.normal(0, 0.3, (5, 14, 3)) + [1, 2, 9], jnp.float32)
    offsets = network.normalise(joints, jnp.ones((5, 14), bool))
    np.testing.assert_allclose(network.restore(offsets, joints[:, 0]), joints, atol=1e-5)
    holes = network.normalise(joints, jnp.zeros((5, 14), bool))
    np.testing.assert_array_equal(holes, np.full((5, 39), -1))


def test_errors_are_summed_by_what_happened():
    _, task, frames = _setting()
    there = np.asarray(frames.present).all(axis=-1)
    joints = np.asarray(frames.joints)
    kind = np.random.default_rng(0).integers(0, 4, joints.shape[:3])
    away = np.array([0.1, 0.2, 0.3, 0.4])[kind]
    found = refiner.Found(joints, joints + away[..., None] * [0, 1, 0], joints + [0.05, 0, 0], kind)
    summary = task.summary(task.score(found, frames))
    for k, name in enumerate(refiner.KINDS):
        assert summary["after_cm"][name] == pytest.approx(10 * (k + 1), rel=1e-3)
        assert summary["joints"][name] == (kind[..., 1:] == k)[there].sum()
    assert summary["clean_cm"] == pytest.approx(5, rel=1e-3)
    assert "missing" in report.table_of("refiner", summary)


def test_it_learns_to_fill_holes():
    config, task, frames = _setting()
    optimizer = training.make_optimizer(config)
    state = jax.device_put(training.init_state(task, optimizer, config), _everywhere())
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, stage=0, seed=0, ema=0.0))
    predict = jax.jit(functools.partial(task.predict, thorough=False))

    def errors(params):
        found = jax.device_get(predict(params, frames, jax.random.key(5)))
        return task.summary(task.score(found, jax.device_get(frames)))

    before = errors(state.params)
    for _ in range(config.steps):
        state, _ = step(state, frames)
    after = errors(state.params)
    assert after["after_cm"]["missing"] < 0.5 * before["after_cm"]["missing"]
    found = jax.device_get(predict(state.params, frames, jax.random.key(5)))
    assert len(report.picture(task, found, frames, 0, "x").axes) >= 2


def _toy(frames):
    """What a predictor finds that has all joints but the head 0.3 m too low, and its heads 0.5 m too far."""
    true = np.asarray(frames.joints)[np.asarray(frames.present).all(axis=-1)]
    found = true + np.where(np.arange(14)[:, None] == 0, [0, 0, 0.5], [0, 0.3, 0])
    found[:, 3:5] = 0  # and never an arm
    return {"joints": found.astype(np.float32), "true": true}


def _of_a_toy(monkeypatch):
    """A config and its task, which learns from the toy's people alone, and those people."""
    config, _, frames = _setting()
    toy = _toy(frames)
    config = config.copy_and_resolve_references()
    config.spoil.update(predictor="toy", found=len(toy["true"]), share=1.0)
    monkeypatch.setattr(experiment, "find_people", lambda config: toy)
    return config, experiment.create_task(config), toy


def test_what_a_predictor_found_is_drawn_with_its_holes(monkeypatch):
    _, task, toy = _of_a_toy(monkeypatch)
    joints, known, true = jax.device_get(task.draw(toy, jax.random.key(0), 200))
    assert known[:, 0].all() and not known[(joints == 0).all(axis=-1)].any()
    assert 0.6 < known[(joints != 0).any(axis=-1)].mean() < 0.95  # some more are missing
    mirrored = (joints[:, 6] == 0).all(axis=-1)  # the toy lacks right elbows
    assert 0.3 < mirrored.mean() < 0.7
    for own, person, is_mirrored in zip(joints, true, mirrored):
        if is_mirrored:
            own, person = (x[list(skeleton.MIRROR)] * np.float32([-1, 1, 1]) for x in (own, person))
        same = [i for i in range(len(toy["true"])) if (toy["true"][i] == person).all()]
        assert any((toy["joints"][i] == own).all() for i in same)


def test_it_learns_what_a_predictor_does_wrong(monkeypatch):
    """Joints are wanted where they truly are, from where the head was found."""
    config, task, toy = _of_a_toy(monkeypatch)
    frames = _setting()[2]
    optimizer = training.make_optimizer(config)
    state = jax.device_put(training.init_state(task, optimizer, config), _everywhere())
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, stage=0, seed=0, ema=0.0))
    for _ in range(config.steps):
        state, _ = step(state, frames)
    jax.tree.map(np.testing.assert_array_equal, state.params["found"], toy)
    people = association.People(
        jnp.asarray(toy["joints"]),
        jnp.asarray((toy["joints"] != 0).any(axis=-1), jnp.float32),
        jnp.zeros((14, 1), bool),
    )
    better = refinement.refine({"params": state.params["params"]}, people)
    before, after = (np.linalg.norm(x - toy["true"], axis=-1) for x in (toy["joints"], better.joints))
    found = [1, *range(5, 14)]
    assert after[:, found].mean() < 0.5 * before[:, found].mean() == pytest.approx(0.15, rel=1e-3)
    assert after[:, 3:5].mean() < 0.4  # the arm that was never found
    np.testing.assert_allclose(after[:, 0], 0.5, rtol=1e-3)  # heads stay


def test_the_released_predictor_finds_people_in_training_scenes():
    config = refiner_config.get_config("scale=demo")
    config.quiet = True
    config.spoil.update(predictor="released", found=12)
    task = experiment.create_task(config)
    found = task.find_people()
    known = (found["joints"] != 0).any(axis=-1)
    assert found["joints"].shape == found["true"].shape == (12, 14, 3) and known[:, 0].all()
    away = np.linalg.norm(found["joints"] - found["true"], axis=-1)
    assert (np.where(known, away, 0).sum(axis=1) / known.sum(axis=1) < 1.2).all() and away[known].max() > 0.01
    assert (np.abs(found["true"] - found["true"][:, :1]) < 2).all()  # whole people
    assert task.init(jax.random.key(0))["found"]["true"].shape == found["true"].shape


def test_a_refiner_that_starts_from_weights_has_people_found_all_the_same(monkeypatch, tmp_path):
    config, task, toy = _of_a_toy(monkeypatch)
    released = weights.load(weights.path_of("released-refiner"))[0]
    config.init, config.quiet, config.test_frames, config.pictures = "released-refiner", True, 1, 0
    params = training.init_state(task, training.make_optimizer(config), config).params
    jax.tree.map(np.testing.assert_array_equal, params, {**released, "found": toy})
    # To score weights nobody need be found, and weights hold nobody.
    monkeypatch.setattr(experiment, "find_people", lambda config: 1 / 0)
    summary = evaluate.evaluate(config, str(tmp_path), lambda _: None, source="released-refiner")
    assert summary["frames"] == 1


@pytest.mark.parametrize("init", ["", "released-refiner"])
@pytest.mark.parametrize(
    ("source", "word"),
    [("nowhere", "no such file"), ("configs", "not the folder of a run"), (__file__, "cannot be read")],
)
def test_a_predictor_that_is_none_is_told_before_anything_is_made(source, word, init, tmp_path):
    config = refiner_config.get_config("scale=demo")
    config.spoil.predictor, config.init = source, init
    with pytest.raises(weights.WeightsError, match=f"config.spoil.predictor={source}: .*{word}"):
        train.train(config, str(tmp_path / "run"), say=lambda _: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"missing": 0.98}, {"share": 1.5}, {"found": 0}])
def test_shares_that_cannot_be(change):
    config = refiner_config.get_config()
    config.spoil.update(change)
    with pytest.raises(ValueError, match="config.spoil"):
        experiment.create_task(config)
