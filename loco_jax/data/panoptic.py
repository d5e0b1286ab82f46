"""CMU Panoptic: people in a dome of cameras, for training and evaluation (Joo et al. 2017).

`config.data.dir` has a folder for each sequence, such as 160906_pizza1, each with

- `calibration_160906_pizza1.json`: the cameras,
- `hdPose3d_stage1_coco19/body3DScene_00000100.json` and so on (or the same in a folder `hd` in it): people in world
  coordinates in centimetres, 19 joints with confidences; or `hdPose3d_stage1` with the 15 joints of MPI, if the
  sequence has no others,
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
from absl import logging
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from loco_jax.data.frames import Example
from loco_jax.data.lazy import Lazy, in_a_row
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
# The older joints are in the same order, without eyes and ears, and with a head top in place of the nose.
JOINTS15 = (JOINTS[0], "head_top", *JOINTS[2:15])
# The folders of people, the best first: the field of a person's joints, and their names.
_POSES = {"hdPose3d_stage1_coco19": ("joints19", JOINTS), "hdPose3d_stage1": ("joints15", JOINTS15)}
# The sequences that papers test on (Zanfir et al. 2018, Zhen et al. 2020), and one for validation. All other
# sequences in the folder are for training.
TEST = (
    "160226_haggling1", "160422_haggling1", "160226_mafia1", "160226_ultimatum1", "160422_ultimatum1", "160906_pizza1",
)  # fmt: skip
VALIDATION = ("160422_mafia2",)
CAMERAS = ("00_16", "00_30")  # that papers use
LEAST_CONFIDENCE = 0.1  # a joint is present above it
FPS = 29.97
_TRAIN_EVERY = 3  # frames; those between are nearly the same
_CELL = 32  # pixels a side of the cells within which the lens's distortion is interpolated
_HEAD_FROM_EARS = 0.75  # from the ears to the head top, as a share of the distance from the neck to the ears


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
    poses: str  # the name of the folder with people, as in "hdPose3d_stage1"
    frames: tuple[tuple[int, pathlib.Path], ...]  # numbers and files of people


class Panoptic(Stored):
    """CMU Panoptic. Activities are scored separately.

    The 19 joints have no head top, so that joint is then neither a target nor scored.
    """

    folder = "the folder of its sequences"
    remedy = "let --config.data.head_of_ears=True estimate the head top from ears and neck"

    @property
    def name(self) -> str:
        have = sum(_is_sequence(self._root / name) and bool(_poses(str(self._root / name))) for name in TEST)
        return "CMU Panoptic" + (f" ({have} of {len(TEST)} test sequences)" if have < len(TEST) else "")

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.config.data.dir).expanduser()

    def examples(self, split: str) -> Sequence[Example]:
        films = self._films(split)
        training = split not in ("validation", "test")
        guess_head = training and self.config.data.head_of_ears
        frames = [(film, *frame) for film in films for frame in film.frames]
        return Lazy(len(frames), functools.partial(_example, frames, self.groups(split), guess_head))

    def films(self, split: str) -> Sequence[range]:
        return in_a_row(len(film.frames) for film in self._films(split))

    def groups(self, split: str) -> Sequence[str]:
        return sorted({activity(name) for name in self._sequences(split)})

    def _sequences(self, split: str) -> list[str]:
        """The names of a split's sequences that exist and have people."""
        named = {"test": TEST, "validation": VALIDATION}
        there = sorted(path.name for path in self._root.glob("*") if _is_sequence(path))
        chosen = [n for n in there if (n in named[split] if split in named else n not in TEST + VALIDATION)]
        names = [name for name in chosen if _poses(str(self._root / name))]
        if not names:
            wanted = f" of {', '.join(named[split])}" if split in named else ""
            if chosen:
                wanted += f" with people: {self._root / chosen[0]} has no {' or '.join(_POSES)} with body3DScene_*.json"
            raise FileNotFoundError(f"{self._root}: has no folder of a sequence{wanted}, which split {split!r} needs")
        for name in sorted({*chosen} - {*names}):
            _tell_of_skipped(str(self._root / name))
        return names

    def _films(self, split: str) -> list[Film]:
        found = []
        for name in self._sequences(split):
            folder = self._root / name
            every = 1 if split in ("validation", "test") else _TRAIN_EVERY
            poses = _poses(str(folder))
            frames = _frames(str(folder / poses))[::every]
            lenses = read_cameras(str(folder / f"calibration_{name}.json"))
            for view in CAMERAS:
                if view not in lenses:
                    raise ValueError(f"{folder / f'calibration_{name}.json'}: has no HD camera {view}")
                found.append(Film(folder, view, lenses[view], poses, frames))
        return found


def activity(sequence: str) -> str:
    """The activity in a sequence's name: "pizza" of "160906_pizza1"."""
    return re.sub(r"^\d+_|(_\w)?\d*$", "", sequence)


