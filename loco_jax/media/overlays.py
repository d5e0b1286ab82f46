"""People drawn over their pictures, and their colours, which are the same everywhere."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from loco_jax.geometry import skeleton

# The first are Okabe and Ito's, which colour-blind people can tell apart. All are legible on white.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#7B3294", "#B2182B", "#6B8E23", "#00A6A6", "#A6611A", "#E7298A",
)  # fmt: skip
PALER = 0.5  # share of white in the colour of the left side

_LIMB = 0.03  # width of a limb as a share of the person's height in the picture
_READABLE = 960  # pixels of the longer side; smaller pictures are enlarged by a whole number
_LONGEST = 16_384  # pixels of the longer side; larger pictures are shrunk, because JPEG and H.264 have limits
_LARGE = 12_000_000  # pixels; smaller parts of pictures are drawn at twice their size, for smooth edges
_LABEL_HEIGHT = 1.15  # times the height of its text
# Where a label may be: offsets from its first place in its own widths and heights, nearest first.
_OFFSETS = np.array([(x, y) for x in np.arange(-4, 4.5, 0.5) for y in np.arange(-8, 8.5, 0.5)])
_OFFSETS = _OFFSETS[np.argsort(np.hypot(*_OFFSETS.T), kind="stable")]


class Person(NamedTuple):
    """A person in one picture."""

    id: int  # from 1
    score: float  # of the person, 0 to 1
    joints: Float[np.ndarray, "14 3"]  # metres from the camera: x right, y down, z ahead; NaN for missing joints
    pixels: Float[np.ndarray, "14 2"]  # from the top left corner; NaN for missing joints and those behind the camera
    scores: Float[np.ndarray, "14"]  # of the joints; 0 for one that was not detected: missing, or from the refiner


def colour(id: int) -> str:
    """The colour of a person, as in HTML; ids start at 1."""
    return COLOURS[(id - 1) % len(COLOURS)]


def paler(colour: str) -> str:
    """A colour mixed with white, for the left side's limbs."""
    return "#" + "".join(f"{round(c + PALER * (255 - c)):02X}" for c in ImageColor.getrgb(colour))


def draw(image: UInt8[np.ndarray, "H W 3"], people: Sequence[Person]) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the picture, at its `drawn_size`, with people drawn into it, the farthest first.

    Each person has a colour. Limbs of the left side are paler, and limbs to joints that were not detected are thinner.
    """
    picture = Image.fromarray(image)
    size = np.array(drawn_size(image.shape[:2]))[::-1]
    if tuple(size) != picture.size:
        times = size / picture.size
        picture = picture.resize(size.tolist(), Image.Resampling.BICUBIC)
        people = [person._replace(pixels=person.pixels * times) for person in people]
    for person in sorted(people, key=_distance, reverse=True):
        _draw_skeleton(picture, person)
    boxes = label_boxes(people, drawn_size(image.shape[:2]))
    labelled = [(person, box) for person, box in zip(people, boxes) if not np.isnan(box).any()]
    for draw_part in (_draw_leader, _draw_label):  # on top of all skeletons; labels last, so that no line crosses them
        for person, box in labelled:
            draw_part(picture, person, box)
    return np.array(picture)


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which people are drawn into a picture of this height and width.

    A small picture is enlarged by a whole number, because lines need room. One that no file can hold is shrunk.
    """
    times: float = min(max(1, math.ceil(_READABLE / max(size))), 8)
    if max(size) > _LONGEST:
        times = _LONGEST / max(size)
    return max(1, round(size[0] * times)), max(1, round(size[1] * times))


def label_boxes(people: Sequence[Person], size: tuple[int, int]) -> Float[np.ndarray, "N 4"]:
    """Left, top, right and bottom of the labels in a picture of this height and width; NaN for people outside of it.

    A label is above the person's topmost joint, or as near to that as it covers no other label and nobody's head. Where
    there is no such place, it covers as little as possible. The nearest people come first.
    """
    limit = np.array(size[::-1])
    heads, boxes = np.array([_head_box(person) for person in people]).reshape(-1, 4), np.full((len(people), 4), np.nan)
    for i in sorted(range(len(people)), key=lambda i: _distance(people[i])):
        uv = people[i].pixels[_reachable(people[i], limit)]
        if not ((uv >= 0) & (uv <= limit)).all(axis=-1).any():
            continue
        width = _limb_width(people[i], limit)
        text_height = float(np.clip(4.5 * width, 11, max(11.0, np.hypot(*limit) / 45)))
        w = _font(text_height).getlength(str(people[i].id)) + 0.6 * text_height
        h = _LABEL_HEIGHT * text_height
        x, y = uv[np.argmin(uv[:, 1])]
        corners = np.clip([x - w / 2, y - 1.8 * width - h] + _OFFSETS * [w, h], 0, np.maximum(limit - [w, h], 0))
        places = np.concatenate([corners, corners + [w, h]], axis=1)
        # Two labels on top of each other are worse than a label on a head, and that is worse if the head is another's.
        covered = 100 * _overlaps(places, boxes) + _overlaps(places, np.delete(heads, i, axis=0))
        boxes[i] = places[np.argmin(covered + 0.1 * _overlaps(places, heads[i : i + 1]))]
    return boxes


