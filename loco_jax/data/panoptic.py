"""CMU Panoptic: people in a dome of cameras, for training and evaluation (Joo et al. 2017).

`config.data.dir` has a folder for each sequence, such as 160906_pizza1, each with

- `calibration_160906_pizza1.json`: the cameras,
- `hdPose3d_stage1_coco19/body3DScene_00000100.json` and so on (or the same in a folder `hd` in it): people in world
  coordinates in centimetres, 19 joints with confidences,
- `hdImgs/00_16/00_16_00000100.jpg` and so on, or `hdVideos/hd_00_16.mp4`, whose first frame has the number 0.

A camera shows the world point X at `R X + t`, with x right, y down and z ahead. Its lens distorts pictures, which is
undone. Pixels of the calibration are measured from the middle of the first pixel; ours are half a pixel larger.
"""

import functools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float, UInt8
from PIL import Image

from loco_jax.data import streams
from loco_jax.data.frames import Example
from loco_jax.data.stored import Stored
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import pictures, videos

JOINTS = (
    "neck", "nose", "mid_hip",
    "left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle",
    "right_shoulder", "right_elbow", "right_wrist", "right_hip", "right_knee", "right_ankle",
    "left_eye", "left_ear", "right_eye", "right_ear",
)  # fmt: skip
# The sequences that papers test on (Zanfir et al. 2018, Zhen et al. 2020), and one for validation. All others that are
# there are for training.
TEST = (
    "160226_haggling1", "160422_haggling1", "160226_mafia1", "160226_ultimatum1", "160422_ultimatum1", "160906_pizza1",
)  # fmt: skip
VALIDATION = ("160422_mafia2",)
CAMERAS = ("00_16", "00_30")  # that papers take
LEAST_CONFIDENCE = 0.1  # above which a joint is there
FPS = 29.97
_TRAIN_EVERY = 3  # frames; those between are nearly the same
_CELL = 32  # pixels of a cell in which the lens's distortion counts as even
_HEAD_FROM_EARS = 0.75  # the head top lies so far above the ears, in distances from the neck to them


class Lens(NamedTuple):
    """A camera of the dome."""

    camera: Camera  # in pixels from the picture's top left corner
    distortion: tuple[float, ...]  # k1, k2, p1, p2, k3
    rotation: Float[np.ndarray, "3 3"]  # from world to camera
    translation: Float[np.ndarray, "3"]  # metres
    size: tuple[int, int]  # height and width of pictures


class Film(NamedTuple):
    """The frames of a sequence that a camera saw."""

    folder: pathlib.Path  # of the sequence
    view: str  # as in "00_16"
    lens: Lens
    frames: tuple[tuple[int, pathlib.Path], ...]  # numbers and files of people


class Panoptic(Stored):
    """CMU Panoptic. It has no head top, so that joint is neither a target nor scored. Activities are scored apart."""

    folder = "the folder of its sequences"

    @property
    def name(self) -> str:
        have = sum((self._root / name).is_dir() for name in TEST)
        return "CMU Panoptic" + (f" ({have} of {len(TEST)} test sequences)" if have < len(TEST) else "")

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.config.data.dir).expanduser()

    def training_stream(self, sharding: NamedSharding) -> streams.ReadStream:
        c = self.config
        if c.task not in ("vha", "trunk") and not c.data.get("head_of_ears"):
            raise ValueError(
                f"{c.data.dir}: CMU Panoptic has no head top, by which people are grouped; to train for "
                f"config.task={c.task}, let --config.data.head_of_ears=True take one of ears and neck"
            )
        return super().training_stream(sharding)

    def examples(self, split: str) -> Sequence[Example]:
        films = self._films(split)
        training = split not in ("validation", "test")
        return _Frames(films, self.groups(split), training and bool(self.config.data.get("head_of_ears")))

    def films(self, split: str) -> Sequence[range]:
        ends = np.cumsum([0, *(len(film.frames) for film in self._films(split))]).tolist()
        return [range(first, end) for first, end in zip(ends, ends[1:])]

    def groups(self, split: str) -> Sequence[str]:
        return sorted({activity(name) for name in self._sequences(split)})

    def _sequences(self, split: str) -> list[str]:
        """The names of a split's sequences that are there."""
        named = {"test": TEST, "validation": VALIDATION}
        parts = [*self._root.glob("*/calibration_*.json"), *self._root.glob("*/hdPose3d_stage1*")]
        there = sorted({path.parent.name for path in parts})
        names = [n for n in there if (n in named[split] if split in named else n not in TEST + VALIDATION)]
        if not names:
            wanted = f" of {', '.join(named[split])}" if split in named else ""
            raise FileNotFoundError(f"{self._root}: has no folder of a sequence{wanted}")
        return names

    def _films(self, split: str) -> list[Film]:
        found = []
        for name in self._sequences(split):
            folder = self._root / name
            every = 1 if split in ("validation", "test") else _TRAIN_EVERY
            frames = _frames(str(folder))[::every]
            lenses = read_cameras(str(folder / f"calibration_{name}.json"))
            for view in CAMERAS:
                if view not in lenses:
                    raise ValueError(f"{folder / f'calibration_{name}.json'}: has no HD camera {view}")
                found.append(Film(folder, view, lenses[view], frames))
        return found


