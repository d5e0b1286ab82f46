"""usage: python -m loco_jax.report RUN [RUN ...] [--output=FILE.html|FILE.md]

Compares runs with each other and with the poster's figures. A RUN is a workdir of python -m loco_jax.main, finished or
not.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from loco_jax import cli

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string(
    "output", "report.html", "One HTML page, or Markdown (.md) with a picture beside it.", flag_values=FLAGS
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, without the program's name; returns the exit status."""
    return cli.run(_main, sys.argv if argv is None else ["loco_jax.report", *argv], FLAGS)


def _main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("name at least one run")
    from etils import epath

    from loco_jax.report import compare, runs

    output = epath.Path(_OUTPUT.value).expanduser()
    compare.check_output(output)
    found = runs.read(argv[1:])
    files = compare.write(found, output)
    print(compare.to_markdown(compare.sections(found)))
    print(f"With curves: {' and '.join(map(str, files))}")


if __name__ == "__main__":
    sys.exit(main())
