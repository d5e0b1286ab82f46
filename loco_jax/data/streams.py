"""Batches of `Frames` on the devices: the crowd, which is made there, or a data set that the pipeline reads.

A stream is an endless iterator with a position that JSON can hold. Batches are split over the devices.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from loco_jax.data import crowd as crowds
from loco_jax.data import datasets, pipeline
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.ops import distributed

_PICTURES_AT_ONCE = 4  # for each batch of the crowd, except on a CPU


def crowd_frame(key: PRNGKeyArray, crowd: crowds.Crowd, pictures: bool) -> Frames:
    """One frame of the crowd, without batch axis: LoCO's 14 joints, and on request the picture."""
    scene = crowds.sample_scene(key, crowd)
    joints_PxJx3 = scene.joints[:, skeleton.FROM_JTA, :]
    present_PxJ = jnp.broadcast_to(scene.present[:, None], joints_PxJx3.shape[:2])
    image = crowds.take_picture(jax.random.fold_in(key, 1), scene, crowd).image if pictures else None
    ground = jnp.concatenate([scene.rotation[:, 2], scene.height[None]])
    return Frames(joints_PxJx3, present_PxJ, Camera(*(jnp.float32(f) for f in crowd.camera)), image, ground)


@functools.lru_cache
def _compile_crowd(
    crowd: crowds.Crowd, split: str, batch_size: int, batches: int, sharding: NamedSharding, pictures: bool
):
    """The compiled function from the first index of some `batches` to a list of them, and the shapes of a batch."""
    frame = functools.partial(crowd_frame, crowd=crowd, pictures=pictures)

    def make_some(indices: jax.Array) -> list[Frames]:
        made = of_indices(indices.reshape(-1))
        return [jax.tree.map(lambda x, i=i: x[i::batches], made) for i in range(batches)]

    def of_indices(indices: jax.Array) -> Frames:
        keys = jax.vmap(functools.partial(crowds.scene_key, split))(indices)
        if not pictures:
            return jax.vmap(frame)(keys)
        # In parallel they take more memory, and on a CPU no less time.
        together = None if jax.default_backend() == "cpu" else _PICTURES_AT_ONCE * batches
        return jax.lax.map(frame, keys, batch_size=together)

    def make(index: jax.Array) -> list[Frames]:
        batch = PartitionSpec("batch")
        each = jax.shard_map(make_some, mesh=sharding.mesh, in_specs=batch, out_specs=batch, check_vma=False)
        ahead = batch_size * np.arange(batches, dtype=np.int32) + np.arange(batch_size, dtype=np.int32)[:, None]
        return each((index + ahead) & np.int32(2**31 - 1))

    index = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(sharding.mesh, PartitionSpec()))
    like = jax.eval_shape(make, index)[0]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
    return jax.jit(make, out_shardings=sharding).lower(index).compile(), like


class CrowdStream(datasets.Stream):
    """Endless batches of one of the crowd's splits, in order, starting at scene `first`.

    With pictures, `render_batch` batches are made at once. This changes batches by rounding only, and the position
    counts them as before.
    """

    def __init__(
        self,
        crowd: crowds.Crowd,
        split: str,
        batch_size: int,
        sharding: NamedSharding,
        first: int = 0,
        pictures: bool = False,
        render_batch: int = 1,
    ):
        self._batch_size, self._first, self._batches = batch_size, first, 0
        self._together, self._group = render_batch if pictures else 1, -1  # the group in `_made`; none yet
        self._made: list[Frames] = []
        self._place = NamedSharding(sharding.mesh, PartitionSpec())
        self._make, self._like = _compile_crowd(crowd, split, batch_size, self._together, sharding, pictures)

    def like(self) -> Frames:
        """Shapes, types and shardings of a batch."""
        return self._like

    def __next__(self) -> Frames:
        group, turn = divmod(self._batches, self._together)
        if group != self._group:
            index = self._first + group * self._together * self._batch_size
            self._made = self._make(distributed.put(np.int32(index % 2**31), self._place))
            self._group = group
        self._batches += 1
        return self._made[turn]

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches = state["batches"]


