"""MuPoTS-3D: twenty sequences of people in rooms and in the open, for evaluation only (Mehta et al. 2018).

`config.data.dir` has the folders TS1 to TS20, each with `annot.mat`, `occlusion.mat` and `img_000000.jpg` and so on.
The annotations are in millimetres in camera coordinates, with x right, y down and z ahead. Relative errors refer to the
same poses at a universal size, `univ_annot3`, as the authors' script does. The files have no cameras.
They follow from the joints in the picture and in space, by least squares.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.io
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from loco_jax.data.frames import Example
from loco_jax.data.lazy import Lazy, in_a_row
from loco_jax.data.stored import Stored
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import pictures

JOINTS = (
    "head_top", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "pelvis", "spine", "head",
)  # fmt: skip
_OURS = [JOINTS.index(name) for name in skeleton.JOINTS]
SEQUENCES = tuple(f"TS{number}" for number in range(1, 21))
_OFF = 10.0  # pixels; root of the mean squared error of joints in the picture beyond which no camera fits


class Clip(NamedTuple):
    """A sequence of T frames with up to P people.

    Attributes:
      folder: of the pictures.
      joints: metres in camera coordinates.
      universal: the same at the universal size, also in metres.
      valid: whether the person is annotated in the frame.
      occluded: whether the joint is hidden.
      camera: in pixels.
      size: height and width of the pictures.
    """

    folder: pathlib.Path
    joints: Float[np.ndarray, "T P 17 3"]
    universal: Float[np.ndarray, "T P 17 3"]
    valid: Bool[np.ndarray, "T P"]
    occluded: Bool[np.ndarray, "T P 17"]
    camera: Camera
    size: tuple[int, int]


class Mupots(Stored):
    """MuPoTS-3D. Its only split is "test". Each sequence is scored separately."""

    folder = "the folder that has TS1 to TS20"

    @property
    def name(self) -> str:
        return "MuPoTS-3D"

    def examples(self, split: str) -> Sequence[Example]:
        clips = self._read(split)
        places = [(number, t) for number, clip in enumerate(clips) for t in range(len(clip.valid))]
        return Lazy(len(places), functools.partial(_example, clips, places))

    def films(self, split: str) -> Sequence[range]:
        return in_a_row(len(clip.valid) for clip in self._read(split))

    def groups(self, split: str) -> Sequence[str]:
        return SEQUENCES

    def _read(self, split: str) -> list[Clip]:
        if split != "test":
            raise ValueError(f"MuPoTS-3D has no split {split!r}: it is for evaluation only, --mode=eval --split=test")
        return [read_sequence(str(pathlib.Path(self.config.data.dir).expanduser() / name)) for name in SEQUENCES]


def _example(clips: list[Clip], places: list[tuple[int, int]], index: int) -> Example:
    number, t = places[index]
    clip = clips[number]
    valid, path = clip.valid[t], clip.folder / f"img_{t:06d}.jpg"
    joints = clip.joints[t, valid][:, _OURS].astype(np.float32)
    return Example(
        joints,
        np.ones(joints.shape[:2], bool),
        np.flatnonzero(valid),
        clip.camera,
        clip.size,
        str(path),
        time=t / (30.0 if number < 5 else 60.0),  # those in rooms come first, and have 30 frames a second
        picture=functools.partial(_read_picture, path),
        group=number,
        occluded=clip.occluded[t, valid][:, _OURS],
        universal=clip.universal[t, valid][:, _OURS].astype(np.float32),
    )


def _read_picture(path: pathlib.Path) -> UInt8[np.ndarray, "H W 3"]:
    return pictures.read(path).image


@functools.lru_cache(maxsize=64)
def read_sequence(folder: str) -> Clip:
    """A sequence's annotations and camera; pictures are read later.

    Raises FileNotFoundError or ValueError that names a missing or malformed file.
    """
    place = pathlib.Path(folder)
    cells = _load(place / "annot.mat", "annotations")
    labels = _load(place / "occlusion.mat", "occlusion_labels")
    if cells.shape != labels.shape:
        raise ValueError(f"{place / 'occlusion.mat'}: is {labels.shape}, frames by people, but annot.mat {cells.shape}")
    fields = {"annot2": (2, 17), "annot3": (3, 17), "univ_annot3": (3, 17), "isValidFrame": (1, 1)}
    arrays = {name: _field(place / "annot.mat", cells, name, shape) for name, shape in fields.items()}
    occluded = _stack(place / "occlusion.mat", "occlusion_labels", labels, (1, 17))[:, :, 0] != 0
    valid = arrays["isValidFrame"][..., 0, 0] != 0
    uv, xyz, universal = (np.moveaxis(arrays[name], -1, -2) for name in ("annot2", "annot3", "univ_annot3"))
    if not np.isfinite(universal[valid]).all():
        raise ValueError(f"{place / 'annot.mat'}: univ_annot3 has numbers that are not finite")
    camera = fit_camera(place / "annot.mat", uv[valid].reshape(-1, 2), xyz[valid].reshape(-1, 3))
    first = place / "img_000000.jpg"
    missing = [path for path in (first, place / f"img_{len(valid) - 1:06d}.jpg") if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such picture; annot.mat has {len(valid)} frames")
    with Image.open(first) as picture:
        size = picture.height, picture.width
    return Clip(place, xyz / 1000, universal / 1000, valid, occluded, camera, size)


def fit_camera(path: pathlib.Path, uv: Float[np.ndarray, "N 2"], xyz: Float[np.ndarray, "N 3"]) -> Camera:
    """The pinhole camera that shows points at pixels `uv`, by least squares. Raises ValueError, naming `path`."""
    if len(uv) < 2 or not (xyz[:, 2] > 0).all() or not np.isfinite([uv.sum(), xyz.sum()]).all():
        raise ValueError(
            f"{path}: annot3 has no valid person, or a joint at z <= 0 or at numbers that are not finite; joints must "
            "be in millimetres, z ahead"
        )
    intrinsics, off = [], np.zeros(())
    for axis in range(2):
        line = np.stack([xyz[:, axis] / xyz[:, 2], np.ones(len(xyz))], axis=-1)
        intrinsics.append(np.linalg.lstsq(line, uv[:, axis], rcond=None)[0])
        off = off + np.mean(np.square(line @ intrinsics[-1] - uv[:, axis]))
    (fx, cx), (fy, cy) = intrinsics
    if not (fx > 0 and fy > 0 and np.sqrt(off) < _OFF):
        raise ValueError(
            f"{path}: no camera shows annot3 at annot2 (off by {np.sqrt(off):.3g} pixels); the file is of another "
            "version or damaged"
        )
    return Camera(float(fx), float(fy), float(cx), float(cy))


def _load(path: pathlib.Path, name: str) -> np.ndarray:
    """The cells `[T, P]` of a variable of a MATLAB file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; config.data.dir must hold MuPoTS-3D's folders TS1 to TS20")
    try:
        content = scipy.io.loadmat(path)
    except (ValueError, TypeError, OSError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({error}); get it again") from error
    cells = content.get(name)
    if cells is None or cells.dtype != object or cells.ndim != 2 or not cells.size:
        have = ", ".join(key for key in content if not key.startswith("__"))
        raise ValueError(f"{path}: has no cells {name!r} of frames by people, but {have}; it is of another version")
    return cells


def _field(path: pathlib.Path, cells: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field of all cells, which are structures: `[T, P, *shape]`."""
    lacks = [cell for cell in cells.flat if cell.dtype.names is None or name not in cell.dtype.names]
    if lacks:
        raise ValueError(
            f"{path}: annotations lack {name!r}, but have {lacks[0].dtype.names}; it is of another version"
        )
    values = np.empty(cells.shape, object)
    for index, cell in np.ndenumerate(cells):
        values[index] = cell[name][0, 0]
    return _stack(path, name, values, shape)


def _stack(path: pathlib.Path, name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    allowed = {shape, shape[::-1]} if 1 in shape else {shape}
    wrong = [np.shape(value) for value in values.flat if np.shape(value) not in allowed]
    if wrong:
        raise ValueError(f"{path}: {name} has the shape {wrong[0]}, not {shape}; it is of another version")
    stacked = np.stack([np.asarray(value, np.float64).reshape(shape) for value in values.flat])
    return stacked.reshape(*values.shape, *shape)
