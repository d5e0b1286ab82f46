"""A top-down system: a detector of people, a 2D pose network on each crop, lifting to 3D, and the distance.

    python -m loco_jax.main --config=configs/top_down.py:scale=demo

Arguments: scale=full|demo.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco, vha


def get_config(arg: str = "") -> ConfigDict:
    options = vha.parse(arg, {"scale": vha.ARGUMENTS["scale"]})
    demo = options["scale"] == "demo"
    c = loco.get_config(2, f"variant=patch,trunk=compact,scale={options['scale']}")
    c.task = "top_down"
    c.name = "top_down_demo" if demo else "top_down"
    c.demo = "configs/top_down.py:scale=demo"
    c.refiner = ""  # a refiner that corrects people in evaluation; "" for none
    c.refine.least_joints = 1
    del c.vha, c.predictor.trunk_weights
    for name in ("teaching", "code", "heatmap", "side"):
        del c.predictor[f"{name}_weight"]
    c.predictor.lifting = 256 if demo else 1024  # width of the lifting network
    return c
