"""Writes a run of any task, or the separately trained parts of a LoCO, as one file of weights or for other runtimes.

    python -m loco_jax.export --workdir=runs/loco2 --output=loco2.safetensors
    python -m loco_jax.export --weights=released|RUN|FILE --format=safetensors|onnx|stablehlo --output=FILE
    python -m loco_jax.export --config=configs/loco2.py --code_predictor=predictor.safetensors \
        --config.vha=vha2.safetensors --config.refiner=refiner.safetensors --output=loco2.safetensors
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from loco_jax import cli

FORMATS = ("safetensors", "onnx", "stablehlo")


def export(workdir: str, path: str, dtype: Any = None, tune: int = 0, refiner: str = "") -> None:
    """Writes the newest checkpoint of a run of any task as a file of weights, see `weights.save`.

    For a LoCO, `tune` is the number of validation frames on which its rules are chosen, see `tuned`, and `refiner`
    replaces the run's `config.refiner`. Raises WeightsError or CheckpointError if the run cannot be read, ValueError
    if `tune` or `refiner` is given for another task.
    """
    from loco_jax import experiment, tasks, weights

    folder = weights.path_of(workdir)
    config = weights.run_config(folder)
    is_loco = config.get("task", "loco") == "loco"
    if not is_loco and (tune or refiner):
        raise ValueError(f"--tune and --refiner are for a run of the task loco; {workdir} is one of {config.task}")
    if is_loco:
        config.refiner = refiner or config.refiner
    with experiment.stated_by(folder):
        task = experiment.create_task(config)
    params = weights.read_run(folder, config, tasks.network_shapes(task))
    if is_loco:
        _save_loco(path, task.for_evaluation(params), config, dtype, tune)
    else:
        weights.save(path, params, {"kind": config.task, "config": weights.portable(config)}, dtype)


def convert(source: str, path: str, dtype: Any = None) -> None:
    """Writes a file of weights, or the "released" ones, as another file with numbers of type `dtype`.

    Raises WeightsError if there is no such file.
    """
    from loco_jax import weights

    params, about = weights.load(weights.path_of(source))
    weights.save(path, params, about, dtype)


def join(config: ConfigDict, code_predictor: str, path: str, dtype: Any = None, tune: int = 0) -> None:
    """Writes parts that were trained separately, such as the authors', as one file of weights of a LoCO.

    `config.vha` and `config.refiner` say where those parts come from, `code_predictor` is a file of that kind. See
    `export` for the others. Raises WeightsError if a part is missing or of another network.
    """
    from loco_jax import experiment, weights
    from loco_jax.tasks import pretrained

    task = experiment.create_task(config)
    experiment.check_sources(config, task)
    predictor = weights.read("code_predictor", code_predictor, pretrained.join_variables(task.shapes()))
    params = task.pretrained(pretrained.split_variables(predictor))
    _save_loco(path, task.for_evaluation(params), config, dtype, tune)


def _save_loco(path: str, params: Any, config: ConfigDict, dtype: Any, tune: int) -> None:
    from loco_jax import weights
    from loco_jax.data import datasets
    from loco_jax.tasks.loco import PICTURE

    if tune:
        config = tuned(config, params, tune)
    camera = datasets.of(config).camera  # the data need not be there where the file is used
    plain = weights.portable(config) | ({"refiner": PICTURE} if config.refiner == PICTURE else {})
    weights.save(path, params, {"kind": "loco", "config": plain, "camera": camera}, dtype)


def tuned(config: ConfigDict, params: Any, num_frames: int) -> ConfigDict:
    """The config with the values of `refine` and `people` that score best on `num_frames` validation frames."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from loco_jax import experiment
    from loco_jax.data import datasets
    from loco_jax.ops import distributed
    from loco_jax.pose import people, people_metrics, refinement, tuning
    from loco_jax.tasks.people import METRES

    config = config.copy_and_resolve_references()
    task = experiment.create_task(config)

    def find(params, frame):
        code, features = task.look_at(params, frame.image, frame.camera)
        points = task.points_of_code(params, code, frame.camera, True)
        found = people.find_people(points)
        better = task.refine(params, found, features, frame.camera)
        return points, found, better, frame.camera, frame.joints, task.vha.targets(frame)[1]

    find_all = jax.jit(lambda params, frames: jax.lax.map(functools.partial(find, params), frames))
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    batches = datasets.of(config).evaluation_batches(config.data.validation_split, 1, num_frames, sharding)
    params = jax.device_put(params)
    seen = [jax.device_get(find_all(params, frames)) for frames, _ in batches]
    points, found, better, cameras, true, present = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    if better is not None:
        least_joints, least_stray = tuning.best_rules(points, found, better, true, present, METRES)
        config.refine.update(least_joints=least_joints, least_stray=least_stray)
        found = jax.device_get(refinement.choose(found, better, least_joints))
    best, _ = tuning.best_people_options(found, cameras, true, present, people_metrics.FOUND_WITHIN)
    config.people = ConfigDict(best._asdict())
    return config


