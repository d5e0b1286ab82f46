"""LoCO(2): a Code Predictor from pictures to codes of VHA(2), whose depth, height and width are halved twice.

    python -m loco_jax.main --config=configs/loco2.py --config.data.source=jta --config.data.dir=DATA    # as published
    python -m loco_jax.main --config=configs/loco2.py:variant=patch,trunk=compact,scale=demo \\
        --config.predictor.trunk_weights=runs/trunk_demo    # on the crowd, on a laptop

Train the autoencoder first (vha2.py), and for trunk=compact also the trunk (trunk.py). Arguments: scale=full|demo,
variant=published|patch, trunk=inception|compact.

Compact Code Predictor at demo scale: 15,000 steps of 4 pictures at 2.8 pictures/s, so about 6 hours on two cores of an
AMD EPYC. The released weights come from a shorter training (5 hours in stages, see docs/results.md). F1 of LoCO(2)+ on
256 test frames of the crowd: 48.3 / 74.1 / 80.7 % at 0.4 / 0.8 / 1.2 m.

Compact Code Predictor at full scale: 89 frames/s on an H100 (batch 4, `--config.model.dtype=bfloat16`), so 1.2 hours
for 100,000 steps. The score was not measured here.

`loco_jax.reproduce` trains it at demo scale without a pretrained trunk: 20 minutes of processor time on two cores of an
AMD EPYC. Then F1 is 23.9 / 44.5 / 51.5 % at 0.4 / 0.8 / 1.2 m on 256 test frames (`nearest` matching,
docs/results/poster.md). On the published VHA(2) it gets 41 minutes on a slower one, and F1 is 5.7 / 15.7 / 20.0 %.

The published network (trunk=inception, 400,000 steps) was not trained here: neither time nor score was measured. It
was published on JTA; docs/data.md has the terms of that data set.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco


def get_config(arg: str = "") -> ConfigDict:
    return loco.get_config(2, arg)
