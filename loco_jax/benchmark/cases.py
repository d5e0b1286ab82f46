"""The functions that are measured, each beside PyTorch or beside the plain network. Ours is first in each list."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict

from loco_jax import experiment, weights
from loco_jax import step as training
from loco_jax.benchmark import inputs
from loco_jax.benchmark.inputs import LEVEL, SIGMA, Setting, config_of
from loco_jax.benchmark.measure import Implementation, of_jax
from loco_jax.data import datasets
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import code_predictor
from loco_jax.ops import distributed
from loco_jax.pose import heatmaps, metrics, peaks, people
from loco_jax.pose.people import Points
from loco_jax.runtimes import files, graph
from loco_jax.tasks import pretrained

THRESHOLD = 0.1
_NOISE = 0.05  # in the heatmaps that are searched for peaks, similar to that of a decoder
_RENDER_BATCH = 4
Ways = list[Implementation]


def of_torch(setting: Setting, make: Callable[[Any, Any], tuple[Any, Any]], **options: Any) -> Implementation:
    """An implementation from `make(torch_reference, runner)`, which returns its `run` and `result`.

    Without PyTorch it is a row that says so.
    """
    try:
        reference = importlib.import_module("loco_jax.benchmark.torch_reference")
    except ImportError:
        return Implementation("PyTorch", missing="PyTorch is not installed: pip install 'torch>=2.10'")
    return Implementation("PyTorch", *make(reference, reference.Runner(setting.dtype == "bfloat16")), **options)


def _beside(
    setting: Setting,
    ours: Callable[..., Any],
    plain: Callable[..., Any],
    torch: Callable[[Any, Any], tuple[Any, Any]],
    *args: Any,
    result: Callable[[Any], Any] = jax.device_get,
    **options: Any,
) -> Ways:
    """Our function beside PyTorch, or beside the plain network if the setting says so."""
    if setting.plain:
        other = of_jax("plain", plain, *args, result=result, **options)
    else:
        other = of_torch(setting, torch, **options)
    return [of_jax("ours", ours, *args, result=result, **options), other]


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.float().cpu().numpy()


# ---- Heatmaps, codes and peaks


def encode(setting: Setting, kind: str = "published") -> Ways:
    """Joints to the VHA's code; PyTorch begins with finished heatmaps."""
    task, params = inputs.system(setting, kind)
    vha, frame = task.vha, inputs.frame(setting)

    def render(frame):
        options = {"subvoxel": vha.subvoxel, "dtype": vha.network.dtype}
        return heatmaps.render(*vha.targets(frame), vha.volume.shape, SIGMA, **options)[None]

    def plain(params, frame):
        return vha.network.apply(params, render(frame), method="encode")[0]

    def torch(reference, runner):
        module = reference.load(reference.Vha(LEVEL, vha.volume.depth_bins), params["vha"])
        volume = jax.jit(render)(frame)
        spare = [(0, -n % 2**LEVEL) for n in volume.shape[2:4]]  # as ours pads
        padded = runner.place(np.pad(volume, [(0, 0), (0, 0), *spare, (0, 0)]))
        run = runner.infer(runner.prepare(module).encode, padded.movedim(-1, 2))
        return run, lambda made: np.moveaxis(_numpy(made)[0, 0], 0, -1)

    return _beside(setting, vha.encode, plain, torch, params["vha"], frame, tolerance=setting.tolerance)


def as_peaks(volume: Volume, camera: Camera, points: Points) -> Float[np.ndarray, "N 4"]:
    """Points as rows (joint type, row, column, bin) of their voxels, sorted."""
    voxels = np.round(volume.to_voxels(camera, points.xyz))
    return _sorted(metrics.peak_rows(voxels, np.asarray(points.scores)))


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])].astype(np.float32)


def _torch_decoder(reference: Any, runner: Any, setting: Setting, params: Any) -> Callable[[Any], Any]:
    """A function from a code `[d, h, w]` to the peaks of its heatmaps `[N, 4]`."""
    module = runner.prepare(reference.load(reference.Vha(LEVEL, setting.volume.depth_bins), params["vha"]))
    rows, columns, _ = setting.volume.shape

    def find(code):
        volumes = module.decode(code[None, None])[0, :, :, :rows, :columns]
        return reference.find_peaks(volumes.movedim(1, -1), THRESHOLD)

    return find


