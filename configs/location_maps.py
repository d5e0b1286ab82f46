"""Location Maps, a system that LoCO is compared with: a heatmap and a map of positions for each joint type.

    python -m loco_jax.main --config=configs/location_maps.py:scale=demo
    python -m loco_jax.main --config=configs/location_maps.py --config.data.source=jta --config.data.dir=DATA

Arguments: scale=full|demo. The trunk, the optimiser and the scenes are those of the compact LoCO (loco2.py). By
default the "+" row uses released-refiner, which learned from a LoCO's people; configs/refiner.py with
--config.spoil.predictor trains one for this network.

`loco_jax.reproduce` trains it at demo scale with a learning rate of 0.018. 1,403 steps of 4 pictures take 20 minutes of
processor time on two cores of an AMD EPYC. Then F1 is 31.5 / 57.7 / 68.6 % at 0.4 / 0.8 / 1.2 m on 256 test frames of
the crowd (`nearest` matching, docs/results/poster.md). The 15,000 steps of this config would take 3.6 hours, and their
score was not measured. Nor was full scale.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco, vha

ARGUMENTS = {"scale": vha.ARGUMENTS["scale"]}


def get_config(arg: str = "") -> ConfigDict:
    """The config for an argument like "scale=demo"."""
    c = without_code("location_maps", vha.parse(arg, ARGUMENTS)["scale"])
    c.predictor.location_weight = 1.0  # weight of the error of positions, beside that of heatmaps
    return c


def without_code(task: str, scale: str) -> ConfigDict:
    """The settings of a task that the compact LoCO's trunk serves without a code."""
    c = loco.get_config(2, f"variant=patch,trunk=compact,scale={scale}")
    dtype, trunk = c.model.dtype, c.predictor
    c.task = task
    c.name = task + "_demo" * (scale == "demo")
    c.demo = f"configs/{task}.py:scale=demo"
    del c.vha
    c.model = ConfigDict()
    c.model.dtype = dtype  # type of the arithmetic; or bfloat16, for GPUs
    c.predictor = ConfigDict()  # see loco.py
    c.predictor.width, c.predictor.blocks, c.predictor.coarsest = trunk.width, trunk.blocks, trunk.coarsest
    c.refiner = "released-refiner"  # a run, a file of weights, or "" for nothing
    return c
