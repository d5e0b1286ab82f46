"""Sequences: the same people frame after frame, with identities and times. They are the crowd's or JTA's."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray
from ml_collections import ConfigDict

from loco_jax.data import crowd as crowds
from loco_jax.data import jta, pipeline, streams
from loco_jax.data.frames import Frames
from loco_jax.data.jta import writing
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import FROM_JTA

JTA_FPS = 30.0


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


def sequences(config: ConfigDict, split: str, number: int, frames: int, fps: float) -> Iterator[Iterator[Instant]]:
    """`number` sequences of a split ("validation" or "test"), each with its first `frames` frames in order.

    They are the crowd's first ones, with `fps` frames a second. Of JTA they are evenly spread over the split, with the
    frames that are prepared: three a second. There are fewer, or shorter ones, if JTA has no more. Each frame is made
    when it is asked for.

    Raises ValueError or FileNotFoundError, when the first one is asked for, as `streams.evaluation_batches`.
    """
    if config.data.source == "jta":
        yield from _of_jta(config, split, number, frames)
        return
    crowd = streams.crowd_of(config)
    for index in range(number):
        yield _film(crowds.scene_key(split, index), crowd, frames, fps, config.data.pictures)


def _film(key: PRNGKeyArray, crowd: crowds.Crowd, frames: int, fps: float, pictures: bool) -> Iterator[Instant]:
    """A sequence of the crowd. At 30 frames a second it is the one that a miniature JTA has of this key."""
    scene = writing.sample(key, crowd, frames, float(fps))
    stage_key, noise_key = jax.random.split(jax.random.fold_in(key, 1))
    stage = writing.set_up(stage_key, scene, crowd) if pictures else None
    joints_TxPxJx3 = np.asarray(scene.joints)[:, :, FROM_JTA]
    present_TxPxJ = np.broadcast_to(np.asarray(scene.present)[..., None], joints_TxPxJx3.shape[:3])
    camera, ids = Camera(*map(np.float32, crowd.camera)), np.asarray(scene.person_id)
    for t in range(frames):
        image = None if stage is None else np.asarray(writing.shoot(stage, scene, crowd, noise_key, np.int32(t)).image)
        yield Instant(t / fps, ids, Frames(joints_TxPxJx3[t], present_TxPxJ[t], camera, image))


def _of_jta(config: ConfigDict, split: str, number: int, frames: int) -> Iterator[Iterator[Instant]]:
    c = config.data
    streams.check_jta(config, split)
    records, length = jta.load(c.dir, split, c.pictures), jta.frames_a_sequence(c.dir, split, c.pictures)
    have = len(records) // length
    for index in range(min(number, have)):
        first = index * have // min(number, have) * length
        yield _read(records, range(first, first + min(frames, length)), c.max_people, c.pictures)


def _read(records: Sequence[dict[str, Any]], places: range, max_people: int, pictures: bool) -> Iterator[Instant]:
    for record in (records[place] for place in places):
        frame, ids = pipeline.to_frames(record, max_people), np.full(max_people, -1, np.int64)
        ids[: len(record["people"]["id"])] = record["people"]["id"]
        image = pipeline.decode(record) if pictures else None
        yield Instant(int(record["frame"]) / JTA_FPS, ids, frame._replace(image=image))