def decode_peaks(setting: Setting, kind: str = "published") -> Ways:
    """The VHA's code of a frame to the peaks of its heatmaps."""
    task, params = inputs.system(setting, kind)
    frame, volume = inputs.frame(setting), setting.volume
    code = jax.jit(task.vha.encode)(params["vha"], frame)

    def ours(params, code):
        return task.points_of_code({"vha": params}, code, frame.camera, False)

    def plain(params, code):
        decoded = task.vha.network.apply(params, code[None], volume.shape[:2], method="decode")[0]
        return people.in_metres(peaks.find_peaks(decoded, max_peaks=task.vha.max_peaks), frame.camera, volume)

    def torch(reference, runner):
        decode = _torch_decoder(reference, runner, setting, params)
        run = runner.infer(decode, runner.place(code).movedim(-1, 0))
        return run, lambda made: _sorted(made.cpu().numpy())

    # In bfloat16 no two implementations find exactly the same peaks.
    tolerance = 0.0 if setting.dtype == "float32" else None
    result = functools.partial(as_peaks, volume, frame.camera)
    return _beside(setting, ours, plain, torch, params["vha"], code, result=result, tolerance=tolerance)


def search_peaks(setting: Setting) -> Ways:
    """Heatmaps to peaks."""
    task, _ = inputs.system(setting, "published")
    # Sub-voxel centres leave no two equal values, for which PyTorch's function finds no peak.
    render = functools.partial(heatmaps.render, shape=setting.volume.shape, sigma=SIGMA, subvoxel=True)
    volume = jax.jit(render)(*task.vha.targets(inputs.frame(setting)))
    volume = jnp.maximum(volume, _NOISE * jax.random.uniform(jax.random.key(0), volume.shape, jnp.float32))

    def torch(reference, _):
        runner = reference.Runner()
        run = runner.infer(lambda x: reference.find_peaks(x, THRESHOLD), runner.place(volume))
        return run, lambda made: _sorted(made.cpu().numpy())

    def in_order(found):
        return _sorted(metrics.peak_rows(*jax.device_get((found.voxels, found.scores))))

    find = functools.partial(peaks.find_peaks, threshold=THRESHOLD)
    return [of_jax("ours", find, volume, result=in_order, tolerance=0.0), of_torch(setting, torch, tolerance=0.0)]


# ---- Pictures


