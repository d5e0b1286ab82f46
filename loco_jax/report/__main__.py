"""usage: python -m loco_jax.report RUN [RUN ...] [--output=FILE.html]

Compares runs with each other and with the poster's figures. A RUN is a workdir of python -m loco_jax.main, finished or
not. The tables are printed as Markdown too.
"""

from absl import app, flags

from loco_jax import cli

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", "report.html", "The page with curves and tables.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("name at least one run")
    from etils import epath

    from loco_jax.report import compare, figure, runs

    output = epath.Path(_OUTPUT.value).expanduser()
    if output.suffix != ".html":
        raise ValueError(f"--output={output}: want a file that ends in .html")
    found = runs.read(argv[1:])
    sections = compare.sections(found)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(compare.to_html(sections, figure.draw_runs(found)), encoding="utf-8")
    print(compare.to_markdown(sections))
    print(f"With curves: {output}")


def command() -> None:
    """The command `loco-report`."""
    cli.start(main, FLAGS)


if __name__ == "__main__":
    command()
