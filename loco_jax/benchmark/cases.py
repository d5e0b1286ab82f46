"""The hot functions beside other implementations, and beside the plain networks. Ours is first in each list."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from loco_jax.benchmark import inputs, steps
from loco_jax.benchmark.floors import num_bytes, operations
from loco_jax.benchmark.inputs import LEVEL, SIGMA, Setting, config_of
from loco_jax.benchmark.measure import Case, Implementation, of_jax
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import code_predictor
from loco_jax.pose import heatmaps, metrics, peaks, people
from loco_jax.pose.people import Points

THRESHOLD = 0.1
_NOISE = 0.05  # of the heatmaps in which peaks are searched, as a decoder leaves some


def of_torch(setting: Setting, make: Callable[[Any, Any], Implementation], name: str = "PyTorch") -> Implementation:
    """`make(torch_reference, runner)`, or an implementation that says that there is no PyTorch."""
    try:
        reference = importlib.import_module("loco_jax.benchmark.torch_reference")
    except ImportError:
        return Implementation(name, missing="PyTorch is not installed: pip install 'torch>=2.10'")
    return dataclasses.replace(make(reference, reference.Runner(setting.dtype == "bfloat16")), name=name)


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.float().cpu().numpy()


# ---- Heatmaps, codes and peaks


def encode(setting: Setting, kind: str = "published") -> Case:
    """Joints to the VHA's code; PyTorch begins with finished heatmaps."""
    task, params = inputs.system(setting, kind)
    vha, frame = task.vha, inputs.frame(setting)

    def render(frame):
        options = {"subvoxel": vha.subvoxel, "dtype": vha.network.dtype}
        return heatmaps.render(*vha.targets(frame), vha.volume.shape, SIGMA, **options)[None]

    def plain(params, frame):
        return vha.network.apply(params, render(frame), method="encode")[0]

    def torch(reference, runner):
        module = reference.load_vha(reference.Vha(LEVEL, vha.volume.depth_bins), params["vha"])
        volume = jax.jit(render)(frame)
        spare = [(0, -n % 2**LEVEL) for n in volume.shape[2:4]]  # as ours pads
        padded = runner.place(np.pad(volume, [(0, 0), (0, 0), *spare, (0, 0)]))
        run = runner.infer(runner.prepare(module).encode, padded.movedim(-1, 2))
        return Implementation("", run, lambda made: np.moveaxis(_numpy(made)[0, 0], 0, -1))

    args = params["vha"], frame
    other = of_jax("plain", plain, *args) if setting.plain else of_torch(setting, torch)
    least = num_bytes(params["vha"], jax.eval_shape(plain, *args)) + _volume_bytes(setting)
    return Case([of_jax("ours", vha.encode, *args), other], least, operations(plain, *args), setting.tolerance)


def as_peaks(volume: Volume, camera: Camera, points: Points) -> Float[np.ndarray, "N 4"]:
    """Points as rows (joint type, row, column, bin) of their voxels, sorted."""
    voxels = np.round(volume.to_voxels(camera, points.xyz))
    return _sorted(metrics.peak_rows(voxels, np.asarray(points.scores)))


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])].astype(np.float32)


def _volume_bytes(setting: Setting) -> float:
    """Of heatmaps in float32."""
    return 4.0 * skeleton.NUM_JOINTS * float(np.prod(setting.volume.shape))


def _torch_decoder(reference: Any, runner: Any, setting: Setting, params: Any) -> Callable[[Any], Any]:
    """A function from a code `[d, h, w]` to the peaks of its heatmaps `[N, 4]`."""
    module = runner.prepare(reference.load_vha(reference.Vha(LEVEL, setting.volume.depth_bins), params["vha"]))
    rows, columns, _ = setting.volume.shape

    def find(code):
        volumes = module.decode(code[None, None])[0, :, :, :rows, :columns]
        return reference.peaks_of_few(volumes.movedim(1, -1), THRESHOLD)

    return find


