"""A workdir belongs to one config; which fields may change."""

import json

import numpy as np
import pytest

from loco_jax import evaluate
from loco_jax.configs import loco as loco_config
from loco_jax.configs import refiner as refiner_config
from loco_jax.configs import vha as vha_config
from loco_jax.runs import checkpoints
from loco_jax.runs import config as configs
from tests.support import quietly, saved_state, saved_steps, tiny


def test_checkpoints_without_their_config_are_refused(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="has checkpoints but no config.json.*--workdir$"):
        quietly(tiny(steps=2, seed=1), tmp_path)
    assert saved_steps(tmp_path) == [2] and not (tmp_path / "config.json").exists()


def test_workdir_belongs_to_one_config(toy, tmp_path):
    config = tiny(steps=2)
    quietly(config, tmp_path)
    other = tiny(steps=2, seed=5)
    other.optimizer.learning_rate = 0.125
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(other, tmp_path)
    text = str(error.value)
    assert "  optimizer.learning_rate: 0.02 there, 0.125 now" in text and "  seed: 0 there, 5 now" in text
    assert text.count(" there, ") == 2 and "another --workdir" in text
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    free = {"max_minutes": 9.0, "eval_every": 1, "eval_frames": 1, "test_frames": 1, "pictures": 0}
    quietly(tiny(steps=2, checkpoint_every=1, **free), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(checkpoints.CheckpointError, match="config.json: is not a JSON config"):
        quietly(config, tmp_path)


def test_a_run_of_constant_learning_rate_may_become_longer_or_shorter(toy, tmp_path):
    toy(noise=1.0)

    def config(steps):
        config = tiny(steps=steps, checkpoint_every=100, ema=0.9)
        config.optimizer.schedule = "constant"
        return config

    quietly(config(6), tmp_path / "straight")
    for steps in (2, 6):
        summary, said = quietly(config(steps), tmp_path / "parts")
        assert said[-1] == f"{tmp_path / 'parts'}: {steps} steps done" and summary
    one, other = saved_state(tmp_path / "straight", 6), saved_state(tmp_path / "parts", 6)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    _, said = quietly(config(4), tmp_path / "parts")
    assert said[-1] == f"{tmp_path / 'parts'}: 6 steps done" and saved_steps(tmp_path / "parts") == [2, 6]


def test_where_the_learning_rate_follows_the_length_it_is_told(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(tiny(steps=3), tmp_path)
    assert "  steps: 2 there, 3 now\n" in str(error.value)
    assert "falls over the whole run (config.optimizer.schedule=cosine)" in str(error.value)
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(tiny(steps=2, seed=3), tmp_path)
    assert "schedule" not in str(error.value)


def test_what_changes_no_number_is_free(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    for field, value in (("quiet", False), ("keep_checkpoints", 5), ("data.dir", "/elsewhere")):
        other = tiny(steps=1)
        other.update_from_flattened_dict({field: value})
        configs.claim(str(tmp_path), other)


def test_whom_a_run_names_is_free(toy, tmp_path):
    """Of a section that is free, each field."""
    tracks = {"sequences": 0, "frames": 30, "fps": 3.0}
    quietly(tiny(steps=1, people={"min_score": 0.2, "overlap": 0.1}, tracks={**tracks, "smooth": True}), tmp_path)
    other = tiny(steps=1, people={"min_score": 0.4, "overlap": 0.0}, tracks=tracks)  # "smooth" is a field of before
    configs.check(str(tmp_path), other)
    assert evaluate.evaluate(other, str(tmp_path), lambda _: None)["step"] == 1


def test_runs_of_before_a_field_go_on_and_are_scored(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in configs.LATER_FIELDS:
        config.pop(name, None)
    del config["data"]["crowd"], config["data"]["render_batch"]
    path.write_text(json.dumps(config))
    assert evaluate.evaluate(tiny(), str(tmp_path), lambda _: None)["step"] == 1
    with pytest.raises(checkpoints.CheckpointError) as error:
        configs.check(str(tmp_path), tiny(steps=1, init="elsewhere"))
    told = [line.split(":")[0].strip() for line in str(error.value).splitlines() if " there, " in line]
    assert told == ["init"]
    configs.check(str(tmp_path), tiny(steps=1))


@pytest.mark.parametrize("task", ["vha", "volumetric"])
def test_fields_of_before_with_the_values_of_today_are_left_out(task):
    content = {"task": task, "model": {"positive_weight": 0.0}, "optimizer": {"orthogonalise_every": 1}}
    assert configs.completed(content)["model"] == content["optimizer"] == {}
    content = {"task": task, "model": {"positive_weight": 3.0}}
    assert configs.completed(content)["model"] == {"positive_weight": 3.0}


def test_what_only_training_did_does_not_matter_to_scores(toy, tmp_path):
    """A run with a field of before that changed its training is scored, but does not go on."""
    quietly(tiny(steps=1), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["model"]["positive_weight"] = 3.0
    path.write_text(json.dumps(config))
    assert evaluate.evaluate(tiny(steps=1), str(tmp_path), lambda _: None)["step"] == 1
    with pytest.raises(checkpoints.CheckpointError, match="model.positive_weight: 3.0 there"):
        configs.check(str(tmp_path), tiny(steps=1))


def test_later_fields_change_nothing_by_default():
    for config in (vha_config.get_config(2), refiner_config.get_config(), loco_config.get_config(2)):
        fields = config.to_dict()
        for name, value in configs.LATER_FIELDS.items():
            section, last = configs.section_of(fields, name)
            if last in section and name != "data.crowd":
                assert section[last] == value, name
        # The default of the crowd's numbers is that of the scale, at full scale.
        crowd = configs.section_of(fields, "data.crowd")[0].get("crowd", configs.LATER_FIELDS["data.crowd"])
        assert crowd == configs.LATER_FIELDS["data.crowd"]


def test_workdir_without_checkpoints_takes_any_config(tmp_path):
    configs.claim(str(tmp_path), tiny())
    configs.claim(str(tmp_path), tiny(seed=3))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
