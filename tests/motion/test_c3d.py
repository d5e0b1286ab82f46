"""C3D, written by ezc3d, read by it and by the package c3d."""

import warnings

import numpy as np
import pytest

from loco_jax import motion
from loco_jax.geometry import skeleton
from tests.support.walking import frames_of, walker

ezc3d = pytest.importorskip("ezc3d")
c3d = pytest.importorskip("c3d")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """The path of a file with 20 people, some of whom are absent at times, and its points `[T, M, 3]` in metres."""
    people = {i: walker(6, at=(i - 10, 8 + i)) for i in range(1, 21)}
    people[1][2, 4] = np.nan
    people[3][4:] = np.nan
    folder = tmp_path_factory.mktemp("c3d")
    frames = frames_of(people)
    assert motion.write(frames, folder / "v", ["c3d"]) == [folder / "v.c3d"]
    assert [path.name for path in folder.iterdir()] == ["v.c3d"]
    joints = motion.tracks_of(frames, 25.0).joints
    return folder / "v.c3d", np.moveaxis(joints, 0, 1).reshape(6, -1, 3)


def test_unknown_joints_are_invisible(crowd):
    path, true = crowd
    unknown = np.isnan(true).any(axis=-1)
    assert unknown.sum() == 1 + 2 * 14
    found = ezc3d.c3d(str(path))["data"]
    points = found["points"][:3].transpose(2, 1, 0)
    np.testing.assert_array_equal(np.isnan(points).all(axis=-1), unknown)
    np.testing.assert_allclose(points, 1000 * true, atol=0.01)
    np.testing.assert_array_equal(found["meta_points"]["residuals"][0].T, np.where(unknown, -1, 0))
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of there being no analogue data
        frames = np.array([points for _, points, _ in c3d.Reader(file).read_frames()])
    np.testing.assert_array_equal(frames[..., 3] == -1, unknown)
    np.testing.assert_allclose(frames[~unknown][:, :3], 1000 * true[~unknown], atol=0.01)


def test_rate_units_and_names_of_more_than_255_points(crowd):
    path, _ = crowd
    wanted = [f"p{i}_{name}" for i in range(1, 21) for name in skeleton.JOINTS]
    parameters = ezc3d.c3d(str(path))["parameters"]["POINT"]
    assert parameters["RATE"]["value"][0] == 25 and parameters["UNITS"]["value"] == ["mm"]
    assert parameters["X_SCREEN"]["value"] == ["+X"] and parameters["Y_SCREEN"]["value"] == ["+Y"]
    assert parameters["LABELS"]["value"] + parameters["LABELS2"]["value"] == wanted and len(wanted) > 255
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = c3d.Reader(file)
        assert reader.point_rate == 25 and reader.point_used == 280
        assert [label.strip() for label in reader.point_labels][:255] == wanted[:255]
        assert reader.get("POINT:UNITS").string_value.strip() == "mm"


def test_a_picture(tmp_path):
    frames = frames_of({1: walker(1)})
    motion.write(frames, tmp_path / "p", ["c3d"])
    points = ezc3d.c3d(str(tmp_path / "p.c3d"))["data"]["points"]
    assert points.shape == (4, 14, 1)
    np.testing.assert_allclose(points[:3, :, 0].T, 1000 * motion.tracks_of(frames, 30.0).joints[0, 0], atol=0.01)
