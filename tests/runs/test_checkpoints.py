"""Checkpoints: what is restored, what counts as damage, and what does not."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax import evaluate
from loco_jax.runs import checkpoints
from loco_jax.step import TrainState
from tests.support import (
    assert_same_run,
    quietly,
    saved_state,
    saved_steps,
    tiny,
)


def test_damaged_checkpoint_is_told_and_the_one_before_goes_on(toy, tmp_path):
    config = tiny(steps=8, checkpoint_every=4)
    quietly(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    newest = tmp_path / "run" / "checkpoints" / "8"
    for path in (newest / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Scores are of the newest or of none.
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/8: cannot be read.*\n?.*") as error:
        evaluate.evaluate(config, str(tmp_path / "run"), lambda _: None)
    assert "remove that folder to go on from the one before" in str(error.value)
    _, said = quietly(config, tmp_path / "run")
    assert f"{newest}: cannot be read" in said[0] and "left out; the one before is of step 4" in said[0]
    assert said[1] == f"{tmp_path / 'run'}: going on from step 4"
    assert_same_run(tmp_path / "whole", tmp_path / "run", 8)
    assert [path.name for path in (tmp_path / "run" / "damaged").iterdir()] == ["8"]
    evaluate.evaluate(config, str(tmp_path / "run"), lambda _: None)


ODD_FACTS = {"a list": "[]", "time": '{"commit_timestamp_nsecs": "now"}'}


@pytest.mark.parametrize("facts", [*ODD_FACTS.values(), "[" * 50_000], ids=[*ODD_FACTS, "too deep"])
def test_facts_of_another_shape_are_damage(toy, tmp_path, facts):
    """Of what Orbax reads of every checkpoint when it opens their folder."""
    config, run = tiny(steps=8, checkpoint_every=4), tmp_path / "run"
    quietly(config, run)
    shutil.copytree(run, tmp_path / "whole")
    newest = run / "checkpoints" / "8"
    (newest / "_CHECKPOINT_METADATA").write_text(facts)
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/8: cannot be read as a checkpoint"):
        evaluate.evaluate(config, str(run), lambda _: None)
    assert saved_steps(run) == [4, 8]
    _, said = quietly(config, run)
    assert f"{newest}: cannot be read" in said[0] and "left out; the one before is of step 4" in said[0]
    assert said[1] == f"{run}: going on from step 4"
    assert_same_run(tmp_path / "whole", run, 8)
    assert [path.name for path in (run / "damaged").iterdir()] == ["8"]


def test_an_older_checkpoint_of_odd_facts_does_not_hold_up_the_newest(toy, tmp_path):
    quietly(tiny(steps=8, checkpoint_every=4), tmp_path)
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("[]")
    _, said = quietly(tiny(steps=8, checkpoint_every=4), tmp_path)
    assert "checkpoints/4: cannot be read" in said[0] and said[0].endswith("Damaged, so it is left out.")
    assert said[1].endswith("going on from step 8") and saved_steps(tmp_path) == [8]


def test_the_only_checkpoint_is_not_passed_over(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    for name, content in (("position/metadata", "{}"), ("_CHECKPOINT_METADATA", "[]")):
        (tmp_path / "checkpoints" / "2" / name).write_text(content)
        with pytest.raises(checkpoints.CheckpointError, match="checkpoints/2: cannot be read"):
            quietly(tiny(steps=2), tmp_path)
    assert saved_steps(tmp_path) == [2] and not (tmp_path / "damaged").exists()


def test_a_run_of_before_losses_were_kept_beside_the_state_goes_on(toy, tmp_path):
    config = tiny(steps=4, checkpoint_every=2, log_every=2, ema=0.9)
    quietly(config, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "checkpoints" / "4")
    path = tmp_path / "older" / "checkpoints" / "2" / "position" / "metadata"
    content = json.loads(path.read_text())
    stages, _, _ = (
        content["position"].pop("stages"),
        content["position"].pop("watch"),
        content["bit_sums"].pop("position"),
    )
    content["position"] |= {"stage": stages.pop("stage"), "plateau": stages}
    path.write_text(json.dumps(content))
    _, said = quietly(config, tmp_path / "older")
    assert f"{tmp_path / 'older'}: going on from step 2" in said
    one, other = (saved_state(tmp_path / name, 4) for name in ("straight", "older"))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


PASSING = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "memory": MemoryError("no more"),
    "bucket": ValueError("UNAVAILABLE: no answer"),
    # As TensorStore says it.
    "reading": ValueError("UNKNOWN: Failed to read from file [os_error_code='5'] [source locations='file_util.cc:1']"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_no_damage(toy, tmp_path, monkeypatch, error):
    config = tiny(steps=4, checkpoint_every=2)
    quietly(config, tmp_path)

    def content():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}

    def spoil(kind, name):
        original = getattr(kind, name)

        def spoilt(self, directory, *arguments, **options):
            if directory.parent.name == "4":
                raise ValueError("somewhere in Orbax") from error
            return original(self, directory, *arguments, **options)

        monkeypatch.setattr(kind, name, spoilt)

    before, told = content(), "checkpoints/4: cannot be read now: somewhere in Orbax\nTry"
    spoil(ocp.handlers.PyTreeCheckpointHandler, "restore")
    with pytest.raises(checkpoints.CheckpointError, match=told):
        quietly(config, tmp_path)
    spoil(ocp.PyTreeCheckpointHandler, "metadata")
    with checkpoints.Checkpoints(str(tmp_path), read_only=True) as saved:
        with pytest.raises(checkpoints.CheckpointError, match=told):
            saved.shapes(averaged=False)
    assert before == content()


def test_parameters_or_their_average(tmp_path):
    place = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec())
    state = TrainState(
        step=jnp.int32(4),
        params={"w": jnp.arange(3.0)},
        opt_state=(jnp.ones(2),),
        ema={"w": jnp.arange(3.0) + 10},
    )
    like = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        assert saved.latest is None
        with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here"):
            saved.restore(state)
        saved.save(4, jax.device_put(state, place), {"data": [1, {"a": None}]})
        saved.save(4, state.replace(params={"w": jnp.zeros(3)}), {})  # what is saved stays
        saved.wait()
        assert saved.latest == 4
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        for averaged, wanted in ((False, [0, 1, 2]), (True, [10, 11, 12])):
            step, params = saved.restore_params(like, averaged)
            assert step == 4 and params["w"].tolist() == wanted
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        step, again, position = saved.restore(jax.eval_shape(lambda: state))
        assert position == {"data": [1, {"a": None}]}
        assert jax.tree.structure(again) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state)):
            np.testing.assert_array_equal(a, b)
        with pytest.raises(checkpoints.CheckpointError, match="cannot be read as a checkpoint of this config"):
            saved.restore(state.replace(params={"w": jnp.zeros(4)}))