def _torch_predictor(reference: Any, runner: Any, setting: Setting, params: Any) -> tuple[Any, Any]:
    """The published Code Predictor, and pictures padded with grey as ours pads them."""
    module = reference.CodePredictor(LEVEL, setting.volume.depth_bins // 2**LEVEL)
    module = runner.prepare(reference.load(module, pretrained.join_variables(params)))
    image = inputs.picture(setting).astype(np.float32)
    spare = [(0, max(code_predictor.least_size(n) - n, 0)) for n in image.shape[:2]]
    image = np.pad(image, (*spare, (0, 0)), constant_values=127.5)
    return module, runner.place([image] * setting.batch).permute(0, 3, 1, 2)


def predict_code(setting: Setting, kind: str = "published") -> Ways:
    """Pictures to codes."""
    task, params = inputs.system(setting, kind)
    frames = inputs.batch(setting, pictures=True)

    def ours(params, image, camera):
        return task.look(params, image, camera)[0]

    def plain(params, image, camera):
        return task.network.apply(pretrained.join_variables(params), image, camera).astype(jnp.float32)

    args = {name: x for name, x in params.items() if name != "vha"}, frames.image, frames.camera
    rows, columns, _ = jax.eval_shape(plain, *args).shape[1:]

    def torch(reference, runner):
        run = runner.infer(*_torch_predictor(reference, runner, setting, params))
        return run, lambda made: np.moveaxis(_numpy(made), 1, -1)[:, :rows, :columns]

    return _beside(setting, ours, plain, torch, *args, tolerance=setting.tolerance, frames=setting.batch)


def picture_to_people(setting: Setting) -> Ways:
    """A picture to people; PyTorch ends with the peaks. Peaks and predicted codes are compared.

    The Code Predictors have random weights. So the frame's true code is decoded, and the predicted code is added to it
    as noise with a fifth of the true code's standard deviation.
    """
    frame, image, volume = inputs.frame(setting), inputs.picture(setting), setting.volume
    camera = frame.camera
    tolerance = setting.tolerance if setting.dtype == "float32" else None

    def noisy(true, code):
        return true + 0.2 * true.std() * (code - code.mean()) / code.std()

    def true_code(task, params):
        return jax.jit(task.vha.encode)(params["vha"], frame).astype(jnp.float32)

    def ours(name, kind, **options):
        task, params = inputs.system(setting, kind)

        def find(params, image, true):
            code = task.look_at(params, image, camera)[0]
            seen = noisy(true, code)
            points = task.points_of_code(params, nn.relu(seen) if kind == "published" else seen, camera, False)
            return points, code, people.find_people(points)

        def result(made):
            return as_peaks(volume, camera, made[0]), jax.device_get(made[1])

        return of_jax(name, find, params, image, true_code(task, params), result=result, **options)

    def torch(reference, runner):
        task, params = inputs.system(setting, "published")
        module, pictures = _torch_predictor(reference, runner, dataclasses.replace(setting, batch=1), params)
        decode = _torch_decoder(reference, runner, setting, params)
        true = runner.place(true_code(task, params)).movedim(-1, 0)

        def find(pictures):
            code = module(pictures)[0, :, : true.shape[1], : true.shape[2]]
            return decode(reference.torch.relu(noisy(true, code))), code

        def result(made):
            return _sorted(made[0].cpu().numpy()), np.moveaxis(_numpy(made[1]), 0, -1)

        return runner.infer(find, pictures), result

    return [
        ours("ours", "published", tolerance=tolerance),
        ours("ours, compact and PatchVHA", "compact"),
        of_torch(setting, torch, tolerance=tolerance),
    ]


# ---- Training


def train(setting: Setting, task: str, options: dict[str, str], fields: dict[str, Any] | None = None) -> Ways:
    """A training step of a config, see `inputs.config_of`; also with each of `fields`, which are off by default."""
    ways = [_training_step("ours", setting, config_of(setting, task, **options))]
    for field, value in (fields or {}).items():
        config = config_of(setting, task, **options)
        config.update_from_flattened_dict({field: value})
        ways.append(_training_step(f"ours, {field.rpartition('.')[2]}={value}", setting, config))
    return ways


def _training_step(name: str, setting: Setting, config: ConfigDict) -> Implementation:
    """A step as `train` runs it, on the same batch every time."""
    mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
    sharded, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
    frames = jax.device_put(inputs.batch(setting, config.data.pictures), sharded)
    task, optimizer = experiment.create_task(config), training.make_optimizer(config)
    step = functools.partial(training.step_of(config, task, optimizer), stage=task.stages - 1)

    def start():
        return training.init_state(task, optimizer, config, pretrained=False)

    @functools.cache
    def program():
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(start)
        )
        return training.compile_step(step, mesh, like, frames)

    state: list[Any] = []  # every step replaces it

    def run():
        if not state:
            state.append(jax.device_put(start(), replicated))
        state[0], scalars = program()(state[0], frames)
        return jax.block_until_ready(scalars["loss"])

    return Implementation(name, run, frames=config.data.batch_size, program=program)


def render_pictures(setting: Setting) -> Ways:
    """Some batches of the crowd's pictures, made one by one and all at once."""

    def way(name, render_batch):
        config = config_of(setting, "loco", **_COMPACT)
        config.data.render_batch = render_batch
        mesh = distributed.make_mesh(config.data.batch_size, 1)
        stream = datasets.of(config).training_stream(NamedSharding(mesh, PartitionSpec("batch")))

        def run():
            return jax.block_until_ready([next(stream) for _ in range(_RENDER_BATCH)])

        return Implementation(name, run, frames=_RENDER_BATCH * config.data.batch_size)

    return [way("ours", 1), way(f"ours, render_batch={_RENDER_BATCH}", _RENDER_BATCH)]


