"""Every config makes a task of the method's sizes, and a training step that keeps the state's shapes."""

import functools
import importlib

import jax
import jax.numpy as jnp
import pytest

from loco_jax import experiment
from loco_jax.configs import vha as shared
from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import patch_vha, vha
from loco_jax.step import init_state, make_optimizer, train_step

# docs/method.md, sections 2 and 3, and what the demo scale is made for.
VOLUMES = {"full": (136, 240, 316), "demo": (40, 60, 80)}
CODES = {
    ("full", 1): (68, 120, 158),
    ("full", 2): (34, 60, 79),
    ("full", 3): (17, 30, 39),
    ("demo", 1): (20, 30, 40),
    ("demo", 2): (10, 15, 20),
    ("demo", 3): (5, 8, 10),
}
ALL = [(level, scale, variant) for level in (1, 2, 3) for scale in VOLUMES for variant in ("published", "patch")]


def config_of(level: int, scale: str, variant: str):
    return importlib.import_module(f"loco_jax.configs.vha{level}").get_config(f"scale={scale},variant={variant}")


def shape_of_frames(batch: int, people: int) -> Frames:
    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((batch, *sizes), dtype)

    return Frames(shape(people, 14, 3), shape(people, 14, dtype=bool), Camera(*[shape()] * 4))


@pytest.mark.parametrize("level, scale, variant", ALL)
def test_config_trains_a_step(level, scale, variant):
    config = config_of(level, scale, variant)
    task, optimizer = experiment.create_task(config), make_optimizer(config)
    assert type(task.network) is {"published": vha.VHA, "patch": patch_vha.PatchVHA}[variant]
    assert task.volume.shape == VOLUMES[scale]
    frames = shape_of_frames(config.data.batch_size, 64 if scale == "full" else 8)
    state = jax.eval_shape(lambda: init_state(task, optimizer, config))
    heatmaps = jax.ShapeDtypeStruct((1, 14, *VOLUMES[scale]), jnp.float32)
    code = jax.eval_shape(functools.partial(task.network.apply, method="encode"), state.params, heatmaps)
    assert code.shape == (1, *CODES[scale, level])
    step = functools.partial(train_step, task=task, optimizer=optimizer, seed=config.seed, ema=config.ema)
    for stage in range(task.stages):
        after, scalars = jax.eval_shape(functools.partial(step, stage=stage), state, frames)
        loss = scalars["loss"]
        assert loss.shape == () and loss.dtype == jnp.float32
        # The same shapes and types, or the next step would not fit.
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [
            (x.shape, x.dtype) for x in jax.tree.leaves(state)
        ]


def test_average_is_of_the_parameters():
    config = config_of(2, "demo", "patch")
    config.ema = 0.99
    task, optimizer = experiment.create_task(config), make_optimizer(config)
    state = jax.eval_shape(lambda: init_state(task, optimizer, config))
    assert jax.tree.map(lambda x: x.shape, state.ema) == jax.tree.map(lambda x: x.shape, state.params)


@pytest.mark.parametrize("level, scale, variant", ALL)
def test_config_is_the_published_recipe_where_it_says_so(level, scale, variant):
    config = config_of(level, scale, variant)
    assert config.model.level == level and config.model.variant == variant and config.scale == scale
    if variant == "published":  # docs/method.md, section 3: squared error, Adam at 1e-4, batch 1, sigma 8, 4, 2
        c = config.optimizer
        assert (c.name, c.learning_rate, c.schedule, c.warmup) == ("adam", 1e-4, "constant", 0)
        assert config.data.batch_size == 1 and tuple(config.sigmas) == (8, 4, 2) and not config.subvoxel
        assert config.model.code_noise == config.ema == 0
    assert tuple(config.sigmas)[-1] == 2  # docs/method.md, section 2: "Final sigma is 2"


def test_names_tell_the_experiments_apart():
    names = [config_of(*arguments).name for arguments in ALL]
    assert len(set(names)) == len(ALL)


