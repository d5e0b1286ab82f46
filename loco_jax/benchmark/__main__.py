"""Speed of the hot functions beside other implementations, and beside the machine's limits.

    python -m loco_jax.benchmark [NAME ...] [--scale=full|demo] [--json=FILE] [--plot=FILE] [--scaling]

README.md in this folder tells how to read the table.
"""

import argparse
import dataclasses
import gc
import os
import pathlib
import sys
from collections.abc import Sequence

from loco_jax import cli

# What the times of ours are measured over, with --scaling: of which functions.
_SCALING = {
    "people": (
        (1, 5, 20, 60),
        ("render", "encode", "peaks", "decode_peaks", "decode_peaks_patch", "picture_to_people", "associate", "score"),
    ),
    "grid": ((0.25, 0.5, 1.0), ("render", "encode", "peaks", "predict_code")),
    "batch": ((1, 2, 4), ("predict_code", "predict_code_compact", "train_vha_patch", "train_code_predictor_compact")),
}
_SLOW = ("train_code_predictor",)  # only if asked for: it takes minutes and many GB on a CPU


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 1 if a result was wrong or something failed, 130 after a signal."""
    arguments = _parser().parse_args(argv)
    try:
        return cli.call(_main, arguments)
    except (ValueError, OSError) as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loco_jax.benchmark", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions; all but the slowest if absent")
    parser.add_argument("--scale", choices=("full", "demo"), default="full")
    parser.add_argument("--people", type=int, default=20, help="in the frame, 1 to 60")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once, of code predictors and training")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--weights", default="", metavar="RUN_OR_FILE", help="of a VHA(2); made for this if absent")
    parser.add_argument("--repeats", type=int, default=5, help="rounds at most")
    parser.add_argument(
        "--seconds", type=float, default=None, help="of each implementation at most, or one run; 10, at demo scale 2"
    )
    parser.add_argument("--json", metavar="FILE", help="everything that was measured")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the table: .png, .svg or .pdf")
    parser.add_argument("--scaling", action="store_true", help="also ours over people, grids and batches")
    parser.add_argument("--list", action="store_true", help="name the functions and stop")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    from absl import logging

    from loco_jax.cli import compilation

    logging.set_verbosity(logging.ERROR)
    # PyTorch's threads else wait by spinning, which on a machine that does other things takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    compilation.use_cache()
    cli.check_devices()
    import jax.numpy as jnp

    from loco_jax.benchmark import cases, measure, tables

    if arguments.list:
        for name, case in cases.CASES.items():
            print(f"{name}: {case.__doc__.splitlines()[0]}")
        return 0
    names = arguments.names or [name for name in cases.CASES if name not in _SLOW]
    if unknown := [name for name in names if name not in cases.CASES]:
        raise ValueError(f"no function {', '.join(unknown)}; there are {', '.join(cases.CASES)}")
    for name, least, most in (("people", 1, cases.MOST_PEOPLE), ("batch", 1, 1024), ("repeats", 1, 1000)):
        if not least <= getattr(arguments, name) <= most:
            raise ValueError(f"--{name}={getattr(arguments, name)} is not between {least} and {most}")
    for name in ("json", "plot"):  # before the minutes of work
        if (path := getattr(arguments, name)) and not pathlib.Path(path).expanduser().absolute().parent.is_dir():
            raise ValueError(f"--{name}={path}: there is no such folder; make it first")
    dtype = jnp.dtype(arguments.dtype)
    setting = cases.Setting(arguments.scale, arguments.people, arguments.batch, 1.0, dtype, arguments.weights)
    most_seconds = arguments.seconds or (10.0 if arguments.scale == "full" else 2.0)
    limits = measure.limits(dtype)
    about = {"machine": measure.machine(), "setting": {**dataclasses.asdict(setting), "dtype": dtype.name}}

    def run(name, setting, only_ours=False):
        print(f"{name} ...", end="\r", file=sys.stderr, flush=True)
        case = cases.make(name, setting, only_ours)
        rows = measure.measure(case, [] if only_ours else limits, arguments.repeats, most_seconds)
        del case
        gc.collect()
        return rows

    rows = [row for name in names for row in run(name, setting)]
    print(f"{_title(about)}\n\n{tables.table(rows)}\n\n{tables.limits(rows)}")
    if more := tables.beside_our_others(rows):
        print(f"\n{more}")
    scaled = {}
    for what, (values, of) in _SCALING.items() if arguments.scaling else ():
        lines = {}
        for name in [n for n in of if n in names]:
            for value in values:
                measured = run(name, dataclasses.replace(setting, **{what: value}), only_ours=True)
                for row in measured:
                    lines.setdefault((name, row.implementation), []).append(row)
        if lines:
            print(f"\n{tables.scaling(what, values, lines)}", flush=True)
            scaled[what] = [
                {"value": v, **dataclasses.asdict(r)} for line in lines.values() for v, r in zip(values, line)
            ]
    if arguments.json:
        tables.write_json(pathlib.Path(arguments.json).expanduser(), {**about, "scaling": scaled}, rows)
    if arguments.plot:
        tables.plot(pathlib.Path(arguments.plot).expanduser(), _title(about), rows)
    wrong = [r for r in rows if r.equal is False or r.note.startswith("failed")]
    for row in wrong:
        print(f"loco_jax: {row.function}, {row.implementation}: {row.note or 'another result'}", file=sys.stderr)
    return 1 if wrong else 0


def _title(about: dict) -> str:
    machine, setting = about["machine"], about["setting"]
    device = machine["processor"] if machine["platform"] == "cpu" else machine["device"]
    return (
        f"{setting['scale']} scale, {setting['people']} people, batch {setting['batch']}, {setting['dtype']}: "
        f"{machine['cores']} cores of {device}, JAX {machine['jax']}, PyTorch {machine['torch'] or 'not installed'}"
    )


if __name__ == "__main__":
    sys.exit(main())
