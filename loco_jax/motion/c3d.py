"""C3D, the binary format of motion capture, written by ezc3d."""

import errno
import os
import pathlib
import tempfile

import numpy as np

from loco_jax.motion import Tracks
from loco_jax.motion.names import WRITER

_MOST = 65_535  # frames, and points: the format counts both in 16 bits


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes everybody's joints as points in millimetres, y up. Unknown joints are invisible: their residual is -1.

    Names of more than 255 points continue in the parameters LABELS2, LABELS3 and so on. Raises ValueError for more
    frames or points than the format holds, and OSError if the file cannot be written, which is then removed.
    """
    import ezc3d  # of the extra [files]

    labels = tracks.labels()
    if max(len(tracks.times), len(labels)) > _MOST:
        raise ValueError(
            f"C3D holds at most {_MOST:,} frames and {_MOST:,} points, but there are {len(tracks.times):,} frames and "
            f"{len(labels):,} points; cut the video, or use trc, bvh, gltf or csv"
        )
    points = np.concatenate(list(tracks.markers())).reshape(-1, len(labels), 3).T  # [3, M, T]
    known = np.isfinite(points).all(axis=0)
    file = ezc3d.c3d()
    file.add_parameter("MANUFACTURER", "SOFTWARE", [f"{WRITER}.c3d"])
    point = file["parameters"]["POINT"]
    point["RATE"]["value"] = [tracks.rate]
    point["UNITS"]["value"] = ["mm"]
    point["LABELS"]["value"] = labels
    for axis, direction in {"X_SCREEN": "+X", "Y_SCREEN": "+Y"}.items():
        file.add_parameter("POINT", axis, [direction])
    file["data"]["points"] = np.concatenate([points, np.ones_like(points[:1])])
    file["data"]["meta_points"]["residuals"] = np.where(known, 0.0, -1.0)[None]
    file["data"]["meta_points"]["camera_masks"] = np.zeros((7, *known.shape), bool)
    path = pathlib.Path(path)
    path.touch()  # raises the errors that ezc3d does not report
    try:
        # ezc3d appends its ending to names and rejects paths that are not UTF-8, so it writes through a link.
        with tempfile.TemporaryDirectory() as folder:
            link = pathlib.Path(folder, "link.c3d")
            link.symlink_to(path.absolute())
            file.write(str(link))
        if path.stat().st_size < _data_start(path) + file["data"]["points"].size * 4:  # it is silent about a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _data_start(path: pathlib.Path) -> int:
    """The byte at which a file's points begin. Its header counts blocks of 512 bytes from 1, in its ninth word."""
    with path.open("rb") as file:
        return 512 * (int.from_bytes(file.read(18)[16:], "little") - 1)
