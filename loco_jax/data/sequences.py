"""Sequences: the same people frame after frame, with identities and times."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from loco_jax.data import datasets
from loco_jax.data.frames import Instant as Instant


def sequences(config: ConfigDict, split: str, number: int, frames: int, fps: float) -> Iterator[Iterator[Instant]]:
    """`number` sequences of a split ("validation" or "test"), each with its first `frames` frames in order.

    They are the crowd's first ones, with `fps` frames a second. Of other data sets they are evenly spread over the
    split, with all frames that there are; a prepared JTA has three a second. There are fewer, or shorter ones, if the
    data set has no more. Each frame is made when it is asked for.

    Raises ValueError or FileNotFoundError, when the first one is asked for, as `streams.evaluation_batches`.
    """
    yield from datasets.of(config).sequences(split, number, frames, fps)