class ReadStream(datasets.Stream):
    """Endless batches of a data set in files, shuffled. Each process reads its share of them."""

    def __init__(self, reader: pipeline.Batches, sharding: NamedSharding):
        self._reader, self._sharding = reader, sharding
        self.get_state, self.set_state = reader.get_state, reader.set_state
        _, n = distributed.share(sharding.mesh)  # type: ignore[arg-type]
        struct = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
        self._like = jax.tree.map(lambda x: struct((n * x.shape[0], *x.shape[1:]), x.dtype), reader.first())

    def like(self) -> Frames:
        """Shapes, types and shardings of a batch."""
        return self._like

    def __next__(self) -> Frames:
        return distributed.put(next(self._reader), self._sharding)


def crowd_of(config: ConfigDict) -> crowds.Crowd:
    """The crowd of a config's scale, seen through its volume by a camera with JTA's angle of view.

    Raises ValueError for an unknown scale.
    """
    scales = {"full": crowds.FULL, "demo": crowds.DEMO}
    if config.scale not in scales:
        raise ValueError(f"config.scale={config.scale!r}; there are {', '.join(scales)}")
    volume = volume_of(config)
    camera = cameras.JTA.scaled(volume.image_size[1] / 1920)
    crowd = dataclasses.replace(scales[config.scale], volume=volume, camera=camera)
    check_camera(crowd.camera, crowd.volume, f"the crowd of config.scale={config.scale}")
    return crowd


def training_crowd(config: ConfigDict) -> crowds.Crowd:
    """The crowd of training scenes, with the numbers of people in `config.data.crowd`; 0 keeps the scale's number.

    Raises ValueError for numbers that contradict each other.
    """
    crowd, c = crowd_of(config), config.data.crowd
    people = {name: c[name] for name in ("min_people", "mean_people", "most_people") if c[name]}
    if "most_people" in people:
        people["max_people"] = people["most_people"]
    try:
        return dataclasses.replace(crowd, **people)
    except ValueError as error:
        raise ValueError(
            f"config.data.crowd={c.to_dict()}: {error}; 0 stands for the scale's numbers, which are "
            f"{crowd.min_people}, {crowd.mean_people:g} and {crowd.most_people}"
        ) from error


def is_made_for(config: ConfigDict) -> bool:
    """Whether networks see the data's pictures without resampling: those of the crowd and of a prepared JTA."""
    return config.data.source in ("crowd", "jta")


def fitted(config: ConfigDict, split: str) -> ConfigDict:
    """The config with `volume.image_size` that the pictures of a split need, and `data.camera` as it was before.

    So in pictures of any size, a pixel spans the angle that it had in training.
    """
    data = datasets.of(config)
    size = data.image_size(split)
    if size == tuple(config.volume.image_size):
        return config
    config = config.copy_and_resolve_references()
    config.data.camera, config.volume.image_size = tuple(map(float, data.camera)), size
    return config


def volume_of(config: ConfigDict) -> Volume:
    """The voxel grid of `config.volume`."""
    v = config.volume
    return Volume(tuple(v.image_size), v.stride, v.depth_bins, v.max_distance)


def check_camera(camera: Camera, volume: Volume, whose: str) -> None:
    """Raises ValueError if the camera does not look at about the middle of the volume's pictures."""
    height, width = volume.image_size
    if not (0.25 < camera.cx / width < 0.75 and 0.25 < camera.cy / height < 0.75):
        raise ValueError(
            f"{whose}: its camera looks at pixel ({camera.cx:g}, {camera.cy:g}), far from the middle of pictures of "
            f"config.volume.image_size={volume.image_size}. So its pictures have another size: choose the scale (full "
            "or demo) that they were made for, or set config.volume.image_size"
        )
