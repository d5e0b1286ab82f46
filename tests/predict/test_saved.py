"""Results read again, and tracks made of the results of single pictures."""

import json

import numpy as np
import pytest

from loco_jax.pose import tracking
from loco_jax.pose.tracking import Sighting
from loco_jax.predict import saved
from loco_jax.predict.camera import Lens
from tests.support.discs import BODY, HEADS, Discs, process, record, save


def test_a_picture(tmp_path):
    hole = BODY + [0, 0, 6]
    hole[3] = 0
    save(tmp_path / "p.png", heads=HEADS)
    process(tmp_path / "p.png", "p", tmp_path, Lens(), Discs([hole]))
    (frame,) = saved.read(tmp_path / "p.json")
    assert frame.time == 0 and frame.ids.tolist() == [1, 2, 3, 4] and (frame.scores == 0.5).all()
    np.testing.assert_allclose(frame.joints[:3, 0], HEADS, rtol=0.02, atol=0.01)
    assert np.isnan(frame.joints[3, 3]).all() and np.isfinite(np.delete(frame.joints[3], 3, axis=0)).all()


def test_a_video(tmp_path):
    record(tmp_path / "v.mp4", [[(0.1 * t, 0, 3.0)] for t in range(4)] + [[]])
    process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
    frames = saved.read(tmp_path / "v.json")
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [frame.ids.tolist() for frame in frames] == [[1]] * 4 + [[]]
    assert frames[4].joints.shape == (0, 14, 3)


def test_nesting_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deep.json: is not JSON that predict wrote"):
        saved.read(tmp_path / "deep.json")


def test_tracks_of_pictures(tmp_path):
    """Two people who walk to the right, in pictures that were looked at one by one."""
    frames = []
    for t in range(3):
        path = save(tmp_path / f"{t}.png", heads=[(-1 + 0.1 * t, 0, 4), (0.8 + 0.1 * t, 0, 5)])
        process(path, str(t), tmp_path, Lens(), Discs())
        (frame,) = saved.read(tmp_path / f"{t}.json")
        order = slice(None, None, -1 if t == 1 else 1)
        frames.append(Sighting(t / 10, frame.joints[order], frame.scores[order]))
    assert [frame.ids.tolist() for frame in tracking.follow(frames)] == [[1, 2], [2, 1], [1, 2]]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"people": [{"id": 1}]}', json.dumps({"frames": [{"time": 0}]})])
def test_other_files(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x\.json: is not JSON that predict wrote"):
        saved.read(path)


@pytest.fixture
def picture(tmp_path):
    """The path of a picture's results, and their content."""
    process(save(tmp_path / "p.png", heads=HEADS), "p", tmp_path, Lens(), Discs())
    return tmp_path / "p.json", json.loads((tmp_path / "p.json").read_text())


def test_results_of_older_versions(picture):
    """Their ids are those of one frame, so they look like tracks but are none."""
    path, content = picture
    content["axes"] = content.pop("coordinates")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^.*p\.json: was written by an older version of predict; run predict again$"):
        saved.read(path)


@pytest.mark.parametrize(
    "ids", [(1, 1, 2), (0, 1, 2), (-1, 1, 2), (1, 2, 2.5), (1, 2, "3"), (1, 2, 10**30), (1, 2, None)]
)
def test_ids_are_different_integers_from_1(picture, ids):
    path, content = picture
    for person, number in zip(content["people"], ids):
        person["id"] = number
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"p\.json: is not JSON that predict wrote \(\w+Error: .+\)$"):
        saved.read(path)


@pytest.mark.parametrize("key", ["weights", "coordinates", "people"])
def test_keys_that_all_results_have(picture, key):
    path, content = picture
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"p\.json: is not JSON that predict wrote \(KeyError: '{key}'\)$"):
        saved.read(path)


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e400"])
def test_numbers_that_are_none(picture, value):
    """Joints that are not finite are unknown, and ids are refused."""
    path, content = picture
    text = json.dumps(content)
    path.write_text(text.replace('"id": 1', f'"id": {value}'))
    with pytest.raises(ValueError, match=r"p\.json: is not JSON that predict wrote"):
        saved.read(path)
