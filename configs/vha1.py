"""VHA(1), an autoencoder of volumetric heatmaps: depth, height and width of the code are halved once.

    python -m loco_jax.main --config=configs/vha1.py                             # as published, full scale
    python -m loco_jax.main --config=configs/vha1.py:variant=patch,scale=demo    # PatchVHA, on a laptop

Arguments: scale=full|demo, variant=published|patch. The code at full scale is 68 × 120 × 158.

PatchVHA at full scale: 46 steps/s on an H100 (batch 1, `--config.model.dtype=bfloat16`), so 1.2 hours for 200,000
steps. Nothing was trained to the end: the score was not measured here, on JTA or on the crowd, at either scale.
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(1, arg)
