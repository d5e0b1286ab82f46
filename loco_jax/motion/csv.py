"""CSV: a row for each frame, person and joint, with the coordinates of predict's JSON."""

import csv
import os
from collections.abc import Sequence

import numpy as np

from loco_jax.geometry import skeleton
from loco_jax.pose.tracking import Tracked

COLUMNS = ("frame", "time", "person", "joint", "x", "y", "z", "score")


def write(frames: Sequence[Tracked], path: os.PathLike | str) -> None:
    """Writes times in seconds and joints in metres in camera coordinates. Cells of unknown joints are blank."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for t, frame in enumerate(frames):
            for number, joints, scores in zip(frame.ids, frame.joints, frame.scores):
                for name, xyz, score in zip(skeleton.JOINTS, joints, scores):
                    place = [f"{x:.4f}" for x in xyz] if np.isfinite(xyz).all() else [""] * 3
                    rows.writerow([t, f"{frame.time:.4f}", int(number), name, *place, f"{score:.4f}"])
