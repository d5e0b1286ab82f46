"""C3D, the binary format of motion capture, written by ezc3d."""

import os
import shutil
import tempfile

import numpy as np

from loco_jax.motion import Tracks


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes everybody's joints as points in millimetres, y up. Unknown joints are invisible: their residual is -1.

    Names of more than 255 points continue in the parameter LABELS2. Raises OSError if the file cannot be written.
    """
    import ezc3d  # of the extra [files]

    points = np.moveaxis(tracks.markers(), 0, -1).swapaxes(0, 1)  # [3, M, T]
    known = np.isfinite(points).all(axis=0)
    file = ezc3d.c3d()
    point = file["parameters"]["POINT"]
    point["RATE"]["value"] = [tracks.rate]
    point["UNITS"]["value"] = ["mm"]
    point["LABELS"]["value"] = tracks.labels()
    for axis, direction in {"X_SCREEN": "+X", "Y_SCREEN": "+Y"}.items():
        file.add_parameter("POINT", axis, [direction])
    file["data"]["points"] = np.concatenate([points, np.ones_like(points[:1])])
    file["data"]["meta_points"]["residuals"] = np.where(known, 0.0, -1.0)[None]
    file["data"]["meta_points"]["camera_masks"] = np.zeros((7, *known.shape), bool)
    with tempfile.TemporaryDirectory() as folder:  # ezc3d gives every file the ending .c3d
        made = os.path.join(folder, "all.c3d")
        file.write(made)
        shutil.copyfile(made, path)
