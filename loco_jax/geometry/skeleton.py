"""The joints of JTA, the 14 joints that LoCO uses, and the limbs between those."""

JTA_JOINTS = (
    "head_top", "head_center", "neck",
    "right_clavicle", "right_shoulder", "right_elbow", "right_wrist",
    "left_clavicle", "left_shoulder", "left_elbow", "left_wrist",
    "spine0", "spine1", "spine2", "spine3", "spine4",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
)  # fmt: skip

# Indices of LoCO's joints among JTA's, in LoCO's order.
FROM_JTA = (0, 2, 4, 5, 6, 8, 9, 10, 16, 17, 18, 19, 20, 21)

JOINTS = tuple(JTA_JOINTS[i] for i in FROM_JTA)
NUM_JOINTS = len(JOINTS)
NUM_JTA_JOINTS = len(JTA_JOINTS)


def _other_side(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": "right_", "right": "left_"}[side] + rest if side in ("left", "right") else name


# For each joint, its counterpart on the other side of the body.
MIRROR = tuple(JOINTS.index(_other_side(name)) for name in JOINTS)

# The right and left joints of pairs that determine a person's widths and the direction that it faces.
PAIRS = {
    name: (JOINTS.index(f"right_{name[:-1]}"), JOINTS.index(f"left_{name[:-1]}"))
    for name in ("shoulders", "hips", "wrists", "ankles")
}


_LIMBS = (
    ("head_top", "neck"),
    ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("neck", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
    ("neck", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
)  # fmt: skip
# Pairs of indices into JOINTS, for drawing.
LIMBS = tuple((JOINTS.index(a), JOINTS.index(b)) for a, b in _LIMBS)
