"""LoCO(1): a Code Predictor from pictures to codes of VHA(1), whose depth, height and width are halved once.

    python -m loco_jax.main --config=configs/loco1.py --config.data.source=jta --config.data.dir=DATA    # as published
    python -m loco_jax.main --config=configs/loco1.py:variant=patch,trunk=compact,scale=demo \\
        --config.predictor.trunk_weights=runs/trunk_demo    # on the crowd, on a laptop

Train the autoencoder first (vha1.py), and for trunk=compact also the trunk (trunk.py). Arguments: scale=full|demo,
variant=published|patch, trunk=inception|compact.

`loco_jax.reproduce` trains it at demo scale without a pretrained trunk: 20 minutes of processor time on two cores of
an AMD EPYC. The autoencoder gets a third of them. In the rest the Code Predictor sees 2,172 pictures. Then F1 is 18.2 /
30.3 / 33.9 % at 0.4 / 0.8 / 1.2 m on 256 test frames of the crowd (`nearest` matching, docs/results/poster.md). Longer
training and full scale were not measured; see loco2.py for what LoCO(2) reaches.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco


def get_config(arg: str = "") -> ConfigDict:
    return loco.get_config(1, arg)
