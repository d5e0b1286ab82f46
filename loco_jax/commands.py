"""What commands with a config share."""

import sys

from absl import flags


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; exits with one line about what is wrong with it."""
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:
        sys.exit(f"loco_jax: the config has no field {error}")
    except (flags.Error, TypeError, ValueError) as error:
        # ml_collections puts the traceback of a config file into the message; its last line tells.
        lines = [line.strip() for line in str(error).splitlines() if "Error" in line] or [str(error)]
        sys.exit(f"loco_jax: {lines[-1]}")
