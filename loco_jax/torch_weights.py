"""usage: python -m loco_jax.torch_weights FILE --kind=vha|code_predictor|refiner|inception --output=FILE.safetensors

Converts a PyTorch file of the published networks.
"""

from absl import app, flags

from loco_jax import cli

FLAGS = flags.FlagValues()
_KIND = flags.DEFINE_enum(
    "kind",
    None,
    ["vha", "code_predictor", "refiner", "inception"],
    "Which network the file holds.",
    required=True,
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string("output", None, "The safetensors file to write.", required=True, flag_values=FLAGS)


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError(f"name one PyTorch file, not {len(argv) - 1}")
    cli.start_jax()
    from loco_jax.weights import torch

    print(torch.convert(argv[1], _KIND.value, _OUTPUT.value))


if __name__ == "__main__":
    cli.start(main, FLAGS)
