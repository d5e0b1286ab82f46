"""BVH, text with a skeleton and its rotations, which animation software reads."""

import itertools
import os
import warnings

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from loco_jax.motion import Track, Tracks, chains

_TURNS = "Zrotation Xrotation Yrotation"  # so that the angles of somebody who turns on the spot stay smooth
_TIP = 0.1  # metres, the bones after the last joints


def write(tracks: Tracks, person: Track, path: os.PathLike | str) -> None:
    """Writes one of the people, metres with y up, in all frames; see `chains.move`.

    They stand still before the first frame with them and after the last.
    """
    stop = person.first + len(person.joints)
    motion = chains.move(person.joints, tracks.times[person.first : stop])
    angles = np.degrees(euler(motion.rotations)).reshape(len(person.joints), -1)
    rows = [
        " ".join([*(f"{x:.5f}" for x in place), *(f"{x:.3f}" for x in turns)]) + "\n"
        for place, turns in zip(motion.places.tolist(), angles.tolist())
    ]
    with open(path, "w", encoding="utf-8") as file:
        file.write("HIERARCHY\n" + "\n".join(_tree(0, motion.offsets, "")) + "\n")
        file.write(f"MOTION\nFrames: {len(tracks.times)}\nFrame Time: {1 / tracks.rate:.8f}\n")
        file.writelines(itertools.repeat(rows[0], person.first))
        file.writelines(rows)
        file.writelines(itertools.repeat(rows[-1], len(tracks.times) - stop))


def euler(rotations: Float[np.ndarray, "T N 4"]) -> Float[np.ndarray, "T N 3"]:
    """The angles about z, x and y, in radians, of quaternions (x, y, z, w).

    Of the equivalent angles of a rotation, it chooses those nearest to the angles of the frame before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where two axes are parallel, the third angle is 0
        angles = Rotation.from_quat(rotations.reshape(-1, 4)).as_euler("ZXY").reshape(*rotations.shape[:2], 3)
    others = np.pi + angles * [1, -1, 1]  # give the same rotations

    def apart(a, b):
        away = a - b
        return np.abs(away - 2 * np.pi * np.round(away / (2 * np.pi))).sum(axis=-1)

    # The distance from one kind to the other is the same both ways, so each step alone decides whether it changes.
    changes = apart(others[1:], angles[:-1]) < apart(angles[1:], angles[:-1])
    other = np.cumsum(np.concatenate([np.zeros_like(changes[:1], shape=(1, angles.shape[1])), changes]), axis=0) % 2
    return np.unwrap(np.where(other[..., None] == 1, others, angles), axis=0)


def _tree(index: int, offsets: Float[np.ndarray, "N 3"], indent: str) -> list[str]:
    """The lines of a node and of its descendants."""
    node, inner = chains.NODES[index], indent + "  "
    kind = "ROOT" if node.parent < 0 else "JOINT"
    channels = f"6 Xposition Yposition Zposition {_TURNS}" if node.parent < 0 else f"3 {_TURNS}"
    lines = [f"{kind} {node.name}", "{", f"  {_offset(offsets[index])}", f"  CHANNELS {channels}"]
    lines = [indent + line for line in lines]
    children = [i for i, each in enumerate(chains.NODES) if each.parent == index]
    for child in children:
        lines += _tree(child, offsets, inner)
    if not children:
        size = np.linalg.norm(offsets[index])
        tip = offsets[index] * _TIP / size if size else np.array([0.0, _TIP, 0.0])
        lines += [inner + line for line in ("End Site", "{", f"  {_offset(tip)}", "}")]
    return [*lines, indent + "}"]


def _offset(offset: Float[np.ndarray, "3"]) -> str:
    return "OFFSET " + " ".join(f"{x:.6f}" for x in offset)