def run(argv: Sequence[str]) -> None:
    """The command, see `cli.run`."""
    values = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    parts = [name for name in ("config", "code_predictor") if values[name].value]
    source = values.workdir or values.weights
    if values.workdir and values.weights:
        raise ValueError("--workdir=RUN and --weights=RUN say the same: give one of them")
    if (source and parts) or (not source and len(parts) < 2):
        raise ValueError("want either --weights or --workdir, or --config and --code_predictor")
    if values.refiner and not source:
        raise ValueError("--refiner needs --workdir; for separate parts, give --config.refiner")
    if values.format not in FORMATS:
        raise ValueError(f"--format={values.format}: there are {', '.join(FORMATS)}")
    if values.format == "safetensors" and values["batch"].present:
        raise ValueError("--batch goes with --format=onnx and --format=stablehlo")
    if values.format != "safetensors" and (parts or values.tune or values.refiner):
        raise ValueError(
            f"--format={values.format} takes weights as they are: first write them with --format=safetensors, "
            "--tune, --refiner and parts, then give that file as --weights"
        )
    cli.start_jax()
    from loco_jax import weights  # after the flags, so that --help is quick

    dtype = np.float16 if values.half else None
    weights.check_output(values.output)
    if values.format != "safetensors":
        from loco_jax.runtimes import files, graph

        batch = graph.batch_of(values.batch)
        if os.path.realpath(os.path.expanduser(values.output)) == os.path.realpath(weights.path_of(source)):
            raise ValueError(f"--output={values.output} holds the weights themselves; name another file")
        files.check(values.output, values.format)
        if values.format == "onnx":
            files.need("jax2onnx")
        files.write(values.output, graph.load(source, values.half), values.format, batch)
    elif source and (values.workdir or weights.path_of(source).is_dir()):
        export(source, values.output, dtype, values.tune, values.refiner)
    elif source:
        if values.tune or values.refiner:
            raise ValueError("--tune and --refiner are for a run's folder or for parts, not for a file of weights")
        convert(source, values.output, dtype)
    else:
        join(values.config, values.code_predictor, values.output, dtype, values.tune)
    print(f"Written to {values.output}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The LoCO that the parts make, e.g. configs/loco2.py.")
    flags.DEFINE_string("workdir", "", "A run whose newest checkpoint is written.")
    flags.DEFINE_string("weights", "", 'In place of --workdir: "released", a run, or a file of weights.')
    flags.DEFINE_string(
        "format", FORMATS[0], f"Format: {', '.join(FORMATS)}. The last two hold a LoCO, from picture to people."
    )
    flags.DEFINE_string("batch", "1", "For onnx and stablehlo: the number of pictures, or any.")
    flags.DEFINE_string("code_predictor", "", "A file that python -m loco_jax.torch_weights made.")
    flags.DEFINE_string("refiner", "", 'With --workdir: replaces its config.refiner: a run, a file, or "picture".')
    flags.DEFINE_string("output", None, "The file to write.", required=True)
    flags.DEFINE_bool("half", False, "Store numbers in half precision: half the size.")
    flags.DEFINE_integer(
        "tune",
        0,
        "Choose config.refine and config.people on this many validation frames; 0: as configured.",
        lower_bound=0,
    )
    cli.start(run)
