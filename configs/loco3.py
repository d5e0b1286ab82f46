"""LoCO(3): depth, height and width halved 3 times.

Arguments: scale=full|demo, variant=published|patch, trunk=inception|compact.
"""

from ml_collections import ConfigDict

from loco_jax.configs import loco


def get_config(arg: str = "") -> ConfigDict:
    return loco.get_config(3, arg)
