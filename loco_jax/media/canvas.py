"""Pictures of any size and camera, resampled for a network that was trained with one size and camera.

Pixels are measured from the picture's top left corner. So if a picture is resized by a factor, its pixels and its
camera are multiplied by that factor.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from loco_jax.geometry.camera import Camera

GREY = 128  # around a picture that does not fill its canvas
CELL = 64  # pixels; larger canvases are multiples of this, so that few sizes are compiled
MOST_PIXELS = 4  # times those of the trained pictures


class Canvas(NamedTuple):
    """How pictures of one size and camera are shown to a network, see `plan`."""

    picture_size: tuple[int, int]  # height and width of the resampled picture
    origin: tuple[int, int]  # row and column of the picture's top left corner in the canvas
    size: tuple[int, int]  # height and width of the canvas
    camera: Camera  # for the network, in the canvas's pixels; its focal lengths are the trained ones
    shrink: float  # 1, or how much smaller people look in the canvas than in training


def plan(size: tuple[int, int], camera: Camera, trained: Camera, trained_size: tuple[int, int]) -> Canvas:
    """How to show pictures of `size` (height, width) by `camera` to a network.

    They are resampled so that a pixel spans the same angle as in training, and padded to the trained pictures' height
    and width, or if they are larger, to multiples of CELL. If the canvas would have more than MOST_PIXELS times the
    trained pixels, pictures are shrunk further, see `to_user`.

    Pictures are placed so that the optical axis is where it was in training, or as near as the canvas allows: a network
    learns the angle, and so the distance, that belongs to a row.

    Args:
      size, camera: of the pictures.
      trained, trained_size: the camera that the network was trained with, and the size of its pictures.
    """
    focal = float(trained.fy), float(trained.fx)
    scale = [f / float(own) for f, own in zip(focal, (camera.fy, camera.fx))]
    full = [n * s for n, s in zip(size, scale)]
    shrink = min(1.0, math.sqrt(MOST_PIXELS * math.prod(trained_size) / math.prod(full)))
    for axis in range(2):  # the canvas is broader than a narrow picture
        if full[axis] * shrink < trained_size[axis]:
            shrink = min(shrink, MOST_PIXELS * trained_size[1 - axis] / full[1 - axis])
    rows, columns = (max(1, round(n * shrink)) for n in full)
    canvas = [t if n <= t else CELL * math.ceil(n / CELL) for n, t in zip((rows, columns), trained_size)]
    x, y = columns / size[1], rows / size[0]
    wanted = float(trained.cy) - float(camera.cy) * y, float(trained.cx) - float(camera.cx) * x
    top, left = (min(max(round(w), 0), c - n) for w, c, n in zip(wanted, canvas, (rows, columns)))
    # Focal lengths are the trained ones, except for the rounding to whole pixels.
    pretended = Camera(camera.fx * x / shrink, camera.fy * y / shrink, camera.cx * x + left, camera.cy * y + top)
    return Canvas((rows, columns), (top, left), (canvas[0], canvas[1]), Camera(*map(float, pretended)), shrink)


def fill(canvas: Canvas, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The canvas with a picture in its place, grey around it."""
    (rows, columns), (top, left) = canvas.picture_size, canvas.origin
    if image.shape[:2] != (rows, columns):
        image = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    filled = np.full((*canvas.size, 3), GREY, np.uint8)
    filled[top : top + rows, left : left + columns] = image
    return filled


def to_user(
    canvas: Canvas, joints: Float[np.ndarray, "N J 3"], known: Bool[np.ndarray, "N J"]
) -> Float[np.ndarray, "N J 3"]:
    """Joints in metres from the user's camera, of joints that a network found in the canvas.

    Without shrinking they are the same. In a canvas that was shrunk by s, everybody seems 1 / s times as far away. So
    each person as a whole is moved nearer by s: each joint stays at its pixel, and the body keeps its depth.

    Args:
      canvas: what the network saw.
      joints: in the coordinates of `canvas.camera`.
      known: which of the joints exist; the others are left as they are.
    """
    if canvas.shrink == 1 or not len(joints):
        return joints
    z = joints[..., 2]
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    middle = (z * known).sum(axis=1, keepdims=True) / count
    nearer = z + (canvas.shrink - 1) * middle
    nearer = np.maximum(nearer, 0.2 * canvas.shrink * z)  # else the body might reach behind the camera
    along = nearer / np.where(z == 0, 1, canvas.shrink * z)
    moved = np.concatenate([joints[..., :2] * along[..., None], nearer[..., None]], axis=-1)
    return np.where(known[..., None], moved, joints)
