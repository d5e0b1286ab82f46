"""LoCO(3): a Code Predictor from pictures to codes of VHA(3), whose depth, height and width are halved three times.

    python -m loco_jax.main --config=configs/loco3.py --config.data.source=jta --config.data.dir=DATA    # as published
    python -m loco_jax.main --config=configs/loco3.py:variant=patch,trunk=compact,scale=demo \\
        --config.predictor.trunk_weights=runs/trunk_demo    # on the crowd, on a laptop

Train the autoencoder first (vha3.py), and for trunk=compact also the trunk (trunk.py). Arguments: scale=full|demo,
variant=published|patch, trunk=inception|compact.

Not measured here: neither the time nor the score, at either scale. See loco2.py for what to expect of LoCO(2). It
was published on JTA; docs/data.md has the terms of that data set.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco


def get_config(arg: str = "") -> ConfigDict:
    return loco.get_config(3, arg)
