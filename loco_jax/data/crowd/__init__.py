"""The crowd: an endless, seeded stream of street scenes with JTA's statistics, and their pictures, made on the device.

World axes: the origin lies on the ground straight below the camera; x right, y ahead (where the camera looks, along the
ground) and z up, in metres. The camera is at (0, 0, height), and `rotation` turns world axes into camera axes:

    camera_xyz = rotation @ (world_xyz - (0, 0, height))

So in camera coordinates the ground is `up @ xyz == -height`, with `up = rotation[:, 2]`. A body has axes of the same
kind: x to its right, y ahead, z up, with the origin between its hips.

Everything random is drawn once per scene. The pose at a time is a pure function of that, so a scene is the first frame
of the sequence with the same key.
"""

from loco_jax.data.crowd.rendering import Picture, render, take_picture
from loco_jax.data.crowd.scenes import SPLITS, Scene, sample_scene, sample_sequence, scene_key
from loco_jax.data.crowd.settings import DEMO, FULL, Crowd
from loco_jax.data.crowd.stage import Stage, sample_stage

__all__ = [
    "Crowd", "DEMO", "FULL", "Picture", "SPLITS", "Scene", "Stage", "render", "sample_scene", "sample_sequence",
    "sample_stage", "scene_key", "take_picture",
]  # fmt: skip
