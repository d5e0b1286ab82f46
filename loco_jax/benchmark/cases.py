"""The hot functions and their implementations. A new way to do one is an entry more in the list of its case.

Ours comes first in each list; dense ones in plain JAX and those of other libraries follow.
"""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from loco_jax.benchmark.floors import num_bytes, operations
from loco_jax.benchmark.measure import Case, Implementation
from loco_jax.configs import loco as loco_config
from loco_jax.configs import vha as vha_config
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import code_predictor, compact, vha
from loco_jax.ops.cpu import fast_encode, fast_vha
from loco_jax.pose import association, heatmaps, metrics, people
from loco_jax.pose.peaks import Peaks, find_peaks

LEVEL, SIGMA, THRESHOLD, NEAR = 2, 2.0, 0.1, 0.4
MOST_PEOPLE = 60
_NOISE = 0.05  # of the heatmaps in which peaks are sought, as a decoder leaves some
_TRAINED = str(pathlib.Path(__file__).parent / "vha2_demo.safetensors")  # by train_published.py


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the functions are run on.

    Attributes:
      scale: "full" or "demo".
      people: in the frame.
      batch: pictures at once, for the networks that look at pictures and for training steps.
      grid: rows, columns and bins of the volume as parts of the scale's.
      dtype: of the networks' arithmetic.
      weights: of a published VHA(2), a run's folder or a file; "" for those made for this.
    """

    scale: str = "full"
    people: int = 20
    batch: int = 1
    grid: float = 1.0
    dtype: jnp.dtype = jnp.float32
    weights: str = ""

    @property
    def crowd(self) -> crowds.Crowd:
        return crowds.FULL if self.scale == "full" else crowds.DEMO

    @property
    def volume(self) -> Volume:
        whole = self.crowd.volume
        size = tuple(max(round(n * self.grid), 75) for n in whole.image_size)
        return dataclasses.replace(whole, image_size=size, depth_bins=max(round(whole.depth_bins * self.grid), 8))

    @property
    def tolerance(self) -> float:
        """Of a network's results, as a part of their greatest."""
        return 1e-4 if self.dtype == jnp.float32 else 0.05


CASES: dict[str, Callable[[Setting], Case]] = {}


def case(function: Callable[[Setting], Case]) -> Callable[[Setting], Case]:
    """Registers a case by its function's name."""
    CASES[function.__name__] = function
    return function


# ---- Data


@functools.lru_cache
def _scene(scale: str) -> Frames:
    """A frame of the crowd with 60 people, without batch axis."""
    crowd = Setting(scale).crowd
    most = {"max_people": MOST_PEOPLE, "min_people": MOST_PEOPLE, "mean_people": float(MOST_PEOPLE)}
    crowd = dataclasses.replace(crowd, most_people=MOST_PEOPLE, **most)
    scene = jax.device_get(jax.jit(crowds.sample_scene, static_argnums=1)(crowds.scene_key("test", 0), crowd))
    joints = scene.joints[:, skeleton.FROM_JTA]
    present = np.broadcast_to(scene.present[:, None], joints.shape[:2])
    return Frames(joints, present, jax.tree.map(np.float32, crowd.camera))


@functools.lru_cache
def _frame(setting: Setting) -> tuple[Frames, np.ndarray, np.ndarray]:
    """The frame with as many people as asked for, those in view first; voxels `[P, J, 3]`; which are targets `[P, J]`.

    On a smaller grid the camera has fewer pixels, and the same is in view.
    """
    frame, volume, whole = _scene(setting.scale), setting.volume, setting.crowd.volume
    camera = jax.tree.map(lambda f: np.float32(f * volume.image_size[1] / whole.image_size[1]), frame.camera)
    targets = np.asarray(frame.present & np.asarray(volume.in_view(camera, frame.joints)))
    first = np.argsort(-targets.sum(axis=1), kind="stable")[: setting.people]
    frame = Frames(frame.joints[first], frame.present[first], camera)
    return frame, np.asarray(volume.to_voxels(camera, frame.joints)), targets[first]


def _heatmaps(setting: Setting, **options: Any) -> jax.Array:
    _, voxels, present = _frame(setting)
    options = {"dtype": setting.dtype, **options}
    return jax.jit(lambda v, p: heatmaps.render(v, p, setting.volume.shape, SIGMA, **options))(voxels, present)


