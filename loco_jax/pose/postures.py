"""The posture of a person, from the directions of its limbs alone. NumPy, on the host.

The ground and the picture's vertical play no role. So somebody who lies straight counts as upright, and somebody who
bends over far counts as sitting.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from loco_jax.geometry.skeleton import JOINTS, PAIRS

POSTURES = ("upright", "striding", "sitting", "unknown")
SITTING_FROM = 50.0  # degrees from the trunk's line down to both thighs
STRIDING_FROM = 20.0  # degrees between the thighs, or between the shanks
UPRIGHT, STRIDING, SITTING, UNKNOWN = range(len(POSTURES))

_NECK, _HIPS = JOINTS.index("neck"), list(PAIRS["hips"])
_KNEES, _ANKLES = ([JOINTS.index(f"{side}_{name}") for side in ("right", "left")] for name in ("knee", "ankle"))
_NEEDED = [_NECK, *_HIPS, *_KNEES, *_ANKLES]


def classify(joints: Float[np.ndarray, "M 14 3"], known: Bool[np.ndarray, "M 14"]) -> Int[np.ndarray, "M"]:
    """The index into `POSTURES` of each person.

    A person sits if both thighs are at `SITTING_FROM` degrees or more to the line from the neck to the mid-hip. Of the
    others, those stride whose thighs or shanks are `STRIDING_FROM` degrees or more apart. The rest are upright. The
    posture is unknown unless the neck, the hips, the knees and the ankles are known.
    """
    down = joints[:, _HIPS].mean(axis=1) - joints[:, _NECK]
    thighs = joints[:, _KNEES] - joints[:, _HIPS]
    shanks = joints[:, _ANKLES] - joints[:, _KNEES]
    bent = _degrees(thighs, down[:, None]).min(axis=1)
    apart = np.maximum(*(_degrees(limbs[:, 0], limbs[:, 1]) for limbs in (thighs, shanks)))
    moving = np.where(apart >= STRIDING_FROM, STRIDING, UPRIGHT)
    posture = np.where(bent >= SITTING_FROM, SITTING, moving)
    return np.where(known[:, _NEEDED].all(axis=1), posture, UNKNOWN)


def _degrees(a, b):
    """Angles between vectors; 0 if one of them is 0."""
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(across, (a * b).sum(axis=-1)))
