"""VHA(3), an autoencoder of volumetric heatmaps: depth, height and width of the code are halved three times.

    python -m loco_jax.main --config=configs/vha3.py                             # as published, full scale
    python -m loco_jax.main --config=configs/vha3.py:variant=patch,scale=demo    # PatchVHA, on a laptop

Arguments: scale=full|demo, variant=published|patch. The code at full scale is 17 × 30 × 39.

PatchVHA at demo scale: F1 on 32 test frames of the crowd is 8 / 31 / 66 % at 0 / 1 / 2 voxels after 700 of the 1,400
steps, on two cores of an AMD EPYC; the time was not measured.

PatchVHA at full scale: 342 frames/s on an H100 (batch 4, `--config.model.dtype=bfloat16`). The score was not measured
here. The published network was not trained here.
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(3, arg)
