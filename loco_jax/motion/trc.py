"""TRC, the format of markers that OpenSim reads: a table of text with tabs."""

import os

import numpy as np
from jaxtyping import Float32

from loco_jax.geometry import skeleton
from loco_jax.motion import Tracks
from loco_jax.motion.names import WRITER

_ABSENT = "\t" * 3 * skeleton.NUM_JOINTS


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes everybody's joints as markers in millimetres, y up. Cells of unknown joints are blank.

    Frames count from 1. Their times are in seconds from the first frame, and the rate is the mean one.
    """
    labels, rate, count = tracks.labels(), f"{tracks.rate:.6g}", len(tracks.times)
    head = [
        ["PathFileType", "4", "(X/Y/Z)", f"{WRITER}.trc"],  # readers ignore the name
        "DataRate CameraRate NumFrames NumMarkers Units OrigDataRate OrigDataStartFrame OrigNumFrames".split(),
        [rate, rate, str(count), str(len(labels)), "mm", rate, "1", str(count)],
        ["Frame#", "Time", *(cell for label in labels for cell in (label, "", ""))],
        ["", "", *(f"{axis}{number}" for number in range(1, len(labels) + 1) for axis in "XYZ")],
        [],
    ]
    number = 0
    with open(path, "w", newline="\r\n", encoding="utf-8") as file:
        for line in head:
            file.write("\t".join(line) + "\n")
        for block in tracks.markers():
            present = np.isfinite(block).any(axis=(2, 3)).tolist()
            for people, here in zip(block, present):
                cells = [_cells(person) if there else _ABSENT for person, there in zip(people, here)]
                file.write(f"{number + 1}\t{tracks.times[number]:.6f}{''.join(cells)}\n")
                number += 1


def _cells(person: Float32[np.ndarray, "J 3"]) -> str:
    return "".join("\t" if x != x else f"\t{x:.3f}" for x in person.ravel().tolist())  # NaN differs from itself
