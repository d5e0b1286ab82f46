"""VHA(2) with depth bins of 10 cm, the poster's uncompressed size of 1,000 bins. PatchVHA only.

    python -m loco_jax.main --config=configs/vha2_10cm.py
    python -m loco_jax.main --config=configs/vha2_10cm.py:scale=demo

Arguments: scale=full|demo. With several devices, `--config.mesh.rows=2` lets two of them share each frame.

At demo scale `loco_jax.reproduce` trains it on 839 scenes, for 9 minutes of processor time (AMD EPYC). Then F1 is
35.0 / 72.6 / 92.5 % at 0 / 1 / 2 voxels on 256 test frames of the crowd (`nearest` matching,
docs/results/poster.md).

At full scale a step of one picture takes 40 s on two cores, and 13.4 GiB of memory. Its score there is not measured.
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    options = vha.parse(arg, {"scale": vha.ARGUMENTS["scale"]})
    c = vha.get_config(2, f"scale={options['scale']},variant=patch")
    c.name = c.name.replace("vha2", "vha2_10cm")
    c.demo = "configs/vha2_10cm.py:scale=demo"
    c.volume.depth_bins = 10 * int(c.volume.max_distance)
    return c
