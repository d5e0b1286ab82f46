"""The people in a frame, or in a batch of frames, with their camera and picture: the output of every data source."""

from typing import NamedTuple

from jaxtyping import Bool, Float32, UInt8

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera


class Frames(NamedTuple):
    """One frame, or a batch of frames along a leading axis B; P is padded."""

    joints: Float32[Array, "*B P 14 3"]  # metres in camera coordinates
    present: Bool[Array, "*B P 14"]  # whether the joint exists, in the picture or not (see `Volume.in_view`)
    camera: Camera  # each intrinsic a float32 `[*B]`
    image: UInt8[Array, "*B height width 3"] | None = None
    ground: Float32[Array, "*B 4"] | None = None  # up in camera axes, and the camera's height in metres; if known
