"""A top-down system: a detector of people, a 2D pose network on each crop, lifting to 3D, and the distance.

    python -m loco_jax.main --config=configs/top_down.py:scale=demo

Arguments: scale=full|demo. The trunk, the optimiser and the scenes are those of the compact LoCO (loco2.py). By
default the "+" row uses released-refiner, which learned from a LoCO's people; configs/refiner.py with
--config.spoil.predictor trains one for this network.

A step has 4 pictures with 12 crops each. `loco_jax.reproduce` trains it at demo scale with a learning rate of 0.018.
1,311 steps take 20 minutes of processor time on two cores of an AMD EPYC. Then F1 is 31.3 / 56.1 / 66.0 % at 0.4 / 0.8
/ 1.2 m on 256 test frames of the crowd (`nearest` matching, docs/results/poster.md). On validation frames AP50 of the
detector is 78 %, and PCK@0.2 of the crops is 59 %. The 15,000 steps of this config would take 3.8 hours, and their
score was not measured. Nor was full scale.
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
