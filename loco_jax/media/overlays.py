"""People drawn over their pictures, and the colours that they have everywhere."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from loco_jax.geometry import skeleton

# Okabe and Ito's colours first, which the colour-blind tell apart too; all are legible on white.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#7B3294", "#B2182B", "#6B8E23", "#00A6A6", "#A6611A", "#E7298A",
)  # fmt: skip
PALER = 0.5  # how far towards white the limbs of the left side are

_LIMB = 0.03  # of a person's height in the picture: a limb's width
_READABLE = 960  # pixels of the longer side; smaller pictures are enlarged by a whole number
_LONGEST = 16_384  # pixels of the longer side; larger pictures are shrunk: JPEG and H.264 have limits
_LARGE = 12_000_000  # pixels; smaller parts of pictures are drawn at twice their size, for smooth edges


class Person(NamedTuple):
    """A person in one picture.

    Attributes:
      id: from 1.
      score: of the person, 0 to 1.
      joints: `[14, 3]` metres from the camera: x right, y down, z ahead. NaN for holes.
      pixels: `[14, 2]` of the picture, from its top left corner. NaN for holes, and for joints that are not in front of
        the camera.
      scores: `[14]` of the joints; 0 for one that was not seen: a hole, or filled in by the refiner.
    """

    id: int
    score: float
    joints: np.ndarray
    pixels: np.ndarray
    scores: np.ndarray


def colour(id: int) -> str:
    """A person's colour, as in HTML; ids from 1."""
    return COLOURS[(id - 1) % len(COLOURS)]


def paler(colour: str) -> str:
    """A colour on its way to white: of the left side's limbs."""
    return "#" + "".join(f"{round(c + PALER * (255 - c)):02X}" for c in ImageColor.getrgb(colour))


def draw(image: np.ndarray, people: Sequence[Person]) -> np.ndarray:
    """The picture `[H, W, 3]` uint8 with people drawn into it, the farthest first; at its `drawn_size`.

    One colour a person; limbs of the left side are paler, and those to joints that were not seen are thin. The picture
    that is given stays as it is.
    """
    picture = Image.fromarray(image)
    size = np.array(drawn_size(image.shape[:2]))[::-1]
    if tuple(size) != picture.size:
        times = size / picture.size
        picture = picture.resize(size.tolist(), Image.Resampling.BICUBIC)
        people = [person._replace(pixels=person.pixels * times) for person in people]
    drawn = [person for person in people if _reachable(person, size).any()]
    distances = [np.nanmean(np.linalg.norm(person.joints, axis=-1)) for person in drawn]
    widths = [_limb_width(person, size) for person in drawn]
    for i in sorted(range(len(drawn)), key=lambda i: -distances[i]):
        _draw_skeleton(picture, drawn[i], widths[i])
    for person, width in zip(drawn, widths):  # on top of all skeletons
        _draw_id(picture, person, width)
    return np.array(picture)


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which people are drawn into a picture of `size`: lines need room, so a small picture is
    enlarged by a whole number; and one that is larger than files may be is shrunk."""
    times = min(max(1, math.ceil(_READABLE / max(size))), 8)
    if max(size) > _LONGEST:
        times = _LONGEST / max(size)
    return max(1, round(size[0] * times)), max(1, round(size[1] * times))


def _reachable(person: Person, size: np.ndarray) -> np.ndarray:
    """Which joints `[14]` are near enough to the picture to draw lines to; NaN compares false."""
    return ((person.pixels > -size) & (person.pixels < 2 * size)).all(axis=-1)


def _limb_width(person: Person, size: np.ndarray) -> float:
    uv = person.pixels[_reachable(person, size)]
    height = float(np.ptp(uv[:, 1]) + np.ptp(uv[:, 0])) if len(uv) else 0.0
    diagonal = float(np.hypot(*size))
    return float(np.clip(_LIMB * height, max(1.2, diagonal / 900), max(3.0, diagonal / 160)))


def _draw_skeleton(picture: Image.Image, person: Person, width: float) -> None:
    size = np.array(picture.size)
    there = _reachable(person, size)
    margin = 2 * width + 4
    low = np.clip(np.floor(person.pixels[there].min(0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(person.pixels[there].max(0) + margin), 0, size).astype(int)
    if (high <= low).any():
        return
    box = (*low.tolist(), *high.tolist())
    times = 2 if np.prod(high - low) < _LARGE else 1
    part = picture.crop(box)
    part = part.resize((part.width * times, part.height * times), Image.Resampling.NEAREST)
    uv = (person.pixels - low) * times
    width *= times
    pen = ImageDraw.Draw(part)
    strong = colour(person.id)
    sides = [paler(strong) if "left" in name else strong for name in skeleton.JOINTS]
    limbs = [(a, b) for a, b in skeleton.LIMBS if there[a] and there[b]]
    for a, b in limbs:
        _line(pen, uv[a], uv[b], _width_of(person, a, b, width) + max(2.0 * times, 0.6 * width), "#1A1A1A")
    for a, b in limbs:
        _line(pen, uv[a], uv[b], _width_of(person, a, b, width), sides[b])
    for joint in np.flatnonzero(there):
        seen = person.scores[joint] > 0
        _dot(pen, uv[joint], width * (1.0 if joint == 0 else 0.65 if seen else 0.45), "#FFFFFF")
        _dot(pen, uv[joint], width * (0.75 if joint == 0 else 0.42 if seen else 0.2), sides[joint])
    # Beside the lines the picture keeps its own pixels.
    part = part.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BOX)
    picture.paste(part, box[:2])


def _width_of(person: Person, a: int, b: int, width: float) -> float:
    return width if person.scores[a] > 0 and person.scores[b] > 0 else 0.5 * width


def _line(pen: ImageDraw.ImageDraw, a: np.ndarray, b: np.ndarray, width: float, fill: str) -> None:
    """With round ends."""
    pen.line([*a.tolist(), *b.tolist()], fill=fill, width=max(1, round(width)))
    for end in (a, b):
        _dot(pen, end, width / 2, fill)


def _dot(pen: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, fill: str) -> None:
    (x, y), r = centre.tolist(), max(radius, 0.5)
    pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _draw_id(picture: Image.Image, person: Person, width: float) -> None:
    """A tag above the topmost joint, kept inside the picture; none if the person is outside."""
    size = np.array(picture.size)
    uv = person.pixels[_reachable(person, size)]
    if not ((uv >= 0) & (uv <= size)).all(axis=-1).any():
        return
    x, y = uv[np.argmin(uv[:, 1])]
    height = float(np.clip(4.5 * width, 11, max(11.0, np.hypot(*size) / 45)))
    font = ImageFont.load_default(height)
    text = str(person.id)
    w, h = font.getlength(text) + 0.6 * height, 1.15 * height
    left = float(np.clip(x - w / 2, 0, max(size[0] - w, 0)))
    top = float(np.clip(y - 1.8 * width - h, 0, max(size[1] - h, 0)))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle([left, top, left + w, top + h], radius=0.3 * height, fill=colour(person.id), outline="white")
    pen.text((left + w / 2, top + h / 2), text, fill="white", font=font, anchor="mm")