def _overlaps(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Pixels `[C]` of each of the `places` `[C, 4]` that `boxes` `[N, 4]` cover; NaN for none."""
    low = np.maximum(places[:, None, :2], boxes[:, :2])
    high = np.minimum(places[:, None, 2:], boxes[:, 2:])
    return np.nan_to_num(np.prod(np.maximum(high - low, 0), axis=-1)).sum(axis=1)


def _head_box(person: Person) -> np.ndarray:
    """Left, top, right and bottom `[4]` of a head; NaN if it is not known."""
    ends = person.pixels[:2]  # head_top and neck
    middle, radius = ends.mean(axis=0), np.linalg.norm(ends[0] - ends[1]) / 2
    return np.concatenate([middle - radius, middle + radius])


def _distance(person: Person) -> float:
    """Mean metres to a person's joints; infinite without any."""
    metres = np.linalg.norm(person.joints, axis=-1)
    return float(np.nanmean(metres)) if np.isfinite(metres).any() else math.inf


@functools.lru_cache(maxsize=64)
def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _reachable(person: Person, size: np.ndarray) -> np.ndarray:
    """Which joints `[14]` are so near to the picture that lines are drawn to them."""
    return np.all((person.pixels > -size) & (person.pixels < 2 * size), axis=-1)  # NaN compares false


def _limb_width(person: Person, size: np.ndarray) -> float:
    uv = person.pixels[_reachable(person, size)]
    height = float(np.ptp(uv[:, 1]) + np.ptp(uv[:, 0])) if len(uv) else 0.0
    diagonal = float(np.hypot(*size))
    return float(np.clip(_LIMB * height, max(1.2, diagonal / 900), max(3.0, diagonal / 160)))


def _draw_skeleton(picture: Image.Image, person: Person) -> None:
    size = np.array(picture.size)
    there, width = _reachable(person, size), _limb_width(person, size)
    if not there.any():
        return
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
    # Averaging leaves the pixels between the lines as they were.
    part = part.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BOX)
    picture.paste(part, box[:2])


def _width_of(person: Person, a: int, b: int, width: float) -> float:
    return width if person.scores[a] > 0 and person.scores[b] > 0 else 0.5 * width


def _line(pen: ImageDraw.ImageDraw, a: np.ndarray, b: np.ndarray, width: float, fill: str) -> None:
    """A line with round ends."""
    pen.line([*a.tolist(), *b.tolist()], fill=fill, width=max(1, round(width)))
    for end in (a, b):
        _dot(pen, end, width / 2, fill)


def _dot(pen: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, fill: str) -> None:
    (x, y), r = centre.tolist(), max(radius, 0.5)
    pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _draw_leader(picture: Image.Image, person: Person, box: np.ndarray) -> None:
    """A line from the label's place to the person's topmost joint, if they are not next to each other."""
    size, height = np.array(picture.size), (box[3] - box[1]) / _LABEL_HEIGHT
    uv = person.pixels[_reachable(person, size)]
    top = uv[np.argmin(uv[:, 1])]
    if np.linalg.norm(np.clip(top, box[:2], box[2:]) - top) > height:
        pen = ImageDraw.Draw(picture)
        _line(pen, top, (box[:2] + box[2:]) / 2, 0.12 * height, colour(person.id))


def _draw_label(picture: Image.Image, person: Person, box: np.ndarray) -> None:
    """A person's id in a box."""
    height = (box[3] - box[1]) / _LABEL_HEIGHT
    pen, middle = ImageDraw.Draw(picture), (box[:2] + box[2:]) / 2
    pen.rounded_rectangle(box.tolist(), radius=0.3 * height, fill=colour(person.id), outline="white")
    pen.text(tuple(middle.tolist()), str(person.id), fill="white", font=_font(height), anchor="mm")
