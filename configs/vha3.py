"""VHA(3): depth, height and width halved 3 times. Arguments: scale=full|demo, variant=published|patch."""

from ml_collections import ConfigDict

from loco_jax.configs import vha


def get_config(arg: str = "") -> ConfigDict:
    return vha.get_config(3, arg)
