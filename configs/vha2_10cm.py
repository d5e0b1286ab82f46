"""VHA(2) with bins of 10 cm, the poster's uncompressed size: D = 1000. PatchVHA only. Arguments: scale=full|demo."""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    options = vha.parse(arg, {"scale": vha.ARGUMENTS["scale"]})
    c = vha.get_config(2, f"scale={options['scale']},variant=patch")
    c.name = c.name.replace("vha2", "vha2_10cm")
    c.demo = "configs/vha2_10cm.py:scale=demo"
    c.volume.depth_bins = 10 * int(c.volume.max_distance)
    return c