def _picture(setting: Setting) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (setting.batch, *setting.volume.image_size, 3), np.uint8)


@functools.lru_cache
def _variables(network: nn.Module, *shape_and_type: Any, camera: Camera | None = None) -> Any:
    """Variables with which activations keep their scale, drawn without compiling an initialiser."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.standard_normal(x.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(x.shape[:-1])))
        at = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (at + 0.1 * rng.uniform(-1, 1, x.shape)).astype(np.float32)

    example = jax.ShapeDtypeStruct(*shape_and_type)
    more = () if camera is None else (camera,)
    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0), example, *more))


@functools.lru_cache
def _vha(setting: Setting, kind: type[nn.Module]) -> tuple[nn.Module, Any]:
    """A network and its variables: the released ones of a PatchVHA; of the published one those given, or the demo's."""
    from loco_jax.weights import files as weights  # here, since checkpoints take seconds to import

    def read(source, bins):
        like = jax.ShapeDtypeStruct((1, skeleton.NUM_JOINTS, 8, 8, bins), jnp.float32)
        return weights.read("vha", source, jax.eval_shape(kind(LEVEL, bins).init, jax.random.key(0), like))

    bins = setting.volume.depth_bins
    network = kind(LEVEL, bins, dtype=setting.dtype)
    if kind is vha.PatchVHA:
        return network, read("released", bins)
    if setting.weights:
        return network, read(setting.weights, bins)
    return network, along_depth(read(_TRAINED, crowds.DEMO.volume.depth_bins), bins)


