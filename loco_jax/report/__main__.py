"""Runs beside each other, and beside the poster's figures.

python -m loco_jax.report RUN [RUN ...] [--output=FILE.html|FILE.md]
"""

import argparse
import io
import sys
from collections.abc import Sequence

from loco_jax import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 1 if anything failed, 130 for Ctrl-C and SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show ends nothing
            stream.reconfigure(errors="replace")
    return cli.call(_main, _parser().parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    from etils import epath  # after the arguments, so that --help is quick

    from loco_jax.report import compare, runs

    try:
        output = epath.Path(arguments.output).expanduser()
        compare.check_output(output)
        found = runs.read(arguments.runs)
        files = compare.write(found, output)
    except (ValueError, OSError) as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1
    print(compare.to_markdown(compare.sections(found)))
    print(f"With curves: {' and '.join(map(str, files))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loco_jax.report", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a workdir of python -m loco_jax.main, finished or not")
    parser.add_argument(
        "--output",
        default="report.html",
        metavar="FILE",
        help="one HTML page, or Markdown (.md) with a picture beside it; report.html if absent",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
