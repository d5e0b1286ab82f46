"""VHA(2), an autoencoder of volumetric heatmaps: depth, height and width of the code are halved twice.

    python -m loco_jax.main --config=configs/vha2.py                             # as published, full scale
    python -m loco_jax.main --config=configs/vha2.py:variant=patch,scale=demo    # PatchVHA, on a laptop

Arguments: scale=full|demo, variant=published|patch. The code at full scale is 34 × 60 × 79.

PatchVHA at demo scale: 1,400 steps, about 5 minutes on two idle cores of an AMD EPYC (`make demo`). F1 on 64 test
frames of the crowd: 38 / 73 / 87 % at 0 / 1 / 2 voxels.

PatchVHA at full scale: 110 steps/s on an H100 (batch 1, `--config.model.dtype=bfloat16`), so about half an hour for
200,000 steps. The score was not measured here.

VHA, the published network, at full scale: 34 steps/s on an H100 (bfloat16), so about 1.6 hours. The score was not
measured here: the poster has 92.5 / 97.0 / 97.1 % on JTA.

VHA at demo scale: `loco_jax.reproduce` trains it on 1,736 scenes, for 14 minutes of processor time (AMD EPYC). Then F1
is 0.8 / 5.1 / 14.5 % at 0 / 1 / 2 voxels on 256 test frames of the crowd (`nearest` matching, docs/results/poster.md).
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(2, arg)
