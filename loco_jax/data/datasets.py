"""The interface of a data set, and the table in which `config.data.source` looks one up.

A data set whose frames are in files is a subclass of `stored.Stored`, which needs little more than its frames. The
crowd, which is made on the device, implements `DataSet` itself. See docs/data.md for an example.
"""

import abc
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool
from ml_collections import ConfigDict

from loco_jax.data.frames import Frames, Instant
from loco_jax.geometry.camera import Camera

# By the value of `config.data.source`. Any other class can be given in the same way: module:Class.
SOURCES = {
    "crowd": "loco_jax.data.sources:CrowdData",
    "jta": "loco_jax.data.sources:JtaData",
    "mupots": "loco_jax.data.mupots:Mupots",
    "panoptic": "loco_jax.data.panoptic:Panoptic",
}


class Stream(Iterator[Frames]):
    """Endless batches of frames on the devices, with a position that JSON can hold."""

    get_state: Callable[[], dict[str, Any]]
    set_state: Callable[[dict[str, Any]], None]

    def like(self) -> Frames:
        """Shapes, types and shardings of a batch."""
        raise NotImplementedError


class DataSet(abc.ABC):
    """The data set of a config. The constructor reads no file.

    For missing or malformed data, methods raise FileNotFoundError or ValueError that names the file.
    """

    folder: ClassVar[str] = ""  # what `config.data.dir` has to hold; "" if it is not read

    def __init__(self, config: ConfigDict):
        self.config = config

    def check(self) -> None:
        """Raises ValueError for the first field of the config that cannot work, before any file is read."""
        c = self.config.data
        if self.folder and not c.dir:
            raise ValueError(f"config.data.source={c.source} needs --config.data.dir, {self.folder}")
        if c.render_batch != 1:
            raise ValueError(
                f"config.data.render_batch={c.render_batch} is for config.data.source=crowd; have {c.source}"
            )

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The data set's name in tables."""

    @property
    @abc.abstractmethod
    def camera(self) -> Camera:
        """The camera of the pictures as a network sees them. Its focal lengths are those of all frames."""

    def image_size(self, split: str) -> tuple[int, int]:
        """Height and width that the pictures of a split need; an evaluation sets `config.volume.image_size` to it."""
        return tuple(self.config.volume.image_size)

    def open(self, split: str) -> None:
        """Raises as the other methods do if a split cannot be scored. Training calls it before its first step."""
        self.image_size(split)

    def groups(self, split: str) -> Sequence[str]:
        """The names of the sequences or activities that are scored separately; () for none. See `Origin.group`."""
        return ()

    @abc.abstractmethod
    def training_stream(self, sharding: NamedSharding) -> Stream:
        """Batches for training: those of `config.data.train_split`, with a seed of `config.seed`."""

    @abc.abstractmethod
    def evaluation_batches(
        self, split: str, batch_size: int, num_frames: int, sharding: NamedSharding
    ) -> Iterator[tuple[Frames, Bool[np.ndarray, " b"]]]:
        """`num_frames` of a split ("validation" or "test"), each once: the crowd's first ones, or else evenly spread.

        There are fewer if the split has fewer. Yields batches and, for this process's share of a batch, which frames
        count (bool): the last batch may have more than needed. Errors are raised with the first batch.
        """

    @abc.abstractmethod
    def sequences(self, split: str, number: int, frames: int, fps: float) -> Iterator[Iterator[Instant]]:
        """`number` sequences of a split ("validation" or "test"), each with its first `frames` frames in order.

        They are the crowd's first ones, with `fps` frames a second. Of other data sets they are evenly spread over the
        split, with all frames that there are; a prepared JTA has three a second. There are fewer, or shorter ones, if
        the data set has no more. Each frame is made on request. Errors are raised with the first sequence.
        """


def of(config: ConfigDict) -> DataSet:
    """The data set that `config.data.source` names. Raises ValueError if there is no such class."""
    source = config.data.source
    module, _, name = SOURCES.get(source, source).partition(":")
    if not name:
        raise ValueError(
            f"config.data.source={source!r}; there are {', '.join(SOURCES)}, and your own as package.module:MyData"
        )
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"config.data.source={source}: {error}; want a class of an importable module") from error
    if not (isinstance(kind, type) and issubclass(kind, DataSet)):
        raise ValueError(f"config.data.source={source} must be a subclass of loco_jax.data.datasets.DataSet")
    try:
        return kind(config)
    except TypeError as error:  # such as an abstract method that it lacks
        raise ValueError(f"config.data.source={source}: {error}") from error