def decode_peaks(setting: Setting, kind: str = "published") -> Case:
    """The VHA's code of a frame to the peaks of its heatmaps."""
    task, params = inputs.system(setting, kind)
    frame, volume = inputs.frame(setting), setting.volume
    code = jax.jit(task.vha.encode)(params["vha"], frame)

    def decode(params, code):
        return task.vha.network.apply(params, code[None], volume.shape[:2], method="decode")[0]

    def ours(params, code):
        return task.points_of_code({"vha": params}, code, frame.camera, False)

    def plain(params, code):
        found = peaks.find_peaks(decode(params, code), max_peaks=task.vha.max_peaks)
        return people.in_metres(found, frame.camera, volume)

    def torch(reference, runner):
        run = runner.infer(_torch_decoder(reference, runner, setting, params), runner.place(code).movedim(-1, 0))
        return Implementation("", run, lambda made: _sorted(made.cpu().numpy()), **exact)

    exact = {"comparable": setting.dtype == "float32"}  # in bfloat16 no two ways find quite the same
    args, options = (params["vha"], code), {"result": functools.partial(as_peaks, volume, frame.camera), **exact}
    other = of_jax("plain", plain, *args, **options) if setting.plain else of_torch(setting, torch)
    least = num_bytes(args) + _volume_bytes(setting)
    return Case([of_jax("ours", ours, *args, **options), other], least, operations(decode, *args), tolerance=0)


def search_peaks(setting: Setting) -> Case:
    """Heatmaps to peaks."""
    task, _ = inputs.system(setting, "published")
    # Between whole voxels no two values are equal, which others take for two peaks or none.
    render = functools.partial(heatmaps.render, shape=setting.volume.shape, sigma=SIGMA, subvoxel=True)
    volume = jax.jit(render)(*task.vha.targets(inputs.frame(setting)))
    volume = jnp.maximum(volume, _NOISE * jax.random.uniform(jax.random.key(0), volume.shape, jnp.float32))

    def torch(way, reference, runner):
        run = runner.infer(lambda x: getattr(reference, way)(x, THRESHOLD), reference.Runner().place(volume))
        return Implementation("", run, lambda made: _sorted(made.cpu().numpy()))

    def in_order(found):
        return _sorted(metrics.peak_rows(*jax.device_get((found.voxels, found.scores))))

    ways = [
        of_jax("ours", functools.partial(peaks.find_peaks, threshold=THRESHOLD), volume, result=in_order),
        of_torch(setting, functools.partial(torch, "peaks_by_pooling"), "PyTorch, max_pool3d"),
        of_torch(setting, functools.partial(torch, "peaks_of_few"), "PyTorch, few compared"),
    ]
    return Case(ways, num_bytes(volume), 0, tolerance=0)


def sum_entropy(setting: Setting, kind: str = "compact") -> Case:
    """The loss of a PatchVHA's code, and its gradients."""
    task, params = inputs.system(setting, kind)
    network, frame = task.vha.network, inputs.frame(setting)
    joints = [x[None] for x in jax.jit(task.vha.targets)(frame)]

    def plain(params, code, voxels, present):
        render = functools.partial(heatmaps.render_cells, shape=setting.volume.shape, cell=2**LEVEL, sigma=SIGMA)
        target = render(voxels[0], present[0], subvoxel=task.vha.subvoxel)[None]
        logits = network.apply(params, code, method="decode_cells").astype(jnp.float32)
        return jnp.sum(nn.softplus(logits) - target * logits) / jnp.sum(present, dtype=jnp.float32)

    args = params["vha"], jax.jit(task.vha.encode)(params["vha"], frame)[None], *joints
    ours, plain = (jax.value_and_grad(way, argnums=(0, 1)) for way in (task.vha.entropy, plain))
    least = num_bytes(args, args[:2]), operations(plain, *args)
    return Case([of_jax("ours", ours, *args), of_jax("plain", plain, *args)], *least, tolerance=1e-3)


# ---- Pictures


