"""A top-down system: a detector of people, a 2D pose network on each crop, lifting to 3D, and the distance.

    python -m loco_jax.main --config=configs/top_down.py:scale=demo

Arguments: scale=full|demo.
"""

from ml_collections import ConfigDict

from loco_jax.configs import location_maps, vha

ARGUMENTS = {"scale": vha.ARGUMENTS["scale"]}


def get_config(arg: str = "") -> ConfigDict:
    """The config for an argument like "scale=demo"."""
    scale = vha.parse(arg, ARGUMENTS)["scale"]
    c = location_maps.without_code("top_down", scale)
    c.refine.least_joints = 1  # all joints of a person are named, but for those outside the picture
    c.predictor.lifting = 256 if scale == "demo" else 1024  # width of the lifting network
    return c
