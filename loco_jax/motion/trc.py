"""TRC, the format of markers that OpenSim reads: a table of text with tabs."""

import os
import pathlib

import numpy as np

from loco_jax.motion import Tracks


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes everybody's joints as markers in millimetres, y up. Cells of unknown joints are blank.

    Frames count from 1, and their times are even, because readers expect one rate.
    """
    labels, markers, rate = tracks.labels(), tracks.markers(), f"{tracks.rate:.6g}"
    count = len(markers)
    name = pathlib.Path(path).name.removeprefix(".").removesuffix(".part")
    numbers = range(1, len(labels) + 1)
    head = [
        ["PathFileType", "4", "(X/Y/Z)", name],
        "DataRate CameraRate NumFrames NumMarkers Units OrigDataRate OrigDataStartFrame OrigNumFrames".split(),
        [rate, rate, str(count), str(len(labels)), "mm", rate, "1", str(count)],
        ["Frame#", "Time", *(cell for label in labels for cell in (label, "", ""))],
        ["", "", *(f"{axis}{number}" for number in numbers for axis in "XYZ")],
        [],
    ]
    with open(path, "w", newline="\r\n", encoding="utf-8") as file:
        for line in head:
            file.write("\t".join(line) + "\n")
        for t, frame in enumerate(markers):
            cells = ["" if np.isnan(x) else f"{x:.3f}" for x in frame.ravel()]
            file.write("\t".join([str(t + 1), f"{t / tracks.rate:.6f}", *cells]) + "\n")
