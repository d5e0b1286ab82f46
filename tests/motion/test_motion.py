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
    assert motion.write(NOBODY, tmp_path / "v", ["csv", "trc", "bvh"]) == ([], [])
    assert motion.write([], tmp_path / "v", ["csv"]) == ([], []) and not list(tmp_path.iterdir())


def test_people_without_known_joints_are_nobody(tmp_path):
    unknown = standing(3) * np.nan
    frames = [
        Tracked(t / 25, np.array([person, other]), np.zeros((2, 14)), np.array([1, 2]))
        for t, (person, other) in enumerate(zip(standing(3), unknown))
    ]
    assert [person.number for person in motion.tracks_of(frames).people] == [1]
    frames = [frame._replace(joints=np.stack([unknown[0], unknown[0]])) for frame in frames]
    assert motion.write(frames, tmp_path / "v", ["csv", "trc", "bvh"]) == ([], []) and not list(tmp_path.iterdir())


def test_unknown_formats_are_refused_with_the_list(tmp_path):
    with pytest.raises(
        ValueError, match="^--export=fbx: there is no such format; formats are c3d, trc, bvh, gltf, csv$"
    ):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv", "fbx"])
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_told_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygltflib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^pygltflib is not installed: pip install 'loco-jax\[files\]'$"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv", "gltf"])
    assert not list(tmp_path.iterdir())
    assert motion.write(frames_of({1: standing()}), tmp_path / "v", ["c3d", "csv", "trc", "bvh"]).written


@pytest.mark.parametrize("ending", [".csv", ".trc", "_p1.bvh"])
def test_a_folder_in_the_way_is_told_and_nothing_is_left(tmp_path, ending):
    (tmp_path / f"v{ending}").mkdir()
    with pytest.raises(ValueError, match=rf"v{ending}: is a folder; remove it, or name another --output"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["c3d", "bvh", "trc", "csv"])
    assert os.listdir(tmp_path) == [f"v{ending}"]  # no other format is written first


def test_a_file_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    from loco_jax.motion import trc

    motion.write(frames_of({1: standing()}), tmp_path / "v", ["trc"])
    earlier = (tmp_path / "v.trc").read_bytes()

    def fail(tracks, path):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setattr(trc, "write", fail)
    with pytest.raises(OSError, match="the disk is full"):
        motion.write(frames_of({1: standing(3)}), tmp_path / "v", ["trc"])
    assert (tmp_path / "v.trc").read_bytes() == earlier and os.listdir(tmp_path) == ["v.trc"]


def test_the_rate_is_the_mean_of_the_frames():
    times = [1.0, 1.1, 1.25, 1.5]
    assert motion.tracks_of([NOBODY[0]._replace(time=t) for t in times]).rate == pytest.approx(6)
    assert motion.tracks_of(NOBODY[:1]).rate == 30 == motion.tracks_of([]).rate


@pytest.mark.parametrize(
    "times", [[0, 0, 0], [0, 0.1, 0.1], [1, 0.5, 2], [3, 2, 1], [0, np.nan, 2], [9000, 9000.0001, 9001]]
)
def test_times_that_do_not_rise_are_refused(tmp_path, times):
    """Times of glTF's float32 have to differ, too."""
    frames = [frame._replace(time=float(t)) for frame, t in zip(frames_of({1: standing(3)}), [*times])]
    frames = [NOBODY[0]._replace(time=0.0)] * (times[0] == 9000) + frames
    with pytest.raises(ValueError, match="^the frames are not in order of time$"):
        motion.write(frames, tmp_path / "v", ["csv"])
    assert not list(tmp_path.iterdir())


def test_tracks_have_the_frames_of_people():
    people = {4: standing(5), 2: standing(5, at=(1, 7))}
    people[2][[0, 2, 4]] = np.nan
    people[4][0, 3] = np.nan
    tracks = motion.tracks_of(frames_of(people))
    assert [(number, first, len(joints)) for number, first, joints in tracks.people] == [(2, 1, 3), (4, 0, 5)]
    np.testing.assert_allclose(tracks.times, np.arange(5) / 25)
    (markers,) = tracks.markers()
    unknown = np.zeros((5, 2, 14), bool)
    unknown[[0, 2, 4], 0] = unknown[0, 1, 3] = True
    np.testing.assert_array_equal(np.isnan(markers).all(axis=-1), unknown)
    np.testing.assert_array_equal(np.isnan(markers).any(axis=-1), unknown)


# ---- Files of earlier runs and of others


def test_files_of_an_earlier_run_do_not_stay(tmp_path):
    formats = ["c3d", "trc", "bvh", "csv"]
    three, one = frames_of({i: standing(at=(i, 7)) for i in (1, 2, 12)}), frames_of({2: standing()})
    motion.write(three, tmp_path / "v[1]_p2", formats)
    others = {path.name for path in tmp_path.iterdir()}
    motion.write(three, tmp_path / "v[1]", formats)
    files = motion.write(one, tmp_path / "v[1]", ["bvh"])
    assert [path.name for path in files.removed] == ["v[1]_p1.bvh", "v[1]_p12.bvh"]
    assert {path.name for path in tmp_path.iterdir()} - others == {"v[1].c3d", "v[1].trc", "v[1].csv", "v[1]_p2.bvh"}
    files = motion.write(NOBODY, tmp_path / "v[1]", formats)
    assert files.written == [] and len(files.removed) == 4
    assert {path.name for path in tmp_path.iterdir()} == others


@pytest.mark.parametrize("name", ["v.c3d", "v.trc", "v.csv", "v_p1.bvh", "v_p7.bvh"])
@pytest.mark.parametrize("frames", [frames_of({1: standing()}), NOBODY], ids=["one", "nobody"])
def test_files_of_others_are_neither_replaced_nor_removed(tmp_path, name, frames):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: is not a file that predict or convert wrote; move it, or name"):
        motion.write(frames, tmp_path / "v", ["csv", "c3d", "trc", "bvh"])
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


def test_a_link_of_the_name_is_not_followed(tmp_path):
    (tmp_path / "v.csv").symlink_to("nowhere")
    with pytest.raises(ValueError, match="v.csv: is not a file that predict or convert wrote"):
        motion.write(frames_of({1: standing()}), tmp_path / "v", ["csv"])
    assert (tmp_path / "v.csv").is_symlink()
