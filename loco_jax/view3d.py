"""People in a page of their own: one HTML file with everything in it, to be turned, zoomed and played in a browser.

The page asks nothing of any network. It shows the world with its up direction up, as far as the people tell where that
is.
"""

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from loco_jax import overlay, skeleton
from loco_jax.camera import Camera
from loco_jax.overlay import Person

MOST_FRAMES = 3000  # of a longer video, every n-th is in the page
MOST_PICTURES = 160  # of a video
_STEEPEST = math.radians(65)  # of the ground against the camera
_USUAL_HEIGHT = 1.6  # metres from the ground to the camera, if nobody tells
_ANKLE = 0.08  # metres above the ground
_HEAD, _NECK = (skeleton.JOINTS.index(name) for name in ("head_top", "neck"))
_ANKLES = [skeleton.JOINTS.index(name) for name in ("right_ankle", "left_ankle")]


class Ground(NamedTuple):
    """The ground: `up[3]`, a unit vector in camera coordinates, and the camera's height above it in metres."""

    up: np.ndarray
    height: float


class Pictures:
    """Small JPEGs of a video's frames: of all at first, of ever fewer as there are more, evenly spread."""

    def __init__(self, width: int = 384):
        self.jpegs: dict[int, bytes] = {}
        self._every, self._width = 1, width

    def add(self, frame: int, image: np.ndarray) -> None:
        """A picture `[H, W, 3]` uint8; frames come in order, from 0."""
        if frame % self._every:
            return
        self.jpegs[frame] = jpeg(image, self._width)
        if len(self.jpegs) > MOST_PICTURES:
            self._every *= 2
            self.jpegs = {i: data for i, data in self.jpegs.items() if i % self._every == 0}


def jpeg(image: np.ndarray, width: int = 1280) -> bytes:
    """A picture `[H, W, 3]` uint8 as a JPEG whose longer side has at most `width` pixels."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((width, width))
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def page(
    name: str,
    frames: Sequence[Sequence[Person]],
    camera: Camera,
    size: tuple[int, int],
    pictures: Mapping[int, bytes] | None = None,
    fps: float = 0.0,
    notes: Sequence[str] = (),
) -> str:
    """The page as text, to be written as UTF-8.

    Args:
      name: shown above; any text.
      frames: the people of one picture, or of each frame of a video.
      camera: that took it.
      size: height and width of its pictures.
      pictures: JPEGs by frame, to show with the people of that frame and of those after it.
      fps: frames a second, of a video.
      notes: shown below the name, a line each: where the camera comes from, say.
    """
    every = max(1, math.ceil(len(frames) / MOST_FRAMES))
    shown = list(range(0, len(frames), every))
    height, width = size
    data = {
        "name": name,
        "notes": list(notes),
        "frames": [[_person(person) for person in frames[i]] for i in shown],
        "numbers": shown,
        "fps": fps,
        "pictures": {str(i): _data_url(data) for i, data in sorted((pictures or {}).items())},
        "limbs": skeleton.LIMBS,
        "joints": skeleton.JOINTS,
        "colours": overlay.COLOURS,
        "paler": [overlay.paler(colour) for colour in overlay.COLOURS],
        "camera": {field: float(value) for field, value in camera._asdict().items()},
        "size": [width, height],
        **_world(ground(person for people in frames for person in people)),
    }
    # No text in there can end the script or open another.
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    template = resources.files("loco_jax").joinpath("view3d.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(name.encode("utf-8", "replace").decode()), "data": text}
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)  # at once: texts are not templates


def ground(people: Sequence[Person]) -> Ground:
    """Where the ground is, from where the people stand: nobody gives the camera's tilt.

    Up is along their bodies; the plane is fitted to their ankles, the more it follows those the farther they are apart,
    and people who are far from it count less. Without people it is level, 1.6 m below the camera.
    """
    joints = np.array([person.joints for person in people]).reshape(-1, skeleton.NUM_JOINTS, 3)
    joints = joints[:: max(1, len(joints) // 5000)]
    feet = np.full((len(joints), 3), np.nan)
    ankles = joints[:, _ANKLES]
    both = np.isfinite(ankles).all(axis=(1, 2))
    feet[both] = ankles[both].mean(axis=1)
    tops = np.where(np.isfinite(joints[:, [_HEAD]]), joints[:, [_HEAD]], joints[:, [_NECK]])[:, 0]
    bodies = tops - feet
    bodies = bodies[np.isfinite(bodies).all(axis=1)]
    bodies /= np.maximum(np.linalg.norm(bodies, axis=1, keepdims=True), 1e-6)
    level = np.array([0.0, -1.0, 0.0])
    up = _unit(np.median(bodies, axis=0), level) if len(bodies) else level
    up = _upright(up)
    ankles = ankles.reshape(-1, 3)
    ankles = ankles[np.isfinite(ankles).all(axis=1)]
    if not len(ankles):
        lowest = [np.nanmin(person @ up) for person in joints if np.isfinite(person).any()]
        return Ground(up, float(-np.median(lowest)) if lowest else _USUAL_HEIGHT)
    # The plane y = a + b x + c z, with b and c drawn towards what the bodies say.
    prior = -up[[0, 2]] / up[1]
    weights = np.ones(len(ankles))
    x, y, z = ankles.T
    centre = np.array([np.median(x), np.median(z)])
    for _ in range(10):
        rows = np.column_stack([np.ones_like(x), x - centre[0], z - centre[1]])
        ridge = np.diag([0.0, 30.0, 30.0]) * min(1.0, weights.mean())
        a, b, c = np.linalg.solve(
            rows.T @ (weights[:, None] * rows) + ridge, rows.T @ (weights * y) + ridge @ [0.0, *prior]
        )
        error = np.abs(y - rows @ [a, b, c])
        weights = 1 / np.maximum(1.0, error / 0.15) ** 2 + 1e-6
    normal = _upright(_unit(np.array([b, -1.0, c]), level))
    middle = np.array([centre[0], a, centre[1]])
    return Ground(normal, float(_ANKLE - middle @ normal))


def _upright(up: np.ndarray) -> np.ndarray:
    """A direction brought within reason: no camera's ground stands upright."""
    level = np.array([0.0, -1.0, 0.0])
    angle = math.acos(np.clip(up @ level, -1, 1))
    if angle <= _STEEPEST:
        return up
    aside = _unit(up - (up @ level) * level, np.array([0.0, 0.0, 1.0]))
    return math.cos(_STEEPEST) * level + math.sin(_STEEPEST) * aside


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-6 else otherwise


def _world(place: Ground) -> dict[str, Any]:
    """The rows of the rotation from camera axes to the page's (right, up, ahead), and the camera's height."""
    ahead = np.array([0.0, 0.0, 1.0]) - place.up[2] * place.up
    ahead = _unit(ahead, np.array([1.0, 0.0, 0.0]))
    right = np.cross(ahead, place.up)
    rotation = [[round(float(x), 6) for x in row] for row in (right, place.up, ahead)]
    return {"rotation": rotation, "height": round(float(place.height), 4)}


def _person(person: Person) -> dict[str, Any]:
    joints = [[round(float(x), 3) for x in joint] if np.isfinite(joint).all() else None for joint in person.joints]
    seen = [int(score > 0) for score in person.scores]
    return {"id": person.id, "score": round(float(person.score), 3), "joints": joints, "seen": seen}


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
