"""What the options of docs/performance.md are worth on this machine: each off and on, as a Markdown table.

python -m loco_jax.benchmark.options [OPTION ...] [--scale=full|demo] [--iterations=N] [--output=FILE]
"""

import argparse
import concurrent.futures
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from loco_jax import cli

HEADER = ("option", "of", "value", "ms a step", "frames/s", "memory", "times off")


class Program(NamedTuple):
    """Something compiled: what runs it, for how many steps and frames at a time, and the bytes that it takes beside
    arguments and results."""

    run: Callable[[], Any]
    steps: int
    frames: int
    bytes: int


class Option(NamedTuple):
    """A field of a config whose default is off, its other value, and what is compiled of a config to compare them."""

    what: str
    on: Any
    config: Callable[[str], Any]
    compile: Callable[[Any], Program]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 1 if something failed, 130 for Ctrl-C and SIGTERM."""
    arguments = _parser().parse_args(argv)
    if unknown := [name for name in arguments.names if name not in OPTIONS]:
        print(f"loco_jax: no option {', '.join(unknown)}; there are {', '.join(OPTIONS)}", file=sys.stderr)
        return 1
    for name in ("iterations", "batch"):
        if getattr(arguments, name) < 1:
            print(f"loco_jax: --{name}={getattr(arguments, name)} must be at least 1", file=sys.stderr)
            return 1
    try:
        return cli.call(_main, arguments)
    except ValueError as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loco_jax.benchmark.options", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="OPTION", help=f"all if absent: {', '.join(OPTIONS)}")
    parser.add_argument("--scale", choices=("full", "demo"), default="full")
    parser.add_argument("--batch", type=int, default=4, help="frames a step; of the published VHA 1")
    parser.add_argument("--iterations", type=int, default=20, help="runs of each program, off and on in turns")
    parser.add_argument("--output", metavar="FILE", help="where the table goes too, line by line")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    import jax

    import loco_jax.experiment  # noqa: F401
    from loco_jax.benchmark import measure

    # Some are for the threads below, which would find each other's half imported.
    from loco_jax.cli import compilation
    from loco_jax.weights import files as weights  # noqa: F401

    compilation.use_cache()
    cli.check_devices()
    machine = measure.machine()
    device = machine["processor"] if machine["platform"] == "cpu" else machine["device"]
    said = [f"{arguments.scale} scale, {arguments.iterations} runs, JAX {machine['jax']}, {device}", ""]
    said += [f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]

    def say(*lines):
        said.extend(lines)
        print(*lines, sep="\n", flush=True)
        if arguments.output:
            pathlib.Path(arguments.output).expanduser().write_text("\n".join(said) + "\n")

    print(*said, sep="\n", flush=True)
    names, failed = arguments.names or list(OPTIONS), False
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # All are compiled first, side by side: nothing disturbs the measuring.
        programs, same = {}, {}
        for name in names:
            option = OPTIONS[name]
            for config in configs_of(option, name, arguments.scale, arguments.batch):
                key = option.compile, config.to_json()
                same.setdefault(key, pool.submit(option.compile, config))
                programs.setdefault(name, []).append((config, same[key]))
        concurrent.futures.wait(same.values())
    for name in names:
        values = [value_of(config, name) for config, _ in programs[name]]
        try:
            pair = [future.result() for _, future in programs[name]]
            seconds = _seconds(pair, arguments.iterations)
        except Exception as error:  # the others are measured all the same
            failed = True
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            say(f"| {name} | {OPTIONS[name].what} | failed: {reason} |")
            continue
        say(*(_row(name, *one, seconds[0] / pair[0].steps) for one in zip(values, pair, seconds)))
    print(f"Peak of the device's memory: {_peak(jax.devices()[0])}", flush=True)
    return int(failed)


def configs_of(option: Option, name: str, scale: str, batch: int) -> list[Any]:
    """The configs with an option off and on."""
    import jax

    off = option.config(scale)
    if off.model.variant != "published":  # with more frames that one does not fit into every GPU
        off.data.batch_size = batch
    off.model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name == "model.volume_dtype":  # in bfloat16 the volume is so anyway
        off.model.dtype = "float32"
    on = off.copy_and_resolve_references()
    on.update_from_flattened_dict({name: option.on})
    return [off, on]


def value_of(config: Any, name: str) -> Any:
    """A field of a config."""
    return functools.reduce(getattr, name.split("."), config)


def _row(name, value, program, seconds, off):
    step = seconds / program.steps
    cells = (
        name,
        OPTIONS[name].what,
        str(value),
        f"{1e3 * step:.3g}",
        f"{program.frames / seconds:.3g}",
        f"{program.bytes / 1e9:.2f} GB",
        f"{step / off:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _seconds(pair: Sequence[Program], iterations: int) -> list[float]:
    """Medians of a run, in turns."""
    import jax
    import numpy as np

    times = [[] for _ in pair]
    for i in range(2 + iterations):
        for program, list_of in zip(pair, times):
            start = time.perf_counter()
            jax.block_until_ready(program.run())
            if i >= 2:  # the first ones warm up
                list_of.append(time.perf_counter() - start)
    return [float(np.median(x)) for x in times]


def _peak(device) -> str:
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return "unknown" if peak is None else f"{peak / 1e9:.2f} GB"


# ---- What is compiled. Imports are in the functions: --help is to be quick.


def _loco(scale: str) -> Any:
    from loco_jax.configs import loco2

    config = loco2.get_config(f"variant=patch,trunk=compact,scale={scale}")
    config.refiner = ""
    return config


def _vha(variant: str, scale: str) -> Any:
    from loco_jax.configs import vha2

    return vha2.get_config(f"variant={variant},scale={scale}")


def _mesh_and_stream(config):
    from jax.sharding import NamedSharding, PartitionSpec

    from loco_jax.data import streams
    from loco_jax.ops import distributed

    mesh = distributed.make_mesh(config.data.batch_size, 1)
    return mesh, streams.training_stream(config, NamedSharding(mesh, PartitionSpec("batch")))


def training_step(config: Any) -> Program:
    """A step of training, always on the same batch."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from loco_jax import experiment, train

    mesh, stream = _mesh_and_stream(config)
    task, optimizer = experiment.create_task(config), train.make_optimizer(config)
    frames = next(stream)
    state = train.init_state(task, optimizer, config, stream.like(), pretrained=False)
    states = [jax.device_put(state, NamedSharding(mesh, PartitionSpec()))]  # every step replaces it
    step = functools.partial(train.step_of(config, task, optimizer), stage=0)
    compiled = train.compile_step(step, mesh, states[0], frames)

    def run():
        # Two, so that what is done every second step counts.
        for _ in range(2):
            states[0], loss = compiled(states[0], frames)
        return loss

    return Program(run, 2, 2 * config.data.batch_size, compiled.memory_analysis().temp_size_in_bytes)


