"""TRC, read by a reader that follows the format's description."""

import numpy as np
import pytest

from loco_jax import motion
from loco_jax.geometry import skeleton
from loco_jax.pose import ground
from tests.support.walking import frames_of, in_world, standing, walker


def read(path):
    """The header's fields, labels, times in seconds, and markers `[T, M, 3]`, NaN where cells are blank."""
    lines = [line.split("\t") for line in path.read_text().split("\n")]
    header = dict(zip(lines[1], lines[2]))
    labels = [cell for cell in lines[3][2:] if cell]
    assert lines[0][:3] == ["PathFileType", "4", "(X/Y/Z)"] and lines[3][:2] == ["Frame#", "Time"]
    assert lines[4][2:] == [f"{axis}{n}" for n in range(1, len(labels) + 1) for axis in "XYZ"] and lines[5] == [""]
    rows = [line for line in lines[6:] if line != [""]]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1)) and {len(row) for row in rows} == {
        2 + 3 * len(labels)
    }
    cells = np.array([[float(cell) if cell else np.nan for cell in row[2:]] for row in rows])
    return header, labels, np.array([float(row[1]) for row in rows]), cells.reshape(len(rows), -1, 3)


def test_markers_are_in_millimetres_and_unknown_ones_blank(tmp_path):
    people = {1: walker(6), 3: walker(6, at=(1, 9))}
    people[1][2, 4] = np.nan
    people[3][4:] = np.nan
    motion.write(frames_of(people), tmp_path / "v", ["trc"])
    assert (tmp_path / "v.trc").read_text().startswith("PathFileType\t4\t(X/Y/Z)\tloco_jax.trc\n")
    header, labels, times, markers = read(tmp_path / "v.trc")
    assert header["Units"] == "mm" and float(header["DataRate"]) == float(header["CameraRate"]) == 25
    assert int(header["NumFrames"]) == 6 and int(header["NumMarkers"]) == 28
    assert labels == [f"p{i}_{name}" for i in (1, 3) for name in skeleton.JOINTS]
    np.testing.assert_allclose(times, np.arange(6) / 25, atol=1e-6)
    true = np.concatenate([people[1], people[3]], axis=1)
    np.testing.assert_array_equal(np.isnan(markers), np.isnan(true))
    # Distances do not depend on the axes.
    between = np.linalg.norm(markers[:, 0] - markers[:, 11], axis=-1)
    np.testing.assert_allclose(between, 1000 * np.linalg.norm(true[:, 0] - true[:, 11], axis=-1), atol=0.01)


@pytest.mark.parametrize("pitch", [0.0, 0.4])
def test_people_stand_upright_on_the_ground(tmp_path, pitch):
    """The camera looks down by `pitch`, 2 m above the ground."""
    c, s = np.cos(pitch), np.sin(pitch)
    tilt = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    people = {1: standing(at=(-1, 7)) @ tilt, 2: standing(at=(1, 5)) @ tilt, 3: standing(at=(2, 11)) @ tilt}
    motion.write(frames_of(people), tmp_path / "v", ["trc"])
    _, labels, _, markers = read(tmp_path / "v.trc")
    place = {label: markers[:, i] for i, label in enumerate(labels)}
    ankles = np.concatenate([place[f"p{i}_{side}_ankle"] for i in (1, 2, 3) for side in ("left", "right")])
    assert np.abs(ankles[:, 1]).max() < 150 and place["p1_head_top"][0, 1] == pytest.approx(1750, abs=60)
    # Right of the camera is +x, and who is farther from it has a lesser z.
    assert place["p2_neck"][0, 0] - place["p1_neck"][0, 0] == pytest.approx(2000, abs=20)
    assert place["p1_neck"][0, 2] - place["p2_neck"][0, 2] == pytest.approx(-2000, abs=60)


def test_axes_keep_handedness():
    place = ground.Ground(np.array([0.1, -0.9, -0.3]) / np.linalg.norm([0.1, -0.9, -0.3]), 1.6)
    zero, *axes = motion.to_world(np.concatenate([np.zeros((1, 3)), np.eye(3)]), place)
    assert zero.tolist() == [0, 1.6, 0]
    assert np.linalg.det(np.stack(axes) - zero) == pytest.approx(1.0)


def test_times_are_those_of_the_frames(tmp_path):
    """As of a telephone's video, whose frames are not evenly spaced."""
    frames = [f._replace(time=t) for f, t in zip(frames_of({1: standing(4)}), [5.0, 5.04, 5.12, 5.15])]
    motion.write(frames, tmp_path / "v", ["trc"])
    header, _, times, _ = read(tmp_path / "v.trc")
    np.testing.assert_allclose(times, [0, 0.04, 0.12, 0.15], atol=1e-6)
    assert float(header["DataRate"]) == pytest.approx(20, rel=1e-5)


def test_names_of_any_kind(tmp_path):
    """A name in the first line could break the table or the text's encoding; readers ignore it."""
    for name in ("tab\tbed", "byte\udcff", ".hidden.part"):
        motion.write(frames_of({1: standing(2)}), tmp_path / name, ["trc"])
        assert read(tmp_path / f"{name}.trc")[3].shape == (2, 14, 3)


def test_many_frames_and_people_who_come_and_go(tmp_path):
    people = {1: walker(300), 2: walker(300, at=(2, 9))}
    people[1][40:] = people[2][:250] = people[2][290:] = np.nan
    motion.write(frames_of(people), tmp_path / "v", ["trc"])
    _, _, _, markers = read(tmp_path / "v.trc")
    np.testing.assert_allclose(markers.reshape(300, 2, 14, 3).swapaxes(0, 1), 1000 * in_world(people), atol=0.01)