def activity(sequence: str) -> str:
    """The activity in a sequence's name: "pizza" of "160906_pizza1"."""
    return re.sub(r"^\d+_|(_\w)?\d*$", "", sequence)


class _Frames(Sequence[Example]):
    def __init__(self, films: list[Film], activities: Sequence[str], head: bool):
        self._films, self._activities, self._head = films, list(activities), head
        self._ends = np.cumsum([len(film.frames) for film in films])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index):
        which = int(np.searchsorted(self._ends, index, side="right"))
        film = self._films[which]
        number, path = film.frames[index - int(self._ends[which])]
        ids, world, confidence = read_people(path)
        joints = world @ film.lens.rotation.T + film.lens.translation
        present = confidence > LEAST_CONFIDENCE
        mapped, there = map_joints(joints, present, self._head)
        return Example(
            mapped.astype(np.float32),
            there,
            ids,
            film.lens.camera,
            film.lens.size,
            f"{path}, camera {film.view}",
            time=number / FPS,
            picture=functools.partial(read_picture, film.folder, film.view, number, film.lens),
            group=self._activities.index(activity(film.folder.name)),
            annotated=np.array([name in JOINTS or (self._head and name == "head_top") for name in skeleton.JOINTS]),
        )


def map_joints(
    joints: Float[np.ndarray, "N 19 3"], present: np.ndarray, head: bool = False
) -> tuple[Float[np.ndarray, "N 14 3"], np.ndarray]:
    """LoCO's joints, by their names, and which of them are there. With `head`, the head top follows ears and neck."""
    mapped, there = np.zeros((len(joints), 14, 3)), np.zeros((len(joints), 14), bool)
    for place, name in enumerate(skeleton.JOINTS):
        if name in JOINTS:
            mapped[:, place], there[:, place] = joints[:, JOINTS.index(name)], present[:, JOINTS.index(name)]
    if head:
        ears, neck = [JOINTS.index("left_ear"), JOINTS.index("right_ear")], JOINTS.index("neck")
        top, middle = skeleton.JOINTS.index("head_top"), joints[:, ears].mean(axis=1)
        there[:, top] = present[:, [*ears, neck]].all(axis=1)
        mapped[:, top] = np.where(there[:, top, None], middle + _HEAD_FROM_EARS * (middle - joints[:, neck]), 0.0)
    return mapped, there


@functools.lru_cache(maxsize=256)
def read_cameras(path: str) -> dict[str, Lens]:
    """The HD cameras of a calibration by name, as in "00_16". Raises ValueError that names the file."""
    content = _json(pathlib.Path(path))
    try:
        return {c["name"]: _lens(c) for c in content["cameras"] if c.get("type", "hd") == "hd"}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: is no calibration of CMU Panoptic ({type(error).__name__}: {error})") from error


def _lens(c: dict[str, Any]) -> Lens:
    matrix, rotation = np.reshape(np.array(c["K"], float), (3, 3)), np.reshape(np.array(c["R"], float), (3, 3))
    width, height = map(int, c["resolution"])
    camera = Camera(*map(float, (matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5)))
    distortion = tuple(np.reshape(np.array(c["distCoef"], float), 5).tolist())
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise ValueError(f"R of camera {c['name']} is no rotation")
    return Lens(camera, distortion, rotation, np.reshape(np.array(c["t"], float), 3) / 100, (height, width))