_RENDER_BATCH = 4


def making_batches(config: Any) -> Program:
    """As many batches of the crowd, with pictures, as are made at once with the option on."""
    _, stream = _mesh_and_stream(config)
    frames = _RENDER_BATCH * config.data.batch_size
    return Program(lambda: [next(stream) for _ in range(_RENDER_BATCH)], _RENDER_BATCH, frames, stream.temporary_bytes)


def decoding_to_peaks(config: Any) -> Program:
    """From the code of a frame to the peaks of its heatmaps, with the released weights."""
    import jax

    from loco_jax import experiment
    from loco_jax.data import crowd as crowds
    from loco_jax.data import streams
    from loco_jax.ops.cpu import fast_vha
    from loco_jax.weights import files as weights

    task = experiment.create_task(config)
    params = jax.device_put(weights.load(weights.path_of(weights.RELEASED))[0]["vha"])
    crowd = streams.crowd_of(config)

    @jax.jit
    def encode(params, key):
        return task.encode(params, streams.crowd_frame(key, crowd))

    code = encode(params, crowds.scene_key("validation", 0))
    options = {"max_peaks": task.max_peaks, "subvoxel": task.subvoxel, "volume_dtype": task.volume_dtype}
    find = functools.partial(fast_vha.decode_peaks, task.network, size=task.volume.shape[:2], **options)
    compiled = jax.jit(lambda params, code: find(params, code)).lower(params, code).compile()
    return Program(lambda: compiled(params, code), 1, 1, compiled.memory_analysis().temp_size_in_bytes)


OPTIONS = {
    "optimizer.orthogonalise_every": Option("training LoCO(2), compact", 2, _loco, training_step),
    "optimizer.orthogonalise_dtype": Option("training LoCO(2), compact", "bfloat16", _loco, training_step),
    "model.pad_channels": Option(
        "training VHA(2), published", True, functools.partial(_vha, "published"), training_step
    ),
    "data.render_batch": Option("making batches with pictures", _RENDER_BATCH, _loco, making_batches),
    "model.volume_dtype": Option(
        "code to peaks, PatchVHA(2)", "bfloat16", functools.partial(_vha, "patch"), decoding_to_peaks
    ),
}

if __name__ == "__main__":
    sys.exit(main())
