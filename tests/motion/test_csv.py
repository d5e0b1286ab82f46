"""CSV, read with Python's csv module."""

import csv

import numpy as np
import pytest

from loco_jax import motion
from loco_jax.geometry import skeleton
from tests.support.walking import frames_of, walker


def test_a_row_for_each_frame_person_and_joint(tmp_path):
    people = {2: walker(3), 5: walker(3, at=(1, 9))}
    people[2][1, 4] = np.nan
    people[5][2] = np.nan
    frames = [frame._replace(time=5 + frame.time) for frame in frames_of(people)]
    assert motion.write(frames, tmp_path / "a.b", ["csv"]).written == [tmp_path / "a.b.csv"]
    with open(tmp_path / "a.b.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 14
    keys = [(int(row["frame"]), int(row["person"]), row["joint"]) for row in rows]
    assert keys == [(t, i, name) for t, i in ((0, 2), (0, 5), (1, 2), (1, 5), (2, 2)) for name in skeleton.JOINTS]
    for (t, number, name), row in zip(keys, rows):
        xyz = people[number][t, skeleton.JOINTS.index(name)]
        assert float(row["time"]) == pytest.approx(5 + t / 25)
        if np.isnan(xyz).any():
            assert row["x"] == row["y"] == row["z"] == "" and float(row["score"]) == 0
        else:
            assert [float(row[c]) for c in "xyz"] == pytest.approx(xyz, abs=1e-4) and float(row["score"]) == 0.5
    assert sum(row["x"] == "" for row in rows) == 1
