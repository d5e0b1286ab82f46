"""Training steps of configs, with the options of docs/performance.md off and on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import experiment
from loco_jax import step as training
from loco_jax.benchmark import inputs
from loco_jax.benchmark.floors import num_bytes, operations
from loco_jax.benchmark.inputs import Setting, config_of
from loco_jax.benchmark.measure import Case, Implementation, of_jax, planned_bytes
from loco_jax.data import streams
from loco_jax.ops import distributed

RENDER_BATCH = 4


def training_step(name: str, setting: Setting, config: ConfigDict, steps: int = 1) -> Case:
    """A training step as `train` runs it, on the same batch every time."""
    mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
    sharded, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    frames = jax.device_put(inputs.batch(setting, config.data.pictures), sharded)
    task, optimizer = experiment.create_task(config), training.make_optimizer(config)
    step = functools.partial(training.step_of(config, task, optimizer), stage=task.stages - 1)

    def start():
        return training.init_state(task, optimizer, config, frames, pretrained=False)

    def placed(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated)

    state: list[Any] = []  # every step replaces it
    like = jax.tree.map(placed, jax.eval_shape(start))
    compiled = training.compile_step(step, mesh, like, frames)

    def run():
        if not state:
            state.append(jax.device_put(start(), replicated))
        for _ in range(steps):
            state[0], loss = compiled(state[0], frames)
        return jax.block_until_ready(loss)

    way = Implementation(name, run, comparable=False, device_bytes=planned_bytes(lambda: compiled))
    work = 2 * num_bytes(like), operations(step, like, frames)
    return Case([way], *work, frames=config.data.batch_size, steps=steps)


def pictures(name: str, _: Setting, config: ConfigDict) -> Case:
    """As many batches of the crowd's pictures as `data.render_batch` makes at once."""
    mesh = distributed.make_mesh(config.data.batch_size, 1)
    stream = streams.training_stream(config, NamedSharding(mesh, PartitionSpec("batch")))

    def run():
        return jax.block_until_ready([next(stream) for _ in range(RENDER_BATCH)])

    way = Implementation(name, run, comparable=False)
    return Case([way], num_bytes(stream.like()), 0, frames=config.data.batch_size, steps=RENDER_BATCH)


def code_to_people(name: str, setting: Setting, config: ConfigDict) -> Case:
    """From the true code of a frame to points, with the released weights."""
    task: Any = experiment.create_task(config)
    params, frame = inputs.system(setting, "compact")[1]["vha"], inputs.frame(setting)
    code = jax.jit(task.vha.encode)(params, frame)
    decode = functools.partial(task.vha.network.apply, method="decode")

    def find(params, code):
        return task.points_of_code({"vha": params}, code, frame.camera, True)

    way = of_jax(name, find, params, code, comparable=False)
    return Case([way], num_bytes(params, code), operations(decode, params, code[None]))


Make = Callable[[str, Setting, ConfigDict], Case]
_TWO = functools.partial(training_step, steps=2)  # so that work done every second step counts
_PATCH, _PUBLISHED = {"variant": "patch"}, {"variant": "published"}
_COMPACT = {"variant": "patch", "trunk": "compact"}
# For each name the measurement, the config's task and options, and fields that are off by default with values to try.
_STEPS: dict[str, tuple[Make, str, dict[str, str], dict[str, Any]]] = {
    "train_vha_patch": (_TWO, "vha", _PATCH, {}),
    "train_vha": (_TWO, "vha", _PUBLISHED, {"model.pad_channels": True}),
    "train_code_predictor_compact": (
        _TWO, "loco", _COMPACT, {"optimizer.orthogonalise_every": 2, "optimizer.orthogonalise_dtype": "bfloat16"},
    ),
    "train_code_predictor": (_TWO, "loco", _PUBLISHED, {}),
    "render_pictures": (pictures, "loco", _COMPACT, {"data.render_batch": RENDER_BATCH}),
    "code_to_people": (code_to_people, "loco", _COMPACT, {"model.volume_dtype": "bfloat16"}),
}  # fmt: skip


def _make(name: str, setting: Setting) -> Case:
    """Measures the config without and with each of its options."""
    make, task, options, fields = _STEPS[name]
    if task == "vha" and options is _PUBLISHED:
        setting = dataclasses.replace(setting, batch=1)  # more frames do not fit into every GPU
    if "model.volume_dtype" in fields:
        setting = dataclasses.replace(setting, dtype="float32")  # in bfloat16 the volume is bfloat16 anyway
    ways: list[Implementation] = []
    for field, value in {"": None, **fields}.items():
        config = config_of(setting, task, **options)
        if field:
            config.update_from_flattened_dict({field: value})
        case = make(f"{field.rpartition('.')[2]}={value}" if field else "default", setting, config)
        ways += case.implementations
    return dataclasses.replace(case, implementations=ways)


STEPS: dict[str, Callable[[Setting], Case]] = {name: functools.partial(_make, name) for name in _STEPS}
