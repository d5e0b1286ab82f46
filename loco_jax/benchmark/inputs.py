"""Inputs of the measured functions: a scene of the crowd, pictures, networks and their weights."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from loco_jax import experiment, weights
from loco_jax.configs import loco as loco_config
from loco_jax.configs import vha as vha_config
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.volume import Volume
from loco_jax.models import vha

LEVEL, SIGMA = 2, 2.0
MOST_PEOPLE = 60
_GAIN = 5.0  # of the last layer; with it the peak of a single person is 0.5


@dataclasses.dataclass(frozen=True)
class Setting:
    """The size and type of the inputs, and the kind of the other implementations."""

    scale: str = "full"  # or "demo"
    people: int = 20  # in the frame
    batch: int = 1  # pictures at once, for Code Predictors and training steps
    dtype: str = "float32"  # of the networks' arithmetic, or "bfloat16"
    weights: str = ""  # a run's folder or a file with a published VHA(2); "" for the weights of `passing_on`
    plain: bool = False  # whether the other implementation is the plain network in place of PyTorch

    @property
    def crowd(self) -> crowds.Crowd:
        return crowds.FULL if self.scale == "full" else crowds.DEMO

    @property
    def volume(self) -> Volume:
        return self.crowd.volume

    @property
    def tolerance(self) -> float:
        """The greatest difference between a network's results, relative to the greatest value."""
        return 1e-4 if self.dtype == "float32" else 0.05


@functools.lru_cache
def scene(scale: str) -> Frames:
    """A frame of the crowd's test split with 60 people, without a batch axis."""
    crowd = Setting(scale).crowd
    number: dict[str, Any] = {"max_people": MOST_PEOPLE, "min_people": MOST_PEOPLE, "mean_people": float(MOST_PEOPLE)}
    crowd = dataclasses.replace(crowd, most_people=MOST_PEOPLE, **number)
    made = jax.device_get(jax.jit(crowds.sample_scene, static_argnums=1)(crowds.scene_key("test", 0), crowd))
    joints: Any = made.joints[:, skeleton.FROM_JTA]
    present: Any = np.broadcast_to(made.present[:, None], joints.shape[:2])
    return Frames(joints, present, jax.tree.map(np.float32, crowd.camera))


def frame(setting: Setting) -> Frames:
    """The scene with the requested number of people, those with most joints in view.

    On a smaller grid the camera has fewer pixels and the same field of view.
    """
    whole, volume = scene(setting.scale), setting.volume
    scale = volume.image_size[1] / setting.crowd.volume.image_size[1]
    camera = jax.tree.map(lambda f: np.float32(f * scale), whole.camera)
    in_view = np.asarray(whole.present & np.asarray(volume.in_view(camera, whole.joints)))
    first = np.argsort(-in_view.sum(axis=1), kind="stable")[: setting.people]
    return Frames(whole.joints[first], whole.present[first], camera)


def picture(setting: Setting) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of noise."""
    return np.random.default_rng(0).integers(0, 256, (*setting.volume.image_size, 3), np.uint8)


def batch(setting: Setting, pictures: bool) -> Frames:
    """A batch of copies of the frame."""
    image: Any = picture(setting) if pictures else None
    one = frame(setting)._replace(image=image)
    return jax.tree.map(lambda x: np.stack([x] * setting.batch), one)


def config_of(setting: Setting, task: str, **options: str) -> ConfigDict:
    """The config of a task, "vha" or "loco", in a setting; options are, for example, variant="patch"."""
    argument = ",".join(f"{name}={value}" for name, value in {**options, "scale": setting.scale}.items())
    config = {"vha": vha_config, "loco": loco_config}[task].get_config(LEVEL, argument)
    config.volume.image_size, config.volume.depth_bins = setting.volume.image_size, setting.volume.depth_bins
    config.model.dtype, config.data.batch_size = setting.dtype, setting.batch
    if task == "loco":
        config.refiner = ""
    return config


@functools.lru_cache(maxsize=2)
def system(setting: Setting, kind: str) -> tuple[Any, Any]:
    """The LoCO task of a kind, "published" or "compact", and its parameters.

    The compact one has the released autoencoder, a PatchVHA. The Code Predictors have random weights.
    """
    options = {"variant": "patch", "trunk": "compact"} if kind == "compact" else {"variant": "published"}
    task: Any = experiment.create_task(config_of(setting, "loco", **options))
    shapes = task.shapes()
    source = "released" if kind == "compact" else setting.weights
    autoencoder = weights.read("vha", source, shapes["vha"]) if source else passing_on(setting.volume.depth_bins)
    return task, {**_random(shapes), "vha": autoencoder}


def _random(shapes: Any) -> Any:
    """Random parameters that keep the scale of activations, drawn without compiling an initialiser."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.standard_normal(x.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(x.shape[:-1])))
        mean = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (mean + 0.1 * rng.uniform(-1, 1, x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def passing_on(bins: int) -> Mapping[str, Any]:
    """Parameters of a published VHA(2) that encode the heads' heatmap and decode it for every joint type.

    The time of decoding depends on how much of the volume is empty. With random weights nothing is empty. With these,
    as with trained weights, a heatmap is zero except around people. Each kernel is a blur.
    """
    rng = np.random.default_rng(0)
    network = vha.VHA(LEVEL, bins)
    like = jax.ShapeDtypeStruct((1, skeleton.NUM_JOINTS, 16, 16, bins), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), like)["params"]

    def blur(name, shape):
        *sizes, fan_in, fan_out = shape
        squares = sum(axis**2 for axis in np.ogrid[tuple(slice(-(n // 2), n // 2 + 1) for n in sizes)])
        sharpness = 1.0 if name in ("encoder_2d_0", "encoder_2d_1") else 4.0  # those two halve
        kernel = np.exp(-sharpness * squares)[..., None, None] * rng.uniform(0.7, 1.3, shape)
        if "_2d_" in name:  # channels are bins: each sees bins at about the same distance
            apart = (np.arange(fan_in)[:, None] + 0.5) / fan_in - (np.arange(fan_out) + 0.5) / fan_out
            kernel = kernel * np.exp(-sharpness * np.square(apart * max(fan_in, fan_out)))
        elif name == "encoder_3d_0":
            kernel = kernel * (np.arange(fan_in) == 0)[:, None]
        return (kernel / kernel.sum(axis=tuple(range(kernel.ndim - 1)))).astype(np.float32)

    params = {
        name: {"kernel": blur(name, layer["kernel"].shape), "bias": np.zeros(layer["bias"].shape, np.float32)}
        for name, layer in shapes.items()
    }
    params["decoder_2d_2"]["kernel"] *= _GAIN
    return {"params": params}