# ---- Other runtimes


def runtimes(setting: Setting) -> Ways:
    """A trained LoCO, the released one by default, from pictures of the crowd to people, in JAX and elsewhere.

    The names tell the sizes of the files.
    """
    whole, half = (graph.load(setting.weights or weights.RELEASED, half) for half in (False, True))
    config = weights.config_of(setting.weights or weights.RELEASED)
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    batches = datasets.of(config).evaluation_batches("test", 1, setting.batch, sharding)
    shown = [jax.device_get((frames.image, jnp.stack(frames.camera, axis=-1))) for frames, _ in batches]
    inputs = tuple(np.concatenate(x) for x in zip(*shown))

    def ours(params, picture, camera):
        found = jax.vmap(whole.task.named_people, in_axes=(None, 0, 0))(params, picture, Camera(*camera.T))
        return found.joints, found.scores

    def in_stablehlo():
        content = files.to_stablehlo(whole, setting.batch)
        call = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return call, len(content)

    def in_onnx(stored):
        content = files.to_onnx(stored, setting.batch).SerializeToString()
        session = files.need("onnxruntime").InferenceSession(content)
        return lambda *x: tuple(session.run(None, dict(zip(graph.INPUTS, x)))), len(content)

    def row(name, make, tolerance):
        try:
            call, size = make()
        except ModuleNotFoundError as error:
            return Implementation(name, missing=str(error))
        run = functools.partial(lambda call: jax.block_until_ready(call(*inputs)), call)
        return Implementation(f"{name}, {size / 1e6:.1f} MB", run, tolerance=tolerance, frames=setting.batch)

    return [
        of_jax("JAX", ours, whole.params, *inputs, tolerance=1e-4, frames=setting.batch),
        row("StableHLO", in_stablehlo, 1e-4),
        row("ONNX Runtime", functools.partial(in_onnx, whole), 1e-4),
        row("ONNX Runtime, --half", functools.partial(in_onnx, half), None),
    ]


# ---- By name

_PUBLISHED, _COMPACT = {"variant": "published"}, {"variant": "patch", "trunk": "compact"}
_TRAINING: dict[str, Callable[[Setting], Ways]] = {
    "train_vha_patch": functools.partial(train, task="vha", options={"variant": "patch"}),
    "train_code_predictor_compact": functools.partial(train, task="loco", options=_COMPACT),
    "train_code_predictor": functools.partial(train, task="loco", options=_PUBLISHED),
}
CASES: dict[str, Callable[[Setting], Ways]] = {
    "encode": encode,
    "decode_peaks": decode_peaks,
    "peaks": search_peaks,
    "predict_code": predict_code,
    "picture_to_people": picture_to_people,
    **_TRAINING,
}
# With --runtimes: a trained LoCO in runtimes for which loco_jax.export writes it.
RUNTIMES: dict[str, Callable[[Setting], Ways]] = {"runtimes": runtimes}
# With --kernels: what `loco_jax.ops` chooses, beside the plain network of `loco_jax.models`.
KERNELS: dict[str, Callable[[Setting], Ways]] = {
    "encode": encode,
    "encode_patch": functools.partial(encode, kind="compact"),
    "decode_peaks": decode_peaks,
    "decode_peaks_patch": functools.partial(decode_peaks, kind="compact"),
    "predict_code": predict_code,
    "predict_code_compact": functools.partial(predict_code, kind="compact"),
}
# With --steps: training, with the options of docs/performance.md off and on.
STEPS: dict[str, Callable[[Setting], Ways]] = {
    **_TRAINING,
    "train_vha": functools.partial(train, task="vha", options=_PUBLISHED),
    "train_code_predictor_compact": functools.partial(
        train, task="loco", options=_COMPACT, fields={"optimizer.orthogonalise_dtype": "bfloat16"}
    ),
    "render_pictures": render_pictures,
}
SLOW = ("train_code_predictor",)  # minutes and many GB on a CPU: only if they are named