def along_depth(variables: Any, bins: int) -> Any:
    """A published VHA's variables for another number of bins: its 2D layers side by side along the depth.

    They go where their bins are, as often as there is room, the last ones in part; each sees its own bins only. The
    arithmetic is that of any network of so many bins.
    """
    parts = variables["params"]
    least = parts["encoder_2d_0"]["kernel"].shape[2]

    def widen(layer):
        kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        fan_in, fan_out = (bins // (least // n) for n in kernel.shape[2:])
        times = -(-bins // least)
        wide = np.einsum("mn,klio->klmino", np.eye(times, dtype=np.float32), kernel)
        wide = wide.reshape(*kernel.shape[:2], times * kernel.shape[2], times * kernel.shape[3])
        return {"kernel": wide[:, :, :fan_in, :fan_out], "bias": np.tile(bias, times)[:fan_out]}

    return {"params": {name: widen(p) if "_2d_" in name else p for name, p in parts.items()}}


# ---- Ways to run things


def of_jax(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Implementation:
    """`jax.jit(function)(*args)`, its arguments on the device beforehand."""
    jitted, args = jax.jit(function), jax.device_put(args)

    def device_bytes():
        memory = jitted.lower(*args).compile().memory_analysis()
        return int(memory.temp_size_in_bytes + memory.output_size_in_bytes)

    on_host = jax.default_backend() == "cpu"
    return Implementation(
        name, lambda: jax.block_until_ready(jitted(*args)), device_bytes=None if on_host else device_bytes, **options
    )


def of_host(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Implementation:
    """A plain call of what runs in NumPy and SciPy."""
    return Implementation(name, lambda: function(*args), compiles=False, **options)


def of_torch(name: str, setting: Setting, make: Callable[[Any, Any], Implementation]) -> Implementation:
    """`make(torch_reference, runner)`, or a row that says that there is no PyTorch."""
    try:
        reference = importlib.import_module("loco_jax.benchmark.torch_reference")
    except ImportError:
        return Implementation(name, missing="PyTorch is not installed: pip install 'torch>=2.10'")
    runner = reference.Runner(setting.dtype == jnp.bfloat16)
    compiles = runner.device.type == "cuda"
    try:
        return dataclasses.replace(make(reference, runner), name=name, compiles=compiles)
    except RuntimeError as error:  # no memory on the device, say
        return Implementation(name, missing=f"failed: {str(error).splitlines()[0][:80]}")


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.float().cpu().numpy()


# ---- Heatmaps and codes


@case
def render(setting: Setting) -> Case:
    """Heatmaps of joints."""
    _, voxels, present = _frame(setting)
    shape = setting.volume.shape

    def dense(voxels, present):
        half = heatmaps.cube_side(SIGMA) // 2

        def one(carry, person):
            centre, there = person
            gaussians = []
            for axis, size in enumerate(shape):
                away = jnp.arange(size, dtype=jnp.int32) - jnp.round(centre[:, axis, None])
                gaussians.append(jnp.where(jnp.abs(away) <= half, jnp.exp(-jnp.square(away / SIGMA)), 0))
            rows, columns, bins = gaussians
            whole = rows[:, :, None, None] * columns[:, None, :, None] * bins[:, None, None, :]
            return jnp.maximum(carry, jnp.where(there[:, None, None, None], whole, 0)), None

        return lax.scan(one, jnp.zeros((voxels.shape[1], *shape), jnp.float32), (voxels, present))[0]

    def torch(reference, runner):
        args = runner.place(voxels, reference.torch.float32), runner.place(present, reference.torch.bool)
        run = runner.infer(lambda v, p: reference.render(v, p, shape, SIGMA), *args)
        return Implementation("", run, lambda made: np.moveaxis(_numpy(made), 1, -1))

    ours = functools.partial(heatmaps.render, shape=shape, sigma=SIGMA)
    return Case(
        "render",
        [
            of_jax("ours", ours, voxels, present),
            of_jax("dense JAX", dense, voxels, present),
            of_torch("PyTorch", setting, torch),
        ],
        bytes=num_bytes(jax.eval_shape(ours, voxels, present)),
        operations=0,
        tolerance=1e-5,
    )


@case
def encode(setting: Setting) -> Case:
    """The published VHA's code of heatmaps; ours makes it of the joints, so it needs none."""
    return _encode(setting, vha.VHA)


@case
def encode_patch(setting: Setting) -> Case:
    """PatchVHA's code of heatmaps; ours makes it of the joints, so it needs none."""
    return _encode(setting, vha.PatchVHA)


def _encode(setting: Setting, kind: type[nn.Module]) -> Case:
    network, variables = _vha(setting, kind)
    volume = _heatmaps(setting)[None]

    def dense(variables, volume):
        return network.apply(variables, volume, method="encode")

    def torch(reference, runner):
        module = reference.load_vha(reference.Vha(LEVEL, setting.volume.depth_bins), variables)
        spare = [(0, -n % 2**LEVEL) for n in volume.shape[2:4]]  # as ours pads
        padded = runner.place(np.pad(volume, [(0, 0), (0, 0), *spare, (0, 0)]))
        run = runner.infer(runner.prepare(module).encode, padded.movedim(-1, 2))
        return Implementation("", run, lambda made: np.moveaxis(_numpy(made)[:, 0], 1, -1))

    def from_joints(variables, voxels, present):
        options = {"shape": setting.volume.shape, "sigma": SIGMA}
        return fast_encode.encode_joints(network, variables, voxels[None], present[None], **options)

    joints = _frame(setting)[1:]
    ways = [of_jax("ours, from joints", from_joints, variables, *joints)]
    ways.append(of_jax("dense JAX", dense, variables, volume))
    if kind is vha.VHA:
        ways.append(of_torch("PyTorch", setting, torch))
    code = jax.eval_shape(dense, variables, volume)
    return Case(
        "encode" if kind is vha.VHA else "encode_patch",
        ways,
        num_bytes(volume, variables, code),
        operations(dense, variables, volume),
        setting.tolerance,
    )


@case
def decode_peaks(setting: Setting) -> Case:
    """The peaks in the published VHA's heatmaps of a frame's true code."""
    return _decode_peaks(setting, vha.VHA)


@case
def decode_peaks_patch(setting: Setting) -> Case:
    """The peaks in PatchVHA's heatmaps of a frame's true code, with the released weights."""
    return _decode_peaks(setting, vha.PatchVHA)


def _code(setting: Setting, network: nn.Module, variables: Any) -> jax.Array:
    return jax.jit(lambda v, x: network.apply(v, x, method="encode"))(variables, _heatmaps(setting)[None])


def _decode_peaks(setting: Setting, kind: type[nn.Module]) -> Case:
    network, variables = _vha(setting, kind)
    code, size = _code(setting, network, variables)[0], setting.volume.shape[:2]

    def dense(variables, code):
        return find_peaks(network.apply(variables, code[None], size, method="decode")[0])

    def fast(variables, code, network=network):
        return fast_vha.decode_peaks(network, variables, code, size)

    exact = setting.dtype == jnp.float32

    @functools.cache
    def right():
        find = functools.partial(fast, network=network.clone(dtype=jnp.float32))
        return _found_in_order(jax.jit(find)(variables, code.astype(jnp.float32)))

    def compared(found_Nx4):
        """The peaks; of other types than float32, in which no two ways find quite the same, how right they are."""
        return found_Nx4 if exact else _shared(found_Nx4, right())

    def torch(reference, runner, fast=True):
        module = runner.prepare(reference.load_vha(reference.Vha(LEVEL, setting.volume.depth_bins), variables), fast)
        peaks_of = reference.peaks_of_few if fast else reference.peaks_by_comparing

        def find(code):
            volumes = module.decode(code)[0, :, :, : size[0], : size[1]]
            return peaks_of(volumes.movedim(1, -1), THRESHOLD) if fast else peaks_of(volumes, THRESHOLD)

        run = runner.infer(find, runner.place(code).movedim(-1, 0)[None, None])
        order = [0, 1, 2, 3] if fast else [0, 2, 3, 1]
        return Implementation("", run, lambda made: compared(_peaks_in_order(made.cpu().numpy()[:, order])))

    def result(made):
        return compared(_found_in_order(made))

    ways = [of_jax("ours", fast, variables, code, result=result)]
    ways.append(of_jax("dense JAX, then our peaks", dense, variables, code, result=result))
    if kind is vha.VHA:
        ways.append(of_torch("PyTorch", setting, torch))
        ways.append(of_torch("PyTorch, plainly", setting, functools.partial(torch, fast=False)))
    return Case(
        "decode_peaks" if kind is vha.VHA else "decode_peaks_patch",
        ways,
        num_bytes(variables, code, jax.eval_shape(dense, variables, code)),
        operations(dense, variables, code),
        tolerance=0 if exact else setting.tolerance,
    )


# ---- Peaks, people, scores


def _shared(found_Nx4: np.ndarray, right_Mx4: np.ndarray) -> np.float32:
    """The part of two sets of peaks that both have, a voxel apart at most, be it across a corner: the F1 score."""
    return np.float32(metrics.joint_scores(found_Nx4, right_Mx4, 1.01 * 3**0.5).f1)


def _peaks_in_order(found_Nx4: np.ndarray) -> np.ndarray:
    """Peaks (joint type, row, column, bin), sorted."""
    return found_Nx4[np.lexsort(found_Nx4.T[::-1])].astype(np.float32)


def _found_in_order(found: Peaks) -> np.ndarray:
    return _peaks_in_order(metrics.peak_rows(*jax.device_get((found.voxels, found.scores))))


@case
def peaks(setting: Setting) -> Case:
    """Local maxima of heatmaps."""
    shape = skeleton.NUM_JOINTS, *setting.volume.shape
    noise = _NOISE * jax.random.uniform(jax.random.key(0), shape, jnp.float32)
    # Between whole voxels there are no two of the same height, about which the others do not agree with ours.
    volume = jnp.maximum(_heatmaps(setting, dtype=jnp.float32, subvoxel=True), noise)
    del noise
    host = np.asarray(volume)

    def dense(volume):
        highest = lax.reduce_window(volume, -jnp.inf, lax.max, (1, 3, 3, 3), (1, 1, 1, 1), "SAME")
        is_peak = (volume >= highest) & (volume > THRESHOLD)
        return jnp.argwhere(is_peak, size=128 * len(volume), fill_value=-1)

    def by_scipy(volume):
        found = [np.argwhere((x == ndimage.maximum_filter(x, 3, mode="constant")) & (x > THRESHOLD)) for x in volume]
        return np.concatenate([np.insert(f, 0, joint, axis=1) for joint, f in enumerate(found)])

    def by_skimage():
        try:
            feature = importlib.import_module("skimage.feature")
        except ImportError:
            return Implementation("scikit-image", missing="not installed: pip install scikit-image")

        def find(volume):
            options = {"min_distance": 1, "threshold_abs": THRESHOLD, "exclude_border": False}
            found = [feature.peak_local_max(x, **options) for x in volume]
            return np.concatenate([np.insert(f, 0, joint, axis=1) for joint, f in enumerate(found)])

        return of_host("scikit-image", find, host, result=_peaks_in_order)

    def torch(way):
        def make(reference, runner):
            heatmaps = runner.place(host, reference.torch.float32)
            run = runner.infer(lambda x: getattr(reference, way)(x, THRESHOLD), heatmaps)
            return Implementation("", run, lambda made: _peaks_in_order(made.cpu().numpy()))

        return make

    def dense_in_order(found):
        found = np.asarray(found)
        return _peaks_in_order(found[found[:, 0] >= 0])

    return Case(
        "peaks",
        [
            of_jax("ours", functools.partial(find_peaks, threshold=THRESHOLD), volume, result=_found_in_order),
            of_jax("dense JAX", dense, volume, result=dense_in_order),
            of_torch("PyTorch, max_pool3d", setting, torch("peaks_by_pooling")),
            of_torch("PyTorch, 26 comparisons", setting, torch("peaks_by_comparing")),
            of_torch("PyTorch, few compared", setting, torch("peaks_of_few")),
            of_host("SciPy, maximum_filter", by_scipy, host, result=_peaks_in_order),
            by_skimage(),
        ],
        bytes=num_bytes(volume),
        operations=0,
        tolerance=0,
    )


def _points(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Points `[J, K, 3]` in metres and scores `[J, K]` as found of the frame's people, in random order of scores."""
    frame, _, present = _frame(setting)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(frame.joints))
    points = np.zeros((skeleton.NUM_JOINTS, 128, 3), np.float32)
    scores = np.zeros((skeleton.NUM_JOINTS, 128), np.float32)
    for joint in range(skeleton.NUM_JOINTS):
        there = [p for p in order if present[p, joint]]
        points[joint, : len(there)] = frame.joints[there, joint] + rng.normal(0, 0.05, (len(there), 3))
        scores[joint, : len(there)] = np.linspace(1, 0.5, len(there))
    return points, scores


def group_by_loops(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Joints `[N, 14, 3]` of people, 0 for holes: the association as one would first write it."""
    taken, joints = set(), np.zeros((points.shape[1], len(points), 3), np.float32)
    for head in np.flatnonzero(scores[0] > 0):
        joints[head, 0] = points[0, head]
        for joint in range(1, len(points)):
            there = np.flatnonzero(scores[joint] > 0)
            away = np.linalg.norm(points[joint, there] - points[0, head], axis=-1)
            if len(there) and away.min() < association.REACH[joint]:
                nearest = there[away.argmin()]
                if (joint, nearest) not in taken:
                    taken.add((joint, nearest))
                    joints[head, joint] = points[joint, nearest]
    return joints


@case
def associate(setting: Setting) -> Case:
    """Points to people."""
    points, scores = _points(setting)
    return Case(
        "associate",
        [
            of_jax("ours", association.group, points, scores, result=lambda made: np.asarray(made.joints)),
            of_host("NumPy, loops", group_by_loops, points, scores, result=lambda made: made),
        ],
        bytes=num_bytes(points, scores, jax.eval_shape(association.group, points, scores)),
        operations=0,
        tolerance=0,
    )


@case
def score(setting: Setting) -> Case:
    """Precision and recall of a frame's points, at one threshold."""
    frame, _, present = _frame(setting)
    predicted = metrics.peak_rows(*_points(setting))
    true = metrics.people_rows(frame.joints, present)

    def whole_matrix(predicted, true):
        hits = 0
        for joint in range(skeleton.NUM_JOINTS):
            p, t = predicted[predicted[:, 0] == joint, 1:], true[true[:, 0] == joint, 1:]
            distances = cdist(p, t)
            rows, columns = linear_sum_assignment(np.where(distances <= NEAR, distances, 1e6))
            hits += int((distances[rows, columns] <= NEAR).sum())
        return hits

    return Case(
        "score",
        [
            of_host("ours", lambda p, t: metrics.joint_scores(p, t, NEAR), predicted, true, result=lambda s: s.tp),
            of_host("SciPy, whole matrices", whole_matrix, predicted, true, result=lambda hits: hits),
        ],
        bytes=num_bytes(predicted, true),
        operations=0,
        tolerance=0,
    )


# ---- Pictures


def _plainly(next_function, args, kwargs, context):
    """An interceptor: convolutions are called as Flax calls them by default."""
    module = context.module
    if not isinstance(module, nn.Conv) or context.method_name != "__call__" or module.conv_general_dilated is None:
        return next_function(*args, **kwargs)
    x, kernel = args[0].astype(module.dtype), module.variables["params"]["kernel"].astype(module.dtype)
    strides = (module.strides or 1,) * 2 if not isinstance(module.strides, tuple) else module.strides
    options = {"lhs_dilation": (module.input_dilation or 1,) * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    y = lax.conv_general_dilated(x, kernel, strides, module.padding, **options)
    return y + module.variables["params"]["bias"].astype(y.dtype) if module.use_bias else y


def _published_predictor(setting: Setting) -> tuple[nn.Module, Any]:
    network = code_predictor.CodePredictor(LEVEL, setting.volume.depth_bins, dtype=setting.dtype)
    return network, _variables(network, (1, 64, 64, 3), jnp.uint8)


def _compact_predictor(setting: Setting) -> tuple[nn.Module, Any]:
    network = compact.CompactPredictor(
        LEVEL,
        setting.volume.depth_bins,
        stride=setting.volume.stride,
        coarsest=64 if setting.scale == "demo" else 128,
        dtype=setting.dtype,
    )
    return network, _variables(network, (1, 64, 64, 3), jnp.uint8, camera=Camera(1.0, 1.0, 0.0, 0.0))


def _torch_predictor(reference: Any, runner: Any, setting: Setting, variables: Any, fast: bool = True):
    """The published network, and pictures padded with grey as ours pads them; `fast` for channels_last."""
    depth = setting.volume.depth_bins // 2**LEVEL
    module = runner.prepare(reference.load_code_predictor(reference.CodePredictor(LEVEL, depth), variables), fast)
    image = _picture(setting).astype(np.float32)
    spare = [max(code_predictor.least_size(n) - n, 0) for n in image.shape[1:3]]
    image = np.pad(image, ((0, 0), *((0, n) for n in spare), (0, 0)), constant_values=127.5)
    pictures = runner.place(image).permute(0, 3, 1, 2)
    return module, pictures if fast else pictures.contiguous()


@case
def predict_code(setting: Setting) -> Case:
    """The published Code Predictor: pictures to codes."""
    network, variables = _published_predictor(setting)
    image = _picture(setting)

    def plain(variables, image):
        with nn.intercept_methods(_plainly):
            return network.apply(variables, image)

    code = jax.eval_shape(network.apply, variables, image)

    def torch(reference, runner):
        run = runner.infer(*_torch_predictor(reference, runner, setting, variables))
        return Implementation("", run, lambda x: np.moveaxis(_numpy(x), 1, -1)[:, : code.shape[1], : code.shape[2]])

    return Case(
        "predict_code",
        [
            of_jax("ours", network.apply, variables, image),
            of_jax("plain JAX convolutions", plain, variables, image),
            of_torch("PyTorch", setting, torch),
        ],
        num_bytes(variables, image, code),
        operations(network.apply, variables, image),
        setting.tolerance,
        setting.batch,
    )


@case
def predict_code_compact(setting: Setting) -> Case:
    """The compact Code Predictor: pictures to codes."""
    network, variables = _compact_predictor(setting)
    predict = functools.partial(network.apply, camera=_frame(setting)[0].camera)
    image = _picture(setting)
    return Case(
        "predict_code_compact",
        [of_jax("ours", predict, variables, image)],
        num_bytes(variables, image, jax.eval_shape(predict, variables, image)),
        operations(predict, variables, image),
        setting.tolerance,
        setting.batch,
    )


@case
def picture_to_people(setting: Setting) -> Case:
    """The whole way, of one picture.

    Code Predictors have random weights, so what is decoded is the frame's true code with the predicted one as noise on
    it, a fifth of its deviation. Predicted codes are compared too.
    """
    setting = dataclasses.replace(setting, batch=1)
    frame, volume, image = _frame(setting)[0], setting.volume, _picture(setting)
    size = volume.shape[:2]

    def seen(true, code):
        return true + 0.2 * true.std() * (code - code.mean()) / code.std()

    def path(predictor, autoencoder):
        (network, variables), (vha_network, vha_variables) = predictor(setting), _vha(setting, autoencoder)
        true = _code(setting, vha_network, vha_variables)[0]

        def find(variables, vha_variables, image, true):
            code = network.apply(variables, image, frame.camera)
            noisy = seen(true, code[0])
            noisy = nn.relu(noisy) if autoencoder is vha.VHA else noisy
            found = fast_vha.decode_peaks(vha_network, vha_variables, noisy, size)
            points = people.in_metres(found, frame.camera, volume)
            return people.find_people(points).joints, code

        return find, variables, vha_variables, image, true

    def torch(reference, runner, fast=True):
        module, pictures = _torch_predictor(reference, runner, setting, _published_predictor(setting)[1], fast)
        network, variables = _vha(setting, vha.VHA)
        vha_module = runner.prepare(reference.load_vha(reference.Vha(LEVEL, volume.depth_bins), variables), fast)
        true = runner.place(_code(setting, network, variables)[0]).movedim(-1, 0)
        grid = vha.code_shape(volume.shape, LEVEL)

        def find(pictures):
            code = module(pictures)[:, :, : grid[0], : grid[1]]
            noisy = reference.torch.relu(seen(true, code[0]))
            volumes = vha_module.decode(noisy[None, None])[0, :, :, : size[0], : size[1]]
            volumes = volumes.movedim(1, -1) if fast else volumes
            found = (reference.peaks_of_few if fast else reference.peaks_by_comparing)(volumes, THRESHOLD)
            return volumes[tuple(found.T)], found if fast else found[:, [0, 2, 3, 1]], code

        def run():
            scores, found, code = compiled()
            scores, found = _numpy(scores), found.cpu().numpy()
            metres = np.asarray(volume.to_camera(frame.camera, found[:, 1:].astype(np.float32)))
            points, confidences = (np.zeros((skeleton.NUM_JOINTS, 128, *n), np.float32) for n in ((3,), ()))
            for joint in range(skeleton.NUM_JOINTS):
                mine = np.flatnonzero(found[:, 0] == joint)
                mine = mine[np.argsort(-scores[mine], kind="stable")][:128]
                points[joint, : len(mine)], confidences[joint, : len(mine)] = metres[mine], scores[mine]
            return group_by_loops(points, confidences), np.moveaxis(_numpy(code), 1, -1)

        compiled = runner.infer(find, pictures)
        return Implementation("", run, lambda made: made)

    def floor(find, *args):  # the volume is written, and read
        return num_bytes(args) + 2 * 4 * skeleton.NUM_JOINTS * np.prod(volume.shape), operations(find, *args)

    published = path(_published_predictor, vha.VHA)
    small = path(_compact_predictor, vha.PatchVHA)
    return Case(
        "picture_to_people",
        [
            of_jax("ours, published networks", *published),
            of_jax("ours, compact and PatchVHA", *small, comparable=False, floor=floor(*small)),
            of_torch("PyTorch", setting, torch),
            of_torch("PyTorch, plainly", setting, functools.partial(torch, fast=False)),
        ],
        *floor(*published),
        setting.tolerance,
    )


# ---- Training


@case
def train_vha_patch(setting: Setting) -> Case:
    """A step of training a PatchVHA."""
    return _training("train_vha_patch", setting, vha_config.get_config(LEVEL, f"variant=patch,scale={setting.scale}"))


@case
def train_code_predictor(setting: Setting) -> Case:
    """A step of training the published Code Predictor, as published, and with our loss, through a PatchVHA."""
    config, patch_config = (
        loco_config.get_config(LEVEL, f"variant={variant},scale={setting.scale}") for variant in ("published", "patch")
    )
    published = _training("train_code_predictor", setting, config, comparable=True)
    patch = _training("", setting, patch_config, "ours, through PatchVHA")
    (with_patch,) = patch.implementations
    with_patch = dataclasses.replace(with_patch, floor=(patch.bytes, patch.operations))

    def torch(reference, runner):
        from loco_jax import experiment

        # The task's own start, as `train.init_state` has it: then the first losses are the same.
        task = experiment.create_task(_training_config(config, setting))
        start = jax.device_get(jax.jit(task.init)(jax.random.key(config.seed)))
        variables = {**start["predictor"], "batch_stats": start["batch_stats"]}
        one, whole = dataclasses.replace(setting, batch=1), reference.Runner()  # parameters stay in float32
        module, picture = _torch_predictor(reference, whole, one, variables)
        autoencoder = reference.load_vha(reference.Vha(LEVEL, setting.volume.depth_bins), start["vha"])
        autoencoder = whole.prepare(autoencoder)
        _, voxels, present = _frame(setting)
        voxels, present = whole.place(voxels), whole.place(present, reference.torch.bool)
        pictures, shape = picture.repeat(setting.batch, 1, 1, 1), setting.volume.shape
        (rows, columns, _), spare = vha.code_shape(shape, LEVEL), [-n % 2**LEVEL for n in shape[:2]]

        def loss(pictures):
            def target():
                heat = reference.render(voxels, present, shape, SIGMA)[None]
                return autoencoder.encode(reference.F.pad(heat, (0, spare[1], 0, spare[0])))[0, 0]

            with reference.torch.no_grad():
                targets = reference.torch.stack([target() for _ in range(setting.batch)])
            return reference.F.mse_loss(module(pictures)[:, :, :rows, :columns].float(), targets.float())

        optimizer = config.optimizer
        run = runner.train(module, loss, pictures, rate=optimizer.learning_rate, clip_norm=optimizer.clip_norm)
        return Implementation("", run, lambda first: _losses(_numpy(first), _numpy(run())))

    ways = [*published.implementations, with_patch, of_torch("PyTorch", setting, torch)]
    return dataclasses.replace(published, implementations=ways)


@case
def train_code_predictor_compact(setting: Setting) -> Case:
    """The same of the compact one."""
    config = loco_config.get_config(LEVEL, f"variant=patch,trunk=compact,scale={setting.scale}")
    return _training("train_code_predictor_compact", setting, config)


def _losses(first: Any, second: Any) -> np.ndarray:
    """The losses `[2]` of the first steps: the second one tells of an update that is left out or another."""
    return np.array([first, second], np.float32)


def _training_config(config: Any, setting: Setting) -> Any:
    config = config.copy_and_resolve_references()
    config.volume.image_size, config.volume.depth_bins = setting.volume.image_size, setting.volume.depth_bins
    config.model.dtype = jnp.dtype(setting.dtype).name
    config.data.batch_size = setting.batch
    return config


def _training(name: str, setting: Setting, config: Any, way: str = "ours", comparable: bool = False) -> Case:
    from loco_jax import experiment, train  # here, since checkpoints take seconds to import
    from loco_jax import step as steps

    config = _training_config(config, setting)
    frame = _frame(setting)[0]
    image = _picture(dataclasses.replace(setting, batch=1))[0] if config.data.pictures else None
    frames = jax.tree.map(lambda x: np.stack([x] * setting.batch), frame._replace(image=image))
    task, optimizer = experiment.create_task(config), train.make_optimizer(config)
    step = functools.partial(
        steps.train_step, task=task, optimizer=optimizer, stage=task.stages - 1, seed=0, ema=config.ema
    )
    like = jax.eval_shape(lambda: train.init_state(task, optimizer, config, frames, pretrained=False))
    state = []  # of the training, which every step replaces
    jitted, frames = jax.jit(step, donate_argnums=0), jax.device_put(frames)

    def run():
        if not state:
            state.append(train.init_state(task, optimizer, config, frames, pretrained=False))
        state[0], loss = jitted(state[0], frames)
        return jax.block_until_ready(loss)

    def device_bytes():
        return int(jitted.lower(like, frames).compile().memory_analysis().temp_size_in_bytes)

    on_host = jax.default_backend() == "cpu"
    one = Implementation(
        way,
        run,
        lambda first: _losses(first, run()),
        comparable=comparable,
        device_bytes=None if on_host else device_bytes,
    )
    # A first step of Adam's moves parameters by the signs of gradients, which rounding may change: 1e-5 of the second
    # loss. Without that step it is less than half as much.
    tolerance = max(1e-3, setting.tolerance)
    return Case(name, [one], 2 * num_bytes(like), operations(step, like, frames), tolerance, setting.batch)


def make(name: str, setting: Setting, only_ours: bool = False) -> Case:
    """A case, with what is compared or, for scaling, ours alone."""
    made = CASES[name](setting)
    ways: Sequence[Implementation] = [w for w in made.implementations if w.name.startswith("ours")]
    return dataclasses.replace(made, implementations=ways or made.implementations[:1]) if only_ours else made
