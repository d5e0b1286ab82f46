"""What every data source gives: the people of a frame (or of a batch of frames) and the camera that saw them."""

from typing import NamedTuple

import jax

from loco_jax.geometry.camera import Camera


class Frames(NamedTuple):
    """One frame, or a batch of them along a leading axis B.

    Attributes:
      joints: `[..., P, J, 3]` metres in camera coordinates, float32; P is padded, J are LoCO's 14 joints.
      present: `[..., P, J]` bool: whether the joint exists. In the picture or not is the volume's business (`in_view`).
      camera: intrinsics, each a float32 of shape `[...]`.
      image: `[..., height, width, 3]` uint8, or None.
      ground: `[..., 4]` float32, the world's up in camera axes and the camera's height above the ground in metres; None
        where nobody knows.
    """

    joints: jax.Array
    present: jax.Array
    camera: Camera
    image: jax.Array | None = None
    ground: jax.Array | None = None
