"""Random scenes and sequences of people, seen by a random camera."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from loco_jax.data.crowd.people import sample_people
from loco_jax.data.crowd.placing import sample_view
from loco_jax.data.crowd.poses import pose
from loco_jax.data.crowd.settings import Crowd


class Scene(NamedTuple):
    """People and the camera that sees them. A sequence has T frames; a single scene lacks that axis.

    Of the joints, spine0 is just below the neck, and spine4 is the pelvis.
    """

    joints: jax.Array  # [T, P, 22, 3] metres in camera coordinates, as in `skeleton.JTA_JOINTS`; 0 in the padding
    present: jax.Array  # [T, P] the person exists, inside or outside the picture
    person_id: jax.Array  # [P] int32, -1 in the padding; a person keeps it through a sequence
    rotation: jax.Array  # [3, 3] from world to camera axes
    height: jax.Array  # [] metres from the ground to the camera


# First seed and number of seeds of each split. Seeds stay below 2^31, where int32 and uint32 agree.
SPLITS = {"test": (0, 2**20), "validation": (2**20, 2**20), "train": (2**21, 2**31 - 2**21)}


def scene_key(split: str, index: int | np.integer | Int[jax.Array, ""]) -> PRNGKeyArray:
    """The random key of scene (or sequence) number `index` of a split. No two splits share a key.

    Numbers past the end of a split start again at its first scene: test and validation have 2^20 scenes each, train has
    2^31 - 2^21. Raises ValueError if there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    first, count = SPLITS[split]
    if isinstance(index, int | np.integer):  # before JAX would cut it to 32 bits
        return jax.random.key(first + int(index) % count)
    return jax.random.key(first + jnp.mod(index, count).astype(jnp.int32))


def sample_scene(key: PRNGKeyArray, crowd: Crowd) -> Scene:
    """One scene at one instant, without the time axis: the first frame of `sample_sequence` with the same key."""
    scene = sample_sequence(key, crowd, num_frames=1)
    return scene._replace(joints=scene.joints[0], present=scene.present[0])


def sample_sequence(key: PRNGKeyArray, crowd: Crowd, num_frames: int, fps: float = 30.0) -> Scene:
    """A scene over `num_frames` frames, `fps` a second, seen by a camera at rest.

    Walkers and runners keep their heading and speed. They may leave the picture, pass the camera, and cross other
    groups' paths.
    """
    key_view, key_people = jax.random.split(key)
    view = sample_view(key_view, crowd)
    people, present_P = sample_people(key_people, crowd, view)
    times_T = jnp.arange(num_frames, dtype=jnp.float32) / fps
    world_TxPxJx3 = jax.vmap(lambda time: jax.vmap(pose, (0, None))(people, time))(times_T)
    world_TxPxJx3 = jax.lax.optimization_barrier(world_TxPxJx3)  # or XLA poses everybody once per output axis
    offset_3 = jnp.stack([0.0, 0.0, view.height])
    # Elementwise, because a matrix product may run at lower precision on an accelerator: decimetres at 100 m.
    joints_TxPxJx3 = jnp.sum(view.rotation * (world_TxPxJx3 - offset_3)[..., None, :], axis=-1)
    ids_P = jnp.arange(crowd.max_people, dtype=jnp.int32)
    return Scene(
        joints=jnp.where(present_P[:, None, None], joints_TxPxJx3, 0.0),
        present=jnp.broadcast_to(present_P, (num_frames, crowd.max_people)),
        person_id=jnp.where(present_P, ids_P, -1),
        rotation=view.rotation,
        height=view.height,
    )
