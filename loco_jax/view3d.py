"""People in a page of their own: one HTML file with everything in it, to be turned, zoomed and played."""

import html
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np

from loco_jax import skeleton
from loco_jax.camera import Camera
from loco_jax.overlay import COLOURS


def page(
    name: str,
    frames: Sequence[tuple[np.ndarray, np.ndarray]],
    camera: Camera,
    size: tuple[int, int],
    fps: float = 0.0,
) -> str:
    """The page as text.

    Args:
      name: shown above; any text.
      frames: one for a picture, many for a video: joints `[N, 14, 3]` in metres in camera coordinates, and their scores
        `[N, 14]`. A joint at (0, 0, 0) is a hole.
      camera: of the picture, for the frame that is drawn around the view.
      size: height and width of the picture.
      fps: frames a second, of a video.
    """
    height, width = size
    corners = [[(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0] for u, v in
               ((0, 0), (width, 0), (width, height), (0, height))]  # fmt: skip
    lowest = [joints[..., 1][(joints != 0).any(-1)] for joints, _ in frames]
    lowest = np.concatenate(lowest) if lowest else np.zeros(0)
    depths = [joints[..., 2].max(initial=0.0) for joints, _ in frames]
    data = {
        "name": name,
        "frames": [{"people": [_person(i, *person) for i, person in enumerate(zip(*frame))]} for frame in frames],
        "limbs": skeleton.LIMBS,
        "corners": corners,
        "floor": float(np.percentile(lowest, 95)) if len(lowest) else 1.5,
        "far": float(max([5.0, *depths])) * 1.1,
        "fps": fps,
    }
    # No text inside can end the script or open another.
    text = (
        json.dumps(data, allow_nan=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
    template = resources.files("loco_jax").joinpath("view3d.html").read_text(encoding="utf-8")
    return template.replace("__TITLE__", html.escape(name)).replace("__DATA__", text)


def _person(number: int, joints: np.ndarray, scores: np.ndarray) -> dict:
    return {
        "id": number,
        "colour": COLOURS[number % len(COLOURS)],
        "score": float(scores[0]),
        "distance": float(np.linalg.norm(joints[0])),
        "joints": [[round(float(x), 4) for x in joint] if joint.any() else None for joint in joints],
    }