def _variables(params: Any) -> dict[str, Any]:
    """Of the Code Predictor, as its network wants them."""
    return {**params["predictor"], **{name: params[name] for name in ("batch_stats",) if name in params}}


def _torch_predictor(reference: Any, runner: Any, setting: Setting, params: Any) -> tuple[Any, Any]:
    """The published Code Predictor, and pictures padded with grey as ours pads them."""
    module = reference.CodePredictor(LEVEL, setting.volume.depth_bins // 2**LEVEL)
    module = runner.prepare(reference.load_code_predictor(module, _variables(params)))
    image = inputs.picture(setting).astype(np.float32)
    spare = [(0, max(code_predictor.least_size(n) - n, 0)) for n in image.shape[:2]]
    image = np.pad(image, (*spare, (0, 0)), constant_values=127.5)
    return module, runner.place([image] * setting.batch).permute(0, 3, 1, 2)


def predict_code(setting: Setting, kind: str = "published") -> Case:
    """Pictures to codes."""
    task, params = inputs.system(setting, kind)
    frames = inputs.batch(setting, pictures=True)

    def ours(params, image, camera):
        return task.look(params, image, camera)[0]

    def plain(params, image, camera):
        return task.network.apply(_variables(params), image, camera).astype(jnp.float32)

    args = {name: x for name, x in params.items() if name != "vha"}, frames.image, frames.camera
    code = jax.eval_shape(plain, *args)

    def torch(reference, runner):
        run = runner.infer(*_torch_predictor(reference, runner, setting, params))
        return Implementation("", run, lambda x: np.moveaxis(_numpy(x), 1, -1)[:, : code.shape[1], : code.shape[2]])

    other = of_jax("plain", plain, *args) if setting.plain else of_torch(setting, torch)
    least = num_bytes(args, code), operations(plain, *args)
    return Case([of_jax("ours", ours, *args), other], *least, setting.tolerance, setting.batch)


def picture_to_people(setting: Setting) -> Case:
    """A picture to people, the whole way; PyTorch ends with the peaks.

    The Code Predictors' weights are random. What is decoded is the frame's true code, with the predicted one as noise
    on it, of a fifth of its deviation. Peaks and predicted codes are compared.
    """
    frame, image, volume = inputs.frame(setting), inputs.picture(setting), setting.volume
    camera = frame.camera

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

        args = params, image, true_code(task, params)
        return of_jax(name, find, *args, result=result, **options)

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

        return Implementation("", runner.infer(find, pictures), result, comparable=setting.dtype == "float32")

    ways = [
        ours("ours", "published"),
        ours("ours, compact and PatchVHA", "compact", comparable=False),
        of_torch(setting, torch),
    ]
    return Case(ways, 0, 0, setting.tolerance)


# ---- By name


def _training(task: str, setting: Setting, **options: str) -> Case:
    """A training step."""
    return steps.training_step("ours", setting, config_of(setting, task, **options))


CASES: dict[str, Callable[[Setting], Case]] = {
    "encode": encode,
    "decode_peaks": decode_peaks,
    "peaks": search_peaks,
    "predict_code": predict_code,
    "picture_to_people": picture_to_people,
    "train_vha_patch": functools.partial(_training, "vha", variant="patch"),
    "train_code_predictor_compact": functools.partial(_training, "loco", variant="patch", trunk="compact"),
    "train_code_predictor": functools.partial(_training, "loco", variant="published"),
}
# The task's way, which `loco_jax.ops` may make fast, beside the plain network of `loco_jax.models`.
KERNELS: dict[str, Callable[[Setting], Case]] = {
    "encode": encode,
    "encode_patch": functools.partial(encode, kind="compact"),
    "decode_peaks": decode_peaks,
    "decode_peaks_patch": functools.partial(decode_peaks, kind="compact"),
    "sum_entropy_patch": sum_entropy,
    "predict_code": predict_code,
    "predict_code_compact": functools.partial(predict_code, kind="compact"),
}
SLOW = ("train_code_predictor",)  # minutes and many GB on a CPU: only if they are named
