"""Augmentation of one frame at a time, with NumPy: changes of colours and scale, and mirroring."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from loco_jax.data.frames import Frames
from loco_jax.geometry.camera import project_on_host
from loco_jax.geometry.skeleton import MIRROR

SCALES = (0.8, 1.25)
_GREY = 128  # around a picture that was made smaller
_GREY_SHARES = (0.299, 0.587, 0.114)  # of the channels in grey


def augment(frames: Frames, rng: np.random.Generator) -> Frames:
    """A frame with random colours and a random scale, mirrored half of the time."""
    image = change_colours(
        np.asarray(frames.image),
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
    image: UInt8[np.ndarray, "H W 3"],
    brightness: float,
    contrast: float,
    saturation: float,
    balance: Float[np.ndarray, " 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture with changed colours. All arguments are factors, 1 for no change; `balance` has one per channel."""
    gains = brightness * np.asarray(balance, np.float64)
    # Contrast leaves the mean grey as it is. Every eighth pixel is enough for the mean, and several times faster.
    grey = float(gains * image[::8, ::8].reshape(-1, 3).mean(axis=0) @ _GREY_SHARES)
    saturate = saturation * np.eye(3) + (1 - saturation) * np.array([_GREY_SHARES] * 3)
    # One matrix does everything; its fourth column is an offset.
    matrix = np.column_stack([saturate * (contrast * gains), np.full(3, (1 - contrast) * grey)])
    return np.asarray(Image.fromarray(image).convert("RGB", matrix.ravel().tolist()))


def flip(frames: Frames) -> Frames:
    """The mirrored frame: left joints become right ones, and the camera's centre moves with the picture.

    Fields that only scores use, such as `Origin.universal`, do not change.
    """
    image = np.asarray(frames.image)
    joints = frames.joints[..., MIRROR, :] * np.array([-1, 1, 1], np.float32)
    camera = frames.camera._replace(cx=np.float32(image.shape[1] - frames.camera.cx))
    mirrored = Image.fromarray(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # faster than NumPy's
    present, origin = frames.present[..., MIRROR], frames.origin
    if origin is not None:
        origin = origin._replace(annotated=origin.annotated[..., MIRROR], occluded=origin.occluded[..., MIRROR])
    return frames._replace(joints=joints, present=present, camera=camera, image=np.asarray(mirrored), origin=origin)


def scale(frames: Frames, factor: float) -> Frames:
    """The picture enlarged `factor` times about the camera's centre, and everybody `factor` times nearer.

    The camera stays the same, so a joint at (x, y, z) moves to (x, y, z / factor), where the new picture shows it.
    People keep their height and breadth, but become thinner from front to back. Joints outside the old picture become
    absent, because a picture that was made smaller is grey there.
    """
    camera, image = frames.camera, np.asarray(frames.image)
    height, width = image.shape[:2]
    # Output pixel p shows input pixel c + (p - c) / factor. These are the output pixels that lie in the input:
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
    pixels = project_on_host(camera, np.asarray(frames.joints))
    seen = ((pixels >= 0) & (pixels <= size)).all(axis=-1)  # NaN compares false
    joints = frames.joints * np.array([1, 1, inverse], np.float32)
    return frames._replace(joints=joints, present=frames.present & seen, image=np.asarray(moved))
