"""Evaluation: which frames and which parameters are scored, and which files it writes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from loco_jax import evaluate, experiment
from loco_jax.ops import distributed
from loco_jax.pose.association import People
from loco_jax.runs import checkpoints
from loco_jax.runs import config as configs
from loco_jax.tasks.people import PeopleTask
from tests.support import Mean, quietly, saved_state, scenes, tiny


def test_evaluation_of_a_run(toy, tmp_path):
    config = tiny(steps=3, ema=0.5)
    quietly(config, tmp_path)
    said = []
    summary = evaluate.evaluate(config, str(tmp_path), said.append)
    out = tmp_path / "eval"
    assert sorted(path.name for path in out.iterdir()) == ["frame_0.png", "frame_1.png", "results.json", "table.md"]
    assert all((out / f"frame_{i}.png").read_bytes().startswith(b"\x89PNG") for i in range(2))
    assert json.loads((out / "results.json").read_text()) == summary
    assert (out / "table.md").read_text() == "| 5 |\n" and "| 5 |" in said
    # The first frames of the test split, once each and in order, with the averaged parameters.
    np.testing.assert_allclose(summary["marks"], scenes("test", range(5)).joints[:, 0, 0, 0], rtol=1e-6)
    assert summary["w"] == [pytest.approx(saved_state(tmp_path, 3)["['ema']['w']"][0, 0])]
    assert summary["step"] == 3 and "crowd" in summary["data"]
    # The validation split's scores stand beside those of the test split.
    other = evaluate.evaluate(config, str(tmp_path), said.append, split="validation")
    np.testing.assert_allclose(other["marks"], scenes("validation", range(5)).joints[:, 0, 0, 0], rtol=1e-6)
    assert json.loads((tmp_path / "eval_validation" / "results.json").read_text()) == other
    assert json.loads((out / "results.json").read_text()) == summary and "validation split" in other["data"]
    # What only training reads need not be said again, and nothing else may differ.
    assert evaluate.evaluate(tiny(seed=1, optimizer={"learning_rate": 9.0}), str(tmp_path), said.append) == summary
    with pytest.raises(checkpoints.CheckpointError, match="volume.depth_bins: .* there, 33 now"):
        evaluate.evaluate(tiny(volume={"depth_bins": 33}), str(tmp_path))


def test_evaluation_without_a_run(toy, tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no run here; train first, or give the right --workdir"):
        evaluate.evaluate(tiny(), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    configs.claim(str(tmp_path / "begun"), tiny())
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here; train first"):
        evaluate.evaluate(tiny(), str(tmp_path / "begun"))


def test_evaluation_leaves_a_save_under_way_alone(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    under_way = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp" / "state"
    under_way.mkdir(parents=True)
    evaluate.evaluate(tiny(steps=1), str(tmp_path), lambda _: None)
    assert under_way.exists()


@pytest.mark.parametrize("num_frames, wanted", [(1, 1), (7, 7), (90, 90), (200, 90)])
def test_evaluation_reads_each_frame_of_jta_once(toy, small_jta, num_frames, wanted):
    config = tiny(data={"source": "jta", "dir": str(small_jta), "max_people": 4})
    evaluator = evaluate.Evaluator(Mean(), config, distributed.make_mesh(1), "test")
    summary = evaluator.run({"w": jnp.zeros((14, 3))}, num_frames)
    marks = 2 + np.array([i * 90 // wanted for i in range(wanted)]) / 100  # evenly spread
    np.testing.assert_allclose(summary["marks"], marks, rtol=1e-6)


def test_pictures_of_the_best_and_the_worst(toy, tmp_path, monkeypatch):
    config = tiny(steps=3, test_frames=9)
    quietly(config, tmp_path)
    titles = []

    def picture(self, predicted, frames, index, title):
        titles.append((title, float(predicted["joints"][index, 0, 0, 0])))
        return Figure()

    monkeypatch.setattr(Mean, "ranked_by", "the mark", raising=False)
    monkeypatch.setattr(Mean, "rank", lambda self, record: record[0], raising=False)
    monkeypatch.setattr(Mean, "picture", picture)
    summary = evaluate.evaluate(config, str(tmp_path), lambda _: None)
    names = ("best", "upper_quartile", "median", "lower_quartile", "worst")
    assert {path.name for path in (tmp_path / "eval").glob("*.png")} == {f"{name}.png" for name in names}
    ordered = sorted(summary["marks"], reverse=True)
    wanted = {}
    for name, mark in zip(names, ordered[::2]):
        frame = summary["marks"].index(mark)
        wanted[f"test frame {frame}, {name.replace('_', ' ')} of 9: the mark is {mark:.3f}"] = mark
    assert dict(titles) == pytest.approx(wanted) and len(titles) == 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blind(Mean, PeopleTask):
    """Finds nobody in pictures."""

    network: None = None
    name = "blind"
    ranked_by = ""

    def people_of_picture(self, params, image, camera):
        return People(jnp.zeros((2, 14, 3)), jnp.zeros((2, 14)), jnp.zeros((14, 1), bool))


def test_tracks_of_sequences(toy_frames, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "create_task", lambda config: Blind())
    small = {"volume": {"image_size": (54, 96)}, "data": {"pictures": True}, "steps": 1}
    asked = {"sequences": 2, "frames": 4, "fps": 3.0}
    quietly(tiny(**small), tmp_path)
    assert "tracks" not in evaluate.evaluate(tiny(**small), str(tmp_path), lambda _: None)
    off = tiny(**small, tracks=asked | {"sequences": 0})
    assert "tracks" not in evaluate.evaluate(off, str(tmp_path), lambda _: None)
    monkeypatch.setattr(experiment, "check", lambda config: None)  # the config's task is not that of the toy
    summary = evaluate.evaluate(tiny(**small, tracks=asked), str(tmp_path), lambda _: None)
    assert json.loads((tmp_path / "eval" / "results.json").read_text()) == summary
    tracks = summary["tracks"]
    assert (tracks["sequences"], tracks["frames"], tracks["fps"]) == (2, 8, 3.0)
    assert list(tracks["systems"]) == ["blind", "blind, smoothed", "true poses"]
    blind, _, known = tracks["systems"].values()
    assert blind["misses"] == blind["true"] == known["true"] > 8 and blind["predicted"] == blind["hota"] == 0
    assert known["det_a"] == known["loc_a"] == 1 and known["hota"] > 0.9
