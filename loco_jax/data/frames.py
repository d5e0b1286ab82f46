"""The people in a frame, or in a batch of frames, with their camera and picture: the output of every data source."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera


class Origin(NamedTuple):
    """Facts about a frame that the metrics of other data sets' papers need."""

    group: Int32[Array, "*B"]  # the sequence or activity that it is scored in: an index into `DataSet.groups`
    zoom: Float32[Array, "*B"]  # pixels of the picture per pixel of the file
    annotated: Bool[Array, "*B 14"]  # the joint types that the data set has; others are neither targets nor scored
    occluded: Bool[Array, "*B P 14"]  # whether the joint is hidden, if that is known
    universal: Float32[Array, "*B P 14 3"] | None = None  # see `Example`; None if the data set has none


class Frames(NamedTuple):
    """One frame, or a batch of frames along a leading axis B; P is padded."""

    joints: Float32[Array, "*B P 14 3"]  # metres in camera coordinates
    present: Bool[Array, "*B P 14"]  # whether the joint exists, in the picture or not (see `Volume.in_view`)
    camera: Camera  # each intrinsic a float32 `[*B]`
    image: UInt8[Array, "*B height width 3"] | None = None
    ground: Float32[Array, "*B 4"] | None = None  # up in camera axes, and the camera's height in metres; if known
    origin: Origin | None = None  # None for the crowd and JTA


def only_annotated(errors: Float32[Array, "B 14 *rest"], frames: Frames) -> Float32[Array, "B 14 *rest"]:
    """Errors by joint types, 0 for those that the data set of a batch of frames lacks."""
    if frames.origin is None:
        return errors
    annotated = jnp.asarray(frames.origin.annotated)
    return jnp.where(annotated.reshape(annotated.shape + (1,) * (errors.ndim - 2)), errors, 0)


class Instant(NamedTuple):
    """A frame of a sequence.

    Attributes:
      time: seconds.
      ids: who the people of `frame` are; any number in the padding.
      frame: arrays of NumPy without batch axis.
    """

    time: float
    ids: Int[np.ndarray, "P"]
    frame: Frames


class Example(NamedTuple):
    """A frame as a data set in files has it, with its N people.

    Attributes:
      joints: metres in camera coordinates: x right, y down, z ahead.
      present: whether the joint is annotated.
      ids: who the people are.
      camera: of the picture, in pixels from its top left corner.
      size: height and width of the picture.
      where: the frame's name in errors.
      time: seconds from the start of its sequence.
      picture: reads the picture; None if there is none.
      group: the sequence or activity that it is scored in, an index into `DataSet.groups`; -1 for data whose frames
        have no `Origin`: all joints are annotated, and pixels count as those of JTA's files.
      annotated: the joint types that the data set has; None for all.
      occluded: whether the joint is hidden; None if that is not known.
      universal: the people in metres, scaled to a common size, for relative errors; None for the `joints` themselves.
      zoom: pixels of the picture per pixel of the file.
    """

    joints: Float32[np.ndarray, "N 14 3"]
    present: Bool[np.ndarray, "N 14"]
    ids: Int[np.ndarray, "N"]
    camera: Camera
    size: tuple[int, int]
    where: str
    time: float = 0.0
    picture: Callable[[], UInt8[np.ndarray, "H W 3"]] | None = None
    group: int = 0
    annotated: Bool[np.ndarray, "14"] | None = None
    occluded: Bool[np.ndarray, "N 14"] | None = None
    universal: Float32[np.ndarray, "N 14 3"] | None = None
    zoom: float = 1.0
