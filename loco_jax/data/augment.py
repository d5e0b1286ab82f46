"""More pictures from the same ones: other colours, mirrored, nearer or farther. NumPy, on one frame at a time."""

import numpy as np
from PIL import Image

from loco_jax.data.frames import Frames
from loco_jax.geometry.skeleton import MIRROR

SCALES = (0.8, 1.25)
_GREY = 128  # where a shrunken picture ends
_GREY_SHARES = (0.299, 0.587, 0.114)  # of the channels in a picture's grey


def augment(frames: Frames, rng: np.random.Generator) -> Frames:
    """One frame with its picture `[H, W, 3]` in random colours, mirrored half of the time, and scaled."""
    image = change_colours(
        frames.image,
        brightness=rng.uniform(0.7, 1.35),
        contrast=rng.uniform(0.75, 1.3),
        saturation=rng.uniform(0.6, 1.4),
        balance=rng.uniform(0.9, 1.1, 3),
    )
    frames = frames._replace(image=image)
    if rng.random() < 0.5:
        frames = flip(frames)
    return scale(frames, float(np.exp(rng.uniform(*np.log(SCALES)))))


def change_colours(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, balance: np.ndarray
) -> np.ndarray:
    """A picture `[H, W, 3]` uint8 with its colours changed: factors, 1 for no change; `balance` has one a channel."""
    gains = brightness * np.asarray(balance, np.float64)
    # The mean grey, that contrast turns about; every eighth pixel will do, and is several times faster.
    grey = float(gains * image[::8, ::8].reshape(-1, 3).mean(axis=0) @ _GREY_SHARES)
    saturate = saturation * np.eye(3) + (1 - saturation) * np.array([_GREY_SHARES] * 3)
    # One matrix for everything, whose fourth column is added.
    matrix = np.column_stack([saturate * (contrast * gains), np.full(3, (1 - contrast) * grey)])
    return np.asarray(Image.fromarray(image).convert("RGB", matrix.ravel().tolist()))


def flip(frames: Frames) -> Frames:
    """The scene in a mirror: left joints become right ones, and the camera's centre moves with the picture."""
    width = frames.image.shape[1]
    joints = frames.joints[..., MIRROR, :] * np.float32([-1, 1, 1])
    camera = frames.camera._replace(cx=np.float32(width - frames.camera.cx))
    image = Image.fromarray(frames.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # faster than NumPy's
    return Frames(joints, frames.present[..., MIRROR], camera, np.asarray(image))


def scale(frames: Frames, factor: float) -> Frames:
    """The picture enlarged `factor` times about the camera's centre, and everybody so many times nearer.

    The camera stays, so a joint at (x, y, z) goes to (x, y, z / factor): just where it is seen now. People keep their
    height and breadth, but become thinner from front to back: the price of labels that fit the picture exactly.
    Joints outside the picture as it was are absent afterwards: a shrunken one shows grey there.
    """
    camera, image = frames.camera, frames.image
    height, width = image.shape[:2]
    # Output pixel p shows input pixel c + (p - c) / factor. Of the output, the whole pixels that show some picture:
    inverse = 1 / factor
    centre, size = np.array([camera.cx, camera.cy], float), np.array([width, height], float)
    first = np.ceil(np.maximum(centre - centre * factor, 0))
    end = np.floor(np.minimum(centre + (size - centre) * factor, size))
    box = np.clip([centre + (corner - centre) * inverse for corner in (first, end)], 0, size)
    part = Image.fromarray(image).resize(
        (end - first).astype(int).tolist(), Image.Resampling.BILINEAR, box=box.ravel().tolist()
    )
    moved = Image.new("RGB", (width, height), (_GREY,) * 3)
    moved.paste(part, tuple(first.astype(int).tolist()))
    x, y, z = np.moveaxis(frames.joints, -1, 0)
    in_front = z > 0
    z = np.where(in_front, z, 1)
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    seen = in_front & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
    joints = frames.joints * np.float32([1, 1, inverse])
    return Frames(joints, frames.present & seen, camera, np.asarray(moved))
