"""The 3D page: one HTML file that shows people in 3D, to turn, zoom and play in a browser.

The page loads nothing from any network. It shows the world upright, as estimated from how people stand, and the picture
beside it. A click on a person, in either, marks the person in both.
"""

import base64
import functools
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import overlays
from loco_jax.media.overlays import Person
from loco_jax.pose.ground import Ground, ground

MOST_FRAMES = 3000  # the page has every second, fourth, ... frame of a longer video
MOST_PICTURES = 160  # of a video


class _Thinned:
    """Keeps at most `most` results of `make`, evenly spread over the frames of a video, by the frame's number."""

    def __init__(self, most: int, make: Callable[..., Any]):
        self.kept: dict[int, Any] = {}
        self._every, self._most, self._make = 1, most, make

    def add(self, frame: int, *args: Any) -> None:
        """Calls `make` with `args` if the frame is kept. Frames come in order, from 0."""
        if frame % self._every:
            return
        self.kept[frame] = self._make(*args)
        if len(self.kept) > self._most:
            self._every *= 2
            self.kept = {i: item for i, item in self.kept.items() if i % self._every == 0}


class Pictures(_Thinned):
    """Small JPEGs of a video's frames: `add(number, image)`."""

    def __init__(self):
        super().__init__(MOST_PICTURES, functools.partial(jpeg, width=384))


class Frames(_Thinned):
    """The people of a picture or of a video's frames: `add(number, people, time)` with the time in seconds."""

    def __init__(self):
        super().__init__(MOST_FRAMES, _Frame.of)


class _Frame(NamedTuple):
    """The part of a frame that the page shows. The people are JSON, because there are many frames."""

    time: float
    people: str
    joints_PxJx3: Float[np.ndarray, "P J 3"]  # NaN if unknown

    @classmethod
    def of(cls, people: Sequence[Person], time: float = 0.0) -> "_Frame":
        joints = np.array([person.joints for person in people], np.float32).reshape(-1, skeleton.NUM_JOINTS, 3)
        rows = [
            {
                "id": person.id,
                "score": round(float(person.score), 3),
                "joints": [(1000 * x).round().astype(int).tolist() if np.isfinite(x).all() else None for x in places],
                "seen": (person.scores > 0).astype(int).tolist(),
            }
            for person, places in zip(people, joints)
        ]
        return cls(time, _json(rows), joints)


def jpeg(image: UInt8[np.ndarray, "H W 3"], width: int = 1280) -> bytes:
    """A picture as a JPEG whose longer side has at most `width` pixels."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((width, width))
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def to_html(
    name: str,
    frames: Frames,
    camera: Camera,
    size: tuple[int, int],
    pictures: Mapping[int, bytes] = {},
    notes: Sequence[str] = (),
) -> str:
    """The page as text, to be written as UTF-8.

    Args:
      name: the title, any text.
      frames: one frame for a picture, several for a video.
      camera, size: the camera, and the height and width of its pictures.
      pictures: JPEGs by frame. Each is shown until the next one.
      notes: lines below the name.
    """
    shown = frames.kept.values()
    joints = [np.zeros((0, skeleton.NUM_JOINTS, 3)), *(frame.joints_PxJx3 for frame in shown)]
    data = {
        "name": name,
        "notes": list(notes),
        "numbers": list(frames.kept),
        "times": [round(frame.time, 4) for frame in shown],
        "pictures": {i: f"data:image/jpeg;base64,{base64.b64encode(x).decode()}" for i, x in pictures.items()},
        "limbs": skeleton.LIMBS,
        "joints": skeleton.JOINTS,
        "colours": overlays.COLOURS,
        "paler": [overlays.paler(colour) for colour in overlays.COLOURS],
        "camera": {field: float(value) for field, value in camera._asdict().items()},
        "size": size[::-1],
        **_world(ground(np.concatenate(joints))),
    }
    texts = [_json(data)[:-1], ',"frames":[', ",".join(frame.people for frame in shown), "]}"]
    template = resources.files("loco_jax.predict").joinpath("page.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(name.encode("utf-8", "replace").decode()), "data": "".join(texts)}
    # In one pass, because the data may contain "{{title}}".
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)


def _world(place: Ground) -> dict[str, Any]:
    """The rotation from camera axes to the page's axes (right, up, ahead), by rows, and the camera's height."""
    rotation = [[round(float(x), 6) for x in row] for row in place.axes()]
    return {"rotation": rotation, "height": round(place.height, 4)}


def _json(content: Any) -> str:
    """JSON without the characters that could end the page's script or start another."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)
