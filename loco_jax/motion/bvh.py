"""BVH, text with a skeleton and its rotations, which animation software reads."""

import os
import warnings

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from loco_jax.motion import chains

_TURNS = "Zrotation Xrotation Yrotation"  # so that the angles of somebody who turns on the spot stay smooth
_TIP = 0.1  # metres, the bones after the last joints


def write(joints: Float[np.ndarray, "T J 3"], rate: float, path: os.PathLike | str) -> None:
    """Writes one person's joints, metres with y up and NaN if unknown, at `rate` frames a second; see `chains.move`."""
    motion = chains.move(joints)
    angles = euler(motion.rotations)
    rows = np.concatenate([motion.places, np.degrees(angles).reshape(len(angles), -1)], axis=1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("HIERARCHY\n" + "\n".join(_tree(0, motion.offsets, "")) + "\n")
        file.write(f"MOTION\nFrames: {len(rows)}\nFrame Time: {1 / rate:.8f}\n")
        for row in rows:
            file.write(" ".join(f"{x:.5f}" for x in row) + "\n")


def euler(rotations: Float[np.ndarray, "T N 4"]) -> Float[np.ndarray, "T N 3"]:
    """The angles about z, x and y, in radians, of quaternions (x, y, z, w).

    Of the angles that give a rotation, those are chosen that are nearest to the angles of the frame before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where two axes are parallel, the third angle is 0
        angles = Rotation.from_quat(rotations.reshape(-1, 4)).as_euler("ZXY").reshape(*rotations.shape[:2], 3)
    for t in range(1, len(angles)):
        z, x, y = angles[t].T
        both = np.stack([angles[t], np.stack([z + np.pi, np.pi - x, y + np.pi], axis=1)])
        both -= 2 * np.pi * np.round((both - angles[t - 1]) / (2 * np.pi))
        nearer = np.abs(both - angles[t - 1]).sum(axis=-1).argmin(axis=0)
        angles[t] = np.take_along_axis(both, nearer[None, :, None], axis=0)[0]
    return angles


def _tree(index: int, offsets: Float[np.ndarray, "N 3"], indent: str) -> list[str]:
    """The lines of a node and of all that hang on it."""
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
