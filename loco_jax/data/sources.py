"""The data sets that networks are trained on: the crowd, and a prepared JTA."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool, PRNGKeyArray

from loco_jax.data import crowd as crowds
from loco_jax.data import jta, pipeline, streams
from loco_jax.data.datasets import DataSet
from loco_jax.data.frames import Example, Frames, Instant
from loco_jax.data.jta import writing
from loco_jax.data.stored import Stored
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import FROM_JTA
from loco_jax.ops import distributed


class CrowdData(DataSet):
    """The crowd, which needs no files: its scenes are made on the device."""

    def check(self) -> None:
        streams.training_crowd(self.config)

    @property
    def name(self) -> str:
        return f"crowd, {self.config.scale} scale"

    @property
    def camera(self) -> Camera:
        return streams.crowd_of(self.config).camera

    def training_stream(self, sharding: NamedSharding) -> streams.CrowdStream:
        c = self.config.data
        # Each seed begins a million scenes after the one before.
        crowd, first = streams.training_crowd(self.config), self.config.seed * 2**20
        return streams.CrowdStream(crowd, "train", c.batch_size, sharding, first, c.pictures, c.render_batch)

    def evaluation_batches(
        self, split: str, batch_size: int, num_frames: int, sharding: NamedSharding
    ) -> Iterator[tuple[Frames, Bool[np.ndarray, " b"]]]:
        part, parts = distributed.share(sharding.mesh)  # type: ignore[arg-type]
        mine = part * (batch_size // parts) + np.arange(batch_size // parts)
        crowd, pictures = streams.crowd_of(self.config), self.config.data.pictures
        stream = streams.CrowdStream(crowd, split, batch_size, sharding, pictures=pictures)
        for start in range(0, num_frames, batch_size):
            yield next(stream), start + mine < num_frames

    def sequences(self, split: str, number: int, frames: int, fps: float) -> Iterator[Iterator[Instant]]:
        crowd = streams.crowd_of(self.config)
        for index in range(number):
            yield _film(crowds.scene_key(split, index), crowd, frames, fps, self.config.data.pictures)


def _film(key: PRNGKeyArray, crowd: crowds.Crowd, frames: int, fps: float, pictures: bool) -> Iterator[Instant]:
    """A sequence of the crowd. At 30 frames a second it equals a miniature JTA's sequence of this key."""
    scene = writing.sample(key, crowd, frames, float(fps))
    stage_key, noise_key = jax.random.split(jax.random.fold_in(key, 1))
    stage = writing.set_up(stage_key, scene, crowd) if pictures else None
    joints_TxPxJx3 = np.asarray(scene.joints)[:, :, FROM_JTA]
    present_TxPxJ = np.broadcast_to(np.asarray(scene.present)[..., None], joints_TxPxJx3.shape[:3])
    camera, ids = Camera(*map(np.float32, crowd.camera)), np.asarray(scene.person_id)
    for t in range(frames):
        image = None if stage is None else np.asarray(writing.shoot(stage, scene, crowd, noise_key, np.int32(t)).image)
        yield Instant(t / fps, ids, Frames(joints_TxPxJx3[t], present_TxPxJ[t], camera, image))


class JtaData(Stored):
    """A JTA that `loco_jax.data.jta` has prepared. Its pictures and its camera have to fit the config as they are."""

    folder = "where python -m loco_jax.data.jta put it"

    @property
    def name(self) -> str:
        return jta.name_of(self.config.data.dir, self.config.data.pictures)

    @property
    def camera(self) -> Camera:
        """The prepared JTA's, or the real JTA's if none is prepared."""
        with contextlib.suppress(OSError, ValueError):
            return _camera(self._records(self.config.data.train_split)[0])
        return cameras.JTA.scaled(self.config.volume.image_size[1] / 1920)

    def examples(self, split: str) -> Sequence[Example]:
        return pipeline.jta_examples(self._records(split), self.config.data.pictures)

    def films(self, split: str) -> Sequence[range]:
        c = self.config.data
        records, length = self._records(split), jta.frames_a_sequence(c.dir, split, c.pictures)
        return [range(first, first + length) for first in range(0, len(records) - length + 1, length)]

    def check_joints(self, split: str, training: bool) -> None:
        """JTA has all joints."""

    def image_size(self, split: str) -> tuple[int, int]:
        return tuple(self.config.volume.image_size)

    def shown(self, split: str) -> Sequence[Example]:
        """The examples. Raises ValueError if camera or pictures do not fit the config."""
        c, volume, record = self.config.data, streams.volume_of(self.config), self._records(split)[0]
        streams.check_camera(_camera(record), volume, c.dir)
        size = pipeline.decode(record).shape[:2] if c.pictures else volume.image_size
        if size != volume.image_size:
            raise ValueError(
                f"{c.dir}: its pictures have {size[0]} x {size[1]} pixels (height x width), but "
                f"config.volume.image_size={volume.image_size}; set that field, or prepare pictures of that size with "
                "--picture_height"
            )
        return self.examples(split)

    def _records(self, split: str) -> Sequence[dict[str, Any]]:
        return jta.load(self.config.data.dir, split, self.config.data.pictures)


def _camera(record: dict[str, Any]) -> Camera:
    return Camera(*(float(record["camera"][field]) for field in Camera._fields))