def _example(
    frames: Sequence[tuple[Film, int, pathlib.Path]], activities: Sequence[str], guess_head: bool, index: int
) -> Example:
    film, number, path = frames[index]
    field, names = _POSES[film.poses]
    guess_head = guess_head and "head_top" not in names
    ids, world, confidence = read_people(path, field)
    joints = world @ film.lens.rotation.T + film.lens.translation
    present = confidence > LEAST_CONFIDENCE
    mapped, there = map_joints(joints, present, names, guess_head)
    return Example(
        mapped.astype(np.float32),
        there,
        ids,
        film.lens.camera,
        film.lens.size,
        f"{path}, camera {film.view}",
        time=number / FPS,
        picture=functools.partial(read_picture, film.folder, film.view, number, film.lens),
        group=activities.index(activity(film.folder.name)),
        annotated=np.array([name in names or (guess_head and name == "head_top") for name in skeleton.JOINTS]),
    )


def map_joints(
    joints: Float[np.ndarray, "N M 3"],
    present: Bool[np.ndarray, "N M"],
    names: Sequence[str],
    guess_head: bool,
) -> tuple[Float[np.ndarray, "N 14 3"], np.ndarray]:
    """LoCO's joints, by the `names` of the given ones, and which of them are present.

    With `guess_head`, the head top is estimated from ears and neck.
    """
    mapped, there = np.zeros((len(joints), 14, 3)), np.zeros((len(joints), 14), bool)
    for place, name in enumerate(skeleton.JOINTS):
        if name in names:
            mapped[:, place], there[:, place] = joints[:, names.index(name)], present[:, names.index(name)]
    if guess_head:
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
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: is not a calibration of CMU Panoptic ({reason}); get the file again") from error


def _lens(c: dict[str, Any]) -> Lens:
    matrix, rotation = np.reshape(np.array(c["K"], float), (3, 3)), np.reshape(np.array(c["R"], float), (3, 3))
    width, height = map(int, c["resolution"])
    camera = Camera(*map(float, (matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5)))
    distortion = tuple(np.reshape(np.array(c["distCoef"], float), 5).tolist())
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise ValueError(f"R of camera {c['name']} is not a rotation matrix")
    return Lens(camera, distortion, rotation, np.reshape(np.array(c["t"], float), 3) / 100, (height, width))


def read_people(
    path: pathlib.Path, field: str = "joints19"
) -> tuple[np.ndarray, Float[np.ndarray, "N M 3"], Float[np.ndarray, "N M"]]:
    """Ids, joints in metres in world coordinates, and confidences of the people in a file of a frame.

    `field` is "joints19" or "joints15". People with negative ids are outliers, which are left out. Raises ValueError
    that names the file.
    """
    content, names = _json(path), dict(_POSES.values())[field]
    try:
        bodies = content["bodies"]
        if not isinstance(bodies, list):
            raise ValueError("bodies is not a list")
        if any(field not in body for body in bodies):
            have, poses = ", ".join(bodies[0]), {f: place for place, (f, _) in _POSES.items()}
            raise ValueError(f"its people have {have}, not {field}; get {poses[field]}")
        if wrong := [len(body[field]) for body in bodies if len(body[field]) != 4 * len(names)]:
            raise ValueError(f"{field} has {wrong[0]} numbers, not {4 * len(names)}")
        bodies = [body for body in bodies if body["id"] >= 0]
        numbers = np.array([body[field] for body in bodies], float).reshape(len(bodies), len(names), 4)
        ids = np.array([body["id"] for body in bodies], np.int64)
        if len(set(ids.tolist())) < len(ids):
            raise ValueError(f"two people have the same id among {ids.tolist()}")
        if not np.isfinite(numbers).all():
            raise ValueError(f"{field} has numbers that are not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not a file of people of CMU Panoptic: {error}") from error
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


def _is_sequence(folder: pathlib.Path) -> bool:
    return any(folder.glob("calibration_*.json")) or any(folder.glob("hdPose3d_stage1*"))


def _poses(folder: str) -> str:
    """The name of the folder with a sequence's people, "" if there is none."""
    return next((name for name in _POSES if _frames(f"{folder}/{name}")), "")


@functools.lru_cache(maxsize=256)
def _tell_of_skipped(folder: str) -> None:
    missing = " or ".join(_POSES)
    logging.warning("%s: is skipped because it has no %s with body3DScene_*.json; get these to use it", folder, missing)


@functools.lru_cache(maxsize=256)
def _frames(place: str) -> tuple[tuple[int, pathlib.Path], ...]:
    """Numbers and files of a sequence's people, in order; none without files."""
    paths = [*pathlib.Path(place).glob("body3DScene_*.json"), *pathlib.Path(place).glob("hd/body3DScene_*.json")]
    numbered = [(re.fullmatch(r"body3DScene_(\d+)", path.stem), path) for path in paths]
    return tuple(sorted((int(match[1]), path) for match, path in numbered if match))


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); get the file again") from error
