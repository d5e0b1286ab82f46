"""From a picture to its people. The predict command, `loco_jax.load` and notebooks all use this module."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps

from loco_jax import weights
from loco_jax.geometry.camera import Camera, project_on_host
from loco_jax.media import canvas as canvases
from loco_jax.media import overlays, pictures
from loco_jax.media.canvas import Canvas
from loco_jax.media.overlays import Person
from loco_jax.media.pictures import Focal, Picture
from loco_jax.predict.camera import Lens, camera_of
from loco_jax.predict.page import jpeg
from loco_jax.predict.predictor import Predictor, load_predictor

_EDGE = 8  # pixels of the canvas, a voxel, by which a head may lie outside the picture


class View(NamedTuple):
    """The geometry of pictures of one size and camera.

    Attributes:
      size: the pictures' height and width.
      camera: their camera; `camera_from` says where its numbers come from.
      canvas: how they are resampled for the network.
      warnings: lines for the user.
    """

    size: tuple[int, int]
    camera: Camera
    camera_from: str
    canvas: Canvas
    warnings: tuple[str, ...]


class People(list[Person]):
    """The people of one picture, the highest score first. Jupyter shows them as the picture with skeletons.

    A person's `joints` are an array of 14 joints in the order of `loco_jax.geometry.skeleton.JOINTS`. `image` is the
    picture, and `view` has its camera and warnings.
    """

    def __init__(self, people: Sequence[Person], image: UInt8[np.ndarray, "H W 3"], view: View):
        super().__init__(people)
        self.image, self.view = image, view

    def overlay(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with skeletons, at its `overlays.drawn_size`."""
        # The image of a very large file is smaller than the view's size.
        times = np.divide(self.image.shape[1::-1], self.view.size[::-1])
        return overlays.draw(self.image, [person._replace(pixels=person.pixels * times) for person in self])

    def _repr_jpeg_(self) -> bytes:
        return jpeg(self.overlay())


class Finder:
    """A function from a picture to its people; `load` makes one."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def __call__(
        self,
        picture: Shaped[np.ndarray, "..."] | Image.Image | os.PathLike | str,
        camera: Camera | None = None,
        fov: float | None = None,
    ) -> People:
        """Finds the people in a picture.

        Args:
          picture: an array `[H, W, 3]` uint8, a PIL image, or a file's path. Only a file has EXIF.
          camera: the picture's camera, in pixels.
          fov: the horizontal field of view in degrees, instead of `camera`.

        Without both, the focal length comes from EXIF. Without EXIF, the field of view of the training pictures is
        assumed. Raises ValueError for other kinds of `picture` and for an impossible camera.
        """
        if camera is not None and fov is not None:
            raise ValueError("give camera or fov, not both")
        lens = (Lens() if camera is None else Lens(*map(float, camera)))._replace(fov=fov)
        return look(_read(picture), lens, self.predictor)


def load(source: str = weights.RELEASED, min_score: float | None = None) -> Finder:
    """A trained LoCO from a run's folder or a file of weights, or the "released" LoCO.

    `min_score` is the least score of a person, from 0 to 1. None takes it from the weights' config. The first picture
    of each size takes longer, because the network is compiled for it. Raises ValueError or OSError for unreadable
    weights.
    """
    return Finder(load_predictor(source, min_score))


def look(picture: Picture, lens: Lens, predictor: Predictor) -> People:
    """Finds the people in a picture. Raises ValueError for an impossible camera."""
    view = view_of(picture.size, lens, picture.focal, predictor)
    view = view._replace(warnings=picture.warnings + view.warnings)
    (found,) = find_all([canvases.fill(view.canvas, picture.image)], [view], predictor)
    return People(to_people(*found, view.camera), picture.image, view)


def view_of(
    size: tuple[int, int], lens: Lens, focal: Focal | None, predictor: Predictor, pixel_aspect: float = 1.0
) -> View:
    """The geometry of pictures of `size` (height, width). The other arguments and errors are those of `camera_of`."""
    trained, trained_size = predictor.camera, predictor.image_size
    camera, source = camera_of(size, lens, focal, trained, trained_size, pixel_aspect)
    canvas = canvases.plan(size, camera, trained, trained_size)
    warnings = []
    if canvas.shrink < 1:
        warnings.append(
            "its field of view is so much wider than in training that the picture was shrunk to "
            f"{canvas.shrink:.0%} of the training scale: distances, corrected for this, are less exact"
        )
    if max(canvas.picture_size) < max(trained_size) / 8:
        warnings.append(
            f"its field of view is so narrow that only {canvas.picture_size[1]} x {canvas.picture_size[0]} pixels are "
            "left of it at the training scale: check the focal length"
        )
    return View(size, camera, source, canvas, tuple(warnings))


def find_all(
    filled: Sequence[UInt8[np.ndarray, "h w 3"]], views: Sequence[View], predictor: Predictor
) -> list[tuple[Float[np.ndarray, "_ J 3"], Float[np.ndarray, "_ J"]]]:
    """The people in several pictures of one size: joints in metres (NaN if unknown) and their scores.

    Pictures are `filled` into their views' canvases, so that a pixel covers the same angle as in training. People whose
    heads lie in the padding around the picture are left out.
    """
    found = predictor.find(np.stack(filled), [view.canvas.camera for view in views])
    return [to_view(each, view) for each, view in zip(found, views)]


def to_view(
    found: tuple[Float[np.ndarray, "N J 3"], Float[np.ndarray, "N J"]], view: View
) -> tuple[Float[np.ndarray, "P J 3"], Float[np.ndarray, "P J"]]:
    """What a predictor finds in a canvas, for the user's camera; see `find_all`."""
    joints, scores = (np.asarray(array, np.float64) for array in found)
    known = np.isfinite(joints).all(axis=-1) & (joints != 0).any(axis=-1)
    joints = canvases.to_user(view.canvas, np.where(known[..., None], joints, 0.0), known)
    joints = np.where(known[..., None], joints, np.nan)
    size = np.array(view.size[::-1])
    edge = _EDGE * size / view.canvas.picture_size[::-1]
    heads = project_on_host(view.camera, joints[:, 0])
    inside = ((heads >= -edge) & (heads <= size + edge)).all(axis=-1)  # NaN compares false
    return joints[inside], scores[inside]


def to_people(
    joints: Float[np.ndarray, "P J 3"],
    scores: Float[np.ndarray, "P J"],
    camera: Camera,
    ids: Sequence[int] | None = None,
) -> list[Person]:
    """Joints (metres) and their scores as people. Ids count from 1 if None. A person's score is the mean of 14."""
    ids = range(1, len(joints) + 1) if ids is None else ids
    rows = zip(ids, joints, project_on_host(camera, joints), scores)
    return [Person(int(i), float(s.mean()), person, uv, s) for i, person, uv, s in rows]


def _read(picture: np.ndarray | Image.Image | os.PathLike | str) -> Picture:
    if isinstance(picture, (str, os.PathLike)):
        return pictures.read(pathlib.Path(picture).expanduser())
    if isinstance(picture, Image.Image):
        picture = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    image = np.asarray(picture)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a picture has the shape [H, W, 3] and type uint8, not {list(image.shape)} {image.dtype}")
    return Picture(image, None, (image.shape[0], image.shape[1]))
