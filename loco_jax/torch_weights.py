"""Converts a PyTorch file of the published networks:

python -m loco_jax.torch_weights FILE --kind=vha|code_predictor|refiner|inception --output=FILE.safetensors
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging

from loco_jax import cli
from loco_jax.weights import torch


def _define_flags() -> None:
    flags.DEFINE_enum("kind", None, torch.KINDS, "Which network the file holds.", required=True)
    flags.DEFINE_string("output", None, "The safetensors file to write.", required=True)


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError(f"wants one PyTorch file, has {len(argv) - 1}")
    logging.set_verbosity(logging.WARNING)  # else JAX tells which devices it did not find
    try:
        cli.check_devices()
        print(torch.convert(argv[1], flags.FLAGS.kind, flags.FLAGS.output))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