def test_defaults_are_the_papers():
    for level in (1, 2, 3):
        module = importlib.import_module(f"loco_jax.configs.vha{level}")
        for argument in ("", None, "scale=full", "variant=published"):
            assert module.get_config(*([] if argument is None else [argument])).name == f"vha{level}"


def test_volumes_are_the_methods():
    full = streams.volume_of(config_of(2, "full", "published"))
    assert full == Volume(image_size=(1080, 1920), stride=8, depth_bins=316, max_distance=100.0)
    assert full.bin_size == pytest.approx(0.31746, abs=1e-5)
    demo = streams.crowd_of(config_of(2, "demo", "patch"))
    assert demo.volume == crowds.DEMO.volume and demo.camera == cameras.JTA.scaled(0.25)
    assert streams.crowd_of(config_of(1, "full", "patch")) == crowds.FULL


@pytest.mark.parametrize(
    "argument", ["scale=huge", "variant", "variant=", "size=full", "scale=demo;variant=patch", "demo"]
)
def test_unknown_arguments_are_told(argument):
    with pytest.raises(ValueError, match="is not known; there are scale=full.demo; variant=published.patch"):
        shared.get_config(2, argument)
    with pytest.raises(ValueError, match="is not known"):
        shared.get_config(2, f"scale=demo,{argument}")


def test_both_orders_of_arguments():
    one, other = (shared.get_config(3, a) for a in ("scale=demo,variant=patch", "variant=patch,scale=demo"))
    assert one.to_dict() == other.to_dict()


LOCOS = [(level, scale, "patch", "compact") for level, scale in ((1, "full"), (2, "demo"), (2, "full"), (3, "demo"))]
LOCOS += [(level, scale, "published", "inception") for level, scale in ((2, "full"), (3, "demo"))]


@pytest.mark.parametrize("level, scale, variant, trunk", LOCOS)
def test_loco_trains_a_step(level, scale, variant, trunk):
    module = importlib.import_module(f"loco_jax.configs.loco{level}")
    config = module.get_config(f"scale={scale},variant={variant},trunk={trunk}")
    task, optimizer = experiment.create_task(config), make_optimizer(config)
    image = jax.ShapeDtypeStruct((1, *config.volume.image_size, 3), jnp.uint8)
    frames = shape_of_frames(1, 8)._replace(image=image)
    state = jax.eval_shape(lambda: init_state(task, optimizer, config, pretrained=False))
    code = jax.eval_shape(lambda *a: task.look(*a)[0], state.params, image, frames.camera)
    assert code.shape == (1, *CODES[scale, level])
    step = functools.partial(train_step, task=task, optimizer=optimizer, stage=0, seed=0, ema=config.ema)
    after, _ = jax.eval_shape(step, state, frames)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    if (level, scale, trunk) == (2, "full", "inception"):  # docs/method.md, section 4
        assert sum(x.size for x in jax.tree.leaves(state.params["predictor"])) == 65_847_855


@pytest.mark.parametrize("arg, word", [("trunk=resnet", "trunk"), ("scale=demo,variant=best", "variant")])
def test_loco_arguments_that_there_are_not(arg, word):
    with pytest.raises(ValueError, match=word):
        importlib.import_module("loco_jax.configs.loco2").get_config(arg)


@pytest.mark.parametrize("scale, shape", [("full", (136, 240, 1000)), ("demo", (40, 60, 250))])
def test_ten_centimetres(scale, shape):
    """The poster's uncompressed volume: 1,000 bins to 100 m."""
    module = importlib.import_module("loco_jax.configs.vha2_10cm")
    config = module.get_config(f"scale={scale}")
    task = experiment.create_task(config)
    assert task.volume.shape == shape and task.volume.bin_size == pytest.approx(0.1, rel=0.01)
    assert type(task.network) is patch_vha.PatchVHA
    state = jax.eval_shape(lambda: init_state(task, make_optimizer(config), config))
    assert sum(x.size for x in jax.tree.leaves(state.params)) < 3_448_442
    with pytest.raises(ValueError, match="variant"):
        module.get_config("variant=published")
