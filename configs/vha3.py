"""VHA(3), an autoencoder of volumetric heatmaps: depth, height and width of the code are halved three times.

    python -m loco_jax.main --config=configs/vha3.py                             # as published, full scale
    python -m loco_jax.main --config=configs/vha3.py:variant=patch,scale=demo    # PatchVHA, on a laptop

Arguments: scale=full|demo, variant=published|patch. The code at full scale is 17 × 30 × 39.

PatchVHA at demo scale: `loco_jax.reproduce` trains it on 4,007 scenes, for 9 minutes of processor time on two cores of
an AMD EPYC. Then F1 is 17.3 / 49.3 / 77.3 % at 0 / 1 / 2 voxels on 256 test frames of the crowd (`nearest` matching,
docs/results/poster.md).

PatchVHA at full scale: 342 frames/s on an H100 (batch 4, `--config.model.dtype=bfloat16`). The score was not measured
here.

VHA, the published network, at demo scale: after 1,808 scenes it finds almost nothing (F1 is 0.0 / 0.0 / 0.2 % at 0 / 1
/ 2 voxels, docs/results/poster.md).
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(3, arg)
