"""Measures the speed of the hot functions, beside other implementations.

    python -m loco_jax.benchmark [NAME ...] [--scale=full|demo] [--json=FILE] [--plot=FILE]
    python -m loco_jax.benchmark --steps [NAME ...]      # training steps, with the options of docs/performance.md
    python -m loco_jax.benchmark --kernels [NAME ...]    # the fast paths beside the plain networks
    python -m loco_jax.benchmark --runtimes [--batch=N]  # a trained LoCO in ONNX Runtime and as StableHLO

docs/performance.md explains the table.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from loco_jax import cli


def _define_flags() -> None:
    flags.DEFINE_bool("steps", False, "Measure training steps instead, with the options for speed off and on.")
    flags.DEFINE_bool("kernels", False, "Measure the fast paths beside the plain networks instead.")
    flags.DEFINE_bool("runtimes", False, "Measure a trained LoCO in JAX and in other runtimes instead.")
    flags.DEFINE_bool("list", False, "Print the names of what can be measured, and stop.")
    flags.DEFINE_enum("scale", "full", ["full", "demo"], "Size of pictures and volume.")
    flags.DEFINE_integer("people", 20, "People in the frame.", 1, 60)
    flags.DEFINE_integer("batch", None, "Pictures at once (default: 1; with --steps 4).", 1, 1024)
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Type of the networks' arithmetic (default: float32; with --steps on "
        "accelerators bfloat16)."
    )  # fmt: skip
    flags.DEFINE_string(
        "weights", "", "A run's folder or a file with a published VHA(2), to decode with; with --runtimes a LoCO."
    )
    flags.DEFINE_integer("repeats", None, "Maximum number of rounds (default: 5; with --steps 20).", 1, 1000)
    flags.DEFINE_float("seconds", None, "Maximum seconds per implementation (default: 10; at demo scale 2).", 0.0)
    flags.DEFINE_string("json", None, "File for everything that was measured.")
    flags.DEFINE_string("plot", None, "File for a figure of the table: .png, .svg or .pdf.")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns 1 if a result was wrong or something failed."""
    names, values = argv[1:], flags.FLAGS
    output, picture = (path and pathlib.Path(path).expanduser() for path in (values.json, values.plot))
    for flag, path in (("json", output), ("plot", picture)):
        if path and not path.absolute().parent.is_dir():  # before the minutes of work
            raise ValueError(f"--{flag}={path}: there is no such folder; make it first")
    if sum((values.steps, values.kernels, values.runtimes)) > 1:
        raise ValueError("--steps, --kernels and --runtimes exclude each other")
    # By default PyTorch's threads spin while they wait, which is many times slower when other processes run.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli.start_jax()
    import jax

    from loco_jax.benchmark import cases, figure, measure
    from loco_jax.benchmark.inputs import Setting

    known = cases.STEPS if values.steps else cases.KERNELS if values.kernels else cases.CASES
    known = cases.RUNTIMES if values.runtimes else known
    if values.list:
        print(*known, sep="\n")
        return 0
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no function {', '.join(unknown)}; there are {', '.join(known)}")
    dtype = values.dtype or ("bfloat16" if values.steps and jax.default_backend() != "cpu" else "float32")
    batch = values.batch or (4 if values.steps else 1)
    setting = Setting(values.scale, values.people, batch, dtype, values.weights, values.kernels)
    rounds = values.repeats or (20 if values.steps else 5), values.seconds or (10.0 if values.scale == "full" else 2.0)
    machine = measure.machine()
    shown = "pictures of the crowd" if values.runtimes else f"{values.scale} scale, {values.people} people"
    print(
        f"{shown}, batch {batch}, {dtype}: {machine['cores']} cores, "
        f"{machine['device']}, JAX {machine['jax']}, PyTorch {machine['torch'] or 'not installed'}\n\n{measure.head()}",
        flush=True,
    )
    rows: list[measure.Row] = []
    for name in names or [name for name in known if name not in cases.SLOW]:
        try:
            made = measure.measure(name, known[name](setting), *rounds)
        except (RuntimeError, MemoryError) as error:  # for example no memory left for the inputs
            made = [measure.Row(name, "", note=measure.failure(error))]
        print(*map(measure.line, made), sep="\n", flush=True)
        rows += made
    if output:
        measured = [dataclasses.asdict(row) for row in rows]
        content = {"machine": machine, "setting": dataclasses.asdict(setting), "rows": measured}
        output.write_text(json.dumps(content, indent=1) + "\n")
    if picture:
        figure.plot(picture, f"{values.scale} scale: {machine['cores']} cores, {machine['device']}", rows)
    wrong = [row for row in rows if row.equal is False or row.note.startswith("failed")]
    for row in wrong:
        print(f"loco_jax: {row.function}, {row.implementation}: {row.note or 'another result'}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
