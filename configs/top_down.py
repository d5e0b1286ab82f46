"""A top-down system: a detector of people, a 2D pose network on each crop, lifting to 3D, and the distance.

    python -m loco_jax.main --config=configs/top_down.py:scale=demo

Arguments: scale=full|demo. The trunk, the optimiser and the scenes are those of the compact LoCO (loco2.py). The "+"
row needs a refiner that was trained on what this network finds: configs/refiner.py with --config.spoil.predictor.

A step has 4 pictures with 12 crops each. With 8 crops, at demo scale, 320 steps from random numbers took 15 minutes on
two busy cores of an AMD EPYC; then AP50 was 47 % and PCK@0.2 33 % on 32 validation frames of the crowd, and left and
right joints were hardly told apart. With 12 crops neither time nor scores are measured yet, nor is full scale.
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
