"""Uncompressed volumetric heatmaps, a system that LoCO is compared with: the network predicts the volume itself.

    python -m loco_jax.main --config=configs/volumetric.py:scale=demo
    python -m loco_jax.main --config=configs/volumetric.py --config.data.source=jta --config.data.dir=DATA

Arguments: scale=full|demo. The trunk, the optimiser and the scenes are those of the compact LoCO (loco2.py). By
default the "+" row uses released-refiner, which learned from a LoCO's people; configs/refiner.py with
--config.spoil.predictor trains one for this network.

`loco_jax.reproduce` trains it at demo scale with a learning rate of 0.018. 1,177 steps of 4 pictures take 20 minutes of
processor time on two cores of an AMD EPYC. Then F1 is 30.9 / 56.0 / 66.2 % at 0.4 / 0.8 / 1.2 m on 256 test frames of
the crowd (`nearest` matching, docs/results/poster.md). With --config.model.loss=squared F1 is 29.4 / 52.6 / 60.6 %
after 1,136 steps in 27 minutes of a slower one. The 15,000 steps of this config would take 4.2 hours, and their score
was not measured. Nor was full scale.
"""

from ml_collections import ConfigDict

from loco_jax.configs import location_maps, vha


def get_config(arg: str = "") -> ConfigDict:
    """The config for an argument like "scale=demo"."""
    c = location_maps.without_code("volumetric", vha.parse(arg, location_maps.ARGUMENTS)["scale"])
    c.model.loss = "entropy"  # of a voxel: "entropy", the cross-entropy, or "squared", the squared error
    return c