def read_people(
    path: pathlib.Path,
) -> tuple[np.ndarray, Float[np.ndarray, "N 19 3"], Float[np.ndarray, "N 19"]]:
    """Ids, joints in metres in world coordinates, and confidences of the people in a file of a frame.

    Raises ValueError that names the file.
    """
    content = _json(path)
    try:
        bodies = content["bodies"]
        if any("joints19" not in body for body in bodies):
            have = ", ".join(bodies[0])
            raise ValueError(f"its people have {have}, not joints19; get hdPose3d_stage1_coco19")
        if wrong := [len(body["joints19"]) for body in bodies if len(body["joints19"]) != 4 * len(JOINTS)]:
            raise ValueError(f"joints19 has {wrong[0]} numbers, not {4 * len(JOINTS)}")
        numbers = np.array([body["joints19"] for body in bodies], float).reshape(len(bodies), len(JOINTS), 4)
        ids = np.array([body["id"] for body in bodies], np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no file of people of CMU Panoptic: {error}") from error
    return ids, numbers[..., :3] / 100, numbers[..., 3]


def read_picture(folder: pathlib.Path, view: str, number: int, lens: Lens) -> UInt8[np.ndarray, "H W 3"]:
    """A camera's picture of a frame, without the lens's distortion. Raises FileNotFoundError, or ValueError."""
    stem, film = folder / "hdImgs" / view / f"{view}_{number:08d}", folder / "hdVideos" / f"hd_{view}.mp4"
    for path in (stem.with_suffix(".jpg"), stem.with_suffix(".png")):
        if path.exists():
            return undistort(pictures.read(path).image, lens)
    if not film.exists():
        raise FileNotFoundError(f"{stem}.jpg: no such picture, and {film} does not exist either; get one of them")
    return undistort(videos.read_one(film, number), lens)


def distort(uv: Float[np.ndarray, "*n 2"], lens: Lens) -> Float[np.ndarray, "*n 2"]:
    """Where a lens shows what a pinhole camera would show at pixels `uv` (Brown's model: k1, k2, p1, p2, k3)."""
    c, (k1, k2, p1, p2, k3) = lens.camera, lens.distortion
    x, y = (uv[..., 0] - c.cx) / c.fx, (uv[..., 1] - c.cy) / c.fy
    r = x * x + y * y
    radial = 1 + r * (k1 + r * (k2 + r * k3))
    moved = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return np.stack([c.fx * moved[0] + c.cx, c.fy * moved[1] + c.cy], axis=-1)


def undistort(image: UInt8[np.ndarray, "H W 3"], lens: Lens) -> UInt8[np.ndarray, "H W 3"]:
    """The picture that a pinhole camera would have taken in the place of the lens; black where the lens saw nothing."""
    height, width = image.shape[:2]
    if not any(lens.distortion):
        return image
    mesh = []
    for top in range(0, height, _CELL):
        for left in range(0, width, _CELL):
            bottom, right = min(top + _CELL, height), min(left + _CELL, width)
            corners = np.array([[left, top], [left, bottom], [right, bottom], [right, top]], float)
            mesh.append(((left, top, right, bottom), tuple(distort(corners, lens).ravel().tolist())))
    shown = Image.fromarray(image).transform(
        (width, height), Image.Transform.MESH, mesh, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(shown)


@functools.lru_cache(maxsize=256)
def _frames(folder: str) -> tuple[tuple[int, pathlib.Path], ...]:
    """Numbers and files of a sequence's people, in order."""
    place = pathlib.Path(folder) / "hdPose3d_stage1_coco19"
    paths = [*place.glob("body3DScene_*.json"), *place.glob("hd/body3DScene_*.json")]
    if not paths:
        older = " (hdPose3d_stage1 has other joints)" if place.with_name("hdPose3d_stage1").exists() else ""
        raise FileNotFoundError(f"{place / 'body3DScene_00000000.json'}: no such file, nor a later one{older}")
    return tuple(sorted((int(re.sub(r"\D", "", path.stem.removeprefix("body3DScene"))), path) for path in paths))


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); get the file again") from error
