"""VHA(1), an autoencoder of volumetric heatmaps: depth, height and width of the code are halved once.

    python -m loco_jax.main --config=configs/vha1.py                             # as published, full scale
    python -m loco_jax.main --config=configs/vha1.py:variant=patch,scale=demo    # PatchVHA, on a laptop

Arguments: scale=full|demo, variant=published|patch. The code at full scale is 68 × 120 × 158.

PatchVHA at demo scale: `loco_jax.reproduce` trains it on 1,218 scenes, for 9 minutes of processor time on two cores of
an AMD EPYC. Then F1 is 50.5 / 83.0 / 92.8 % at 0 / 1 / 2 voxels on 256 test frames of the crowd (`nearest` matching,
docs/results/poster.md).

PatchVHA at full scale: 46 steps/s on an H100 (batch 1, `--config.model.dtype=bfloat16`), so 1.2 hours for 200,000
steps. The score was not measured here.

The published network at demo scale: after 1,839 scenes (14 minutes of processor time) F1 is 3.7 / 17.3 / 42.5 %
at 0 / 1 / 2 voxels (docs/results/poster.md).
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(1, arg)
