"""What all formats share: formats and their libraries, rates, and files that appear whole or not at all."""

import os
import sys

import numpy as np
import pytest

from loco_jax import motion
from loco_jax.pose.tracking import Tracked
from tests.support.walking import frames_of, standing

NOBODY = [Tracked(t / 10, np.zeros((0, 14, 3)), np.zeros((0, 14)), np.zeros(0, int)) for t in range(3)]


def test_nobody_makes_no_file(tmp_path):
    assert motion.write(NOBODY, tmp_path / "v", ["csv", "trc", "bvh"]) == [] == list(tmp_path.iterdir())
    assert motion.write([], tmp_path / "v", ["csv"]) == []


def test_unknown_formats_are_refused_with_the_list(tmp_path):
    with pytest.raises(
        ValueError, match="^--export=fbx: there is no such format; formats are c3d, trc, bvh, gltf, csv$"
    ):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv", "fbx"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "library"), [("c3d", "ezc3d"), ("gltf", "pygltflib")])
def test_a_missing_library_is_told_with_its_extra(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf"^{library} is not installed: pip install 'loco-jax\[files\]'$"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv", name])
    assert not list(tmp_path.iterdir())
    assert motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv", "trc", "bvh"])


@pytest.mark.parametrize("ending", [".csv", ".trc", "_p1.bvh"])
def test_a_folder_in_the_way_is_told_and_nothing_is_left(tmp_path, ending):
    (tmp_path / f"v{ending}").mkdir()
    with pytest.raises(ValueError, match=rf"v{ending}: is a folder; remove it, or name another --output"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", [ending[-3:]])
    assert os.listdir(tmp_path) == [f"v{ending}"]


def test_a_file_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    from loco_jax.motion import trc

    (tmp_path / "v.trc").write_text("earlier")

    def fail(tracks, path):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setattr(trc, "write", fail)
    with pytest.raises(OSError, match="the disk is full"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["trc"])
    assert (tmp_path / "v.trc").read_text() == "earlier" and os.listdir(tmp_path) == ["v.trc"]


def test_the_rate_is_the_mean_of_the_frames():
    times = [1.0, 1.1, 1.25, 1.5]
    assert motion.rate_of([NOBODY[0]._replace(time=t) for t in times]) == pytest.approx(6)
    assert motion.rate_of(NOBODY[:1]) == 30 == motion.rate_of([])


def test_tracks_have_all_frames(tmp_path):
    people = {4: standing(3), 2: standing(3, at=(1, 7))}
    people[2][1:] = np.nan
    people[4][0, 3] = np.nan
    tracks = motion.tracks_of(frames_of(people), 25.0)
    assert tracks.ids == (2, 4) and tracks.joints.shape == (2, 3, 14, 3)
    np.testing.assert_allclose(tracks.times, [0, 0.04, 0.08])
    unknown = np.zeros((2, 3, 14), bool)
    unknown[0, 1:] = unknown[1, 0, 3] = True
    np.testing.assert_array_equal(np.isnan(tracks.joints).any(axis=-1), unknown)
