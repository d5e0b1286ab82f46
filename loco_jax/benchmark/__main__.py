"""Measures the speed of the hot functions, of other implementations and of the machine.

    python -m loco_jax.benchmark [NAME ...] [--scale=full|demo] [--json=FILE] [--plot=FILE]
    python -m loco_jax.benchmark --steps [NAME ...]      # training steps, with the options of docs/performance.md
    python -m loco_jax.benchmark --kernels [NAME ...]    # the fast paths beside the plain networks

docs/performance.md explains the table.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from loco_jax import cli

# With --scaling: the values of each setting, and the functions that are measured with them.
_SCALING: dict[str, tuple[Sequence[Any], Sequence[str]]] = {
    "people": ((1, 5, 20, 60), ("encode", "peaks", "decode_peaks", "picture_to_people")),
    "grid": ((0.25, 0.5, 1.0), ("encode", "peaks", "predict_code")),
    "batch": ((1, 2, 4), ("predict_code", "train_vha_patch", "train_code_predictor_compact")),
}


def _define_flags() -> None:
    flags.DEFINE_bool("steps", False, "Measure training steps instead, with the options for speed off and on.")
    flags.DEFINE_bool("kernels", False, "Measure the fast paths beside the plain networks instead.")
    flags.DEFINE_bool("list", False, "Print the names of what can be measured, and stop.")
    flags.DEFINE_enum("scale", "full", ["full", "demo"], "Size of pictures and volume.")
    flags.DEFINE_integer("people", 20, "People in the frame.", 1, 60)
    flags.DEFINE_integer("batch", None, "Pictures at once (default: 1; with --steps 4).", 1, 1024)
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "Type of the networks' arithmetic (default: float32; with --steps on "
        "accelerators bfloat16)."
    )  # fmt: skip
    flags.DEFINE_string("weights", "", "A run's folder or a file with a published VHA(2), to decode with.")
    flags.DEFINE_integer("repeats", None, "The most rounds (default: 5; with --steps 20).", 1, 1000)
    flags.DEFINE_float("seconds", None, "The most seconds for an implementation (default: 10; at demo scale 2).", 0.0)
    flags.DEFINE_string("json", None, "File for everything that was measured.")
    flags.DEFINE_string("plot", None, "File for a figure of the table: .png, .svg or .pdf.")
    flags.DEFINE_bool("scaling", False, "Measure our implementation also over people, grids and batches.")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns 1 if a result was wrong or something failed."""
    names, values = argv[1:], flags.FLAGS
    for name in ("json", "plot"):  # before the minutes of work
        path = values[name].value
        if path and not pathlib.Path(path).expanduser().absolute().parent.is_dir():
            raise ValueError(f"--{name}={path}: there is no such folder; make it first")
    if values.steps + values.kernels + values.scaling > 1:
        raise ValueError("--steps, --kernels and --scaling exclude each other")
    # By default PyTorch's threads spin while they wait, which takes many times as long beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli.start_jax()
    import jax

    from loco_jax.benchmark import cases, measure, steps, tables
    from loco_jax.benchmark.inputs import Setting

    known = steps.STEPS if values.steps else cases.KERNELS if values.kernels else cases.CASES
    if values.list:
        print(*known, sep="\n")
        return 0
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no function {', '.join(unknown)}; there are {', '.join(known)}")
    names = names or [name for name in known if name not in cases.SLOW]
    dtype = values.dtype or ("bfloat16" if values.steps and jax.default_backend() != "cpu" else "float32")
    batch = values.batch or (4 if values.steps else 1)
    setting = Setting(values.scale, values.people, batch, 1.0, dtype, values.weights, values.kernels)
    rounds = values.repeats or (20 if values.steps else 5), values.seconds or (10.0 if values.scale == "full" else 2.0)
    limits, peak = measure.limits(dtype), measure.known_peak(dtype)
    machine = measure.machine()
    title = f"{values.scale} scale, {values.people} people, batch {batch}, {dtype}: {machine['cores']} cores, "
    title += f"{machine['device']}, JAX {machine['jax']}, PyTorch {machine['torch'] or 'not installed'}"
    print(f"{title}\n\n{tables.head()}", flush=True)
    rows: list[measure.Row] = []

    def run(name, make, setting, only_ours=False):
        try:
            case = make(setting)
            ways = [way for way in case.implementations if way.name.startswith("ours") or not only_ours]
            made = measure.measure(name, dataclasses.replace(case, implementations=ways), limits, *rounds, peak)
        except (RuntimeError, MemoryError) as error:  # for example no memory left while it was compiled
            made = [measure.Row(name, "", note=f"failed: {str(error).splitlines()[0][:80]}")]
        print(*(tables.line(row) for row in made if row.implementation not in measure.LIMITS), sep="\n", flush=True)
        rows.extend(made)

    for name in names:
        run(name, known[name], setting)
    if values.plot:
        tables.plot(pathlib.Path(values.plot).expanduser(), title, rows)
    for what, (numbers, functions) in _SCALING.items() if values.scaling else ():
        for name in (name for name in functions if name in names):
            for number in numbers:
                one = dataclasses.replace(setting, plain=True, **{what: number})
                run(f"{name}, {what} {number}", known[name], one, only_ours=True)
    print(f"\n{tables.limits(rows)}")
    if values.json:
        content = {
            "machine": machine,
            "setting": dataclasses.asdict(setting),
            "rows": list(map(dataclasses.asdict, rows)),
        }
        pathlib.Path(values.json).expanduser().write_text(json.dumps(content, indent=1) + "\n")
    wrong = [row for row in rows if row.equal is False or row.note.startswith("failed")]
    for row in wrong:
        print(f"loco_jax: {row.function}, {row.implementation}: {row.note or 'another result'}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
