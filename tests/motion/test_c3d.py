"""C3D, read by ezc3d and by the package c3d."""

import os
import shutil
import warnings

import numpy as np
import pytest

from loco_jax import motion
from loco_jax.geometry import skeleton
from loco_jax.motion import c3d as ours
from tests.support.walking import alone, frames_of, in_world, walker

ezc3d = pytest.importorskip("ezc3d")
c3d = pytest.importorskip("c3d")


def read(path):
    """The frames `[T, M, 5]` that the package c3d finds: places in mm, residuals and cameras."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of there being no analogue data
        return np.array([points for _, points, _ in c3d.Reader(file).read_frames()])


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """The path of a file with 20 people, some of whom are absent at times, and its points `[T, M, 3]` in metres."""
    people = {i: walker(6, at=(i - 10, 8 + i)) for i in range(1, 21)}
    people[1][2, 4] = np.nan
    people[3][4:] = np.nan
    folder = tmp_path_factory.mktemp("c3d")
    frames = frames_of(people)
    assert motion.write(frames, folder / "v", ["c3d"]).written == [folder / "v.c3d"]
    assert [path.name for path in folder.iterdir()] == ["v.c3d"]
    return folder / "v.c3d", np.moveaxis(in_world(people), 0, 1).reshape(6, -1, 3)


def test_unknown_joints_are_invisible(crowd):
    path, true = crowd
    unknown = np.isnan(true).any(axis=-1)
    assert unknown.sum() == 1 + 2 * 14
    found = ezc3d.c3d(str(path))["data"]
    points = found["points"][:3].transpose(2, 1, 0)
    np.testing.assert_array_equal(np.isnan(points).all(axis=-1), unknown)
    np.testing.assert_allclose(points, 1000 * true, atol=0.01)
    np.testing.assert_array_equal(found["meta_points"]["residuals"][0].T, np.where(unknown, -1, 0))
    frames = read(path)
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
    people = {1: walker(1)}
    motion.write(frames_of(people), tmp_path / "p", ["c3d"])
    points = ezc3d.c3d(str(tmp_path / "p.c3d"))["data"]["points"]
    assert points.shape == (4, 14, 1)
    np.testing.assert_allclose(points[:3, :, 0].T, 1000 * in_world(people)[0, 0], atol=0.01)


def test_as_many_frames_as_the_format_counts(tmp_path):
    joints = np.arange(65_535)[:, None, None] * np.ones((14, 3)) / 1000
    ours.write(alone(joints), tmp_path / "v.c3d")
    with (tmp_path / "v.c3d").open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = c3d.Reader(file)
        assert reader.last_frame == 65_535
    parameters = ezc3d.c3d(str(tmp_path / "v.c3d"))
    assert parameters["parameters"]["POINT"]["FRAMES"]["value"] == [65_535]
    points = parameters["data"]["points"]
    assert points.shape == (4, 14, 65_535)
    np.testing.assert_allclose(points[0, 3], np.arange(65_535), atol=0.01)


@pytest.mark.parametrize(("people", "count"), [(1, 65_536), (4682, 1)])
def test_more_than_the_format_counts_is_refused(tmp_path, people, count):
    """Without an error the rest would be lost."""
    frames = np.zeros((count, 14, 3))
    tracks = alone(frames)._replace(people=tuple(motion.Track(i + 1, 0, frames) for i in range(people)))
    with pytest.raises(
        ValueError, match="^C3D holds at most 65,535 frames and 65,535 points.*use trc, bvh, gltf or csv$"
    ):
        ours.write(tracks, tmp_path / "v.c3d")
    assert not list(tmp_path.iterdir())


def test_names_of_so_many_points_that_their_blocks_are_more_than_a_byte_counts(tmp_path):
    joints = np.random.default_rng(0).normal(size=(2, 14, 3))
    tracks = alone(joints)._replace(people=tuple(motion.Track(i, 0, joints + i) for i in range(1, 601)))
    ours.write(tracks, tmp_path / "v.c3d")
    found = ezc3d.c3d(str(tmp_path / "v.c3d"))
    parameters = found["parameters"]["POINT"]
    labels = [name for i in range(1, 34) for name in parameters[f"LABELS{i if i > 1 else ''}"]["value"]]
    assert labels == tracks.labels() and len(labels) == 8400
    np.testing.assert_allclose(found["data"]["points"][:3, -14:].transpose(2, 1, 0), 1000 * (joints + 600), atol=0.1)


@pytest.mark.parametrize("left", [512, -512])
def test_a_full_disk_is_told(tmp_path, monkeypatch, left):
    """ezc3d does not tell, nor does it tell of a folder that is not there."""
    write = ezc3d.c3d.write

    def cut(self, path):
        write(self, path)
        with open(path, "r+b") as file:
            file.truncate(left % file.seek(0, 2))

    monkeypatch.setattr(ezc3d.c3d, "write", cut)
    with pytest.raises(OSError, match="No space left"):
        ours.write(alone(np.zeros((40, 14, 3))), tmp_path / "v.c3d")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        ours.write(alone(np.zeros((1, 14, 3))), tmp_path / "none" / "v.c3d")


def test_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    assert motion.write(frames_of({1: walker(1)}), folder / "v", ["c3d"]).written == [folder / "v.c3d"]
    assert len(ezc3d.c3d(str(shutil.copy(folder / "v.c3d", tmp_path)))["data"]["points"][0]) == 14
