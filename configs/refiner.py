"""The refiner: a small network that completes and corrects the poses of people.

    python -m loco_jax.main --config=configs/refiner.py:scale=demo
    python -m loco_jax.main --config=configs/refiner.py:scale=demo --config.spoil.predictor=released

Arguments: scale=full|demo. The second command also learns from the mistakes of a trained LoCO.

At demo scale 4,000 steps took 2.5 minutes on one core of an AMD EPYC, with a LoCO's mistakes; the default is 12,000
steps. F1 of the compact LoCO(2) that was released first is 25.8 / 49.8 / 59.2 % at 0.4 / 0.8 / 1.2 m with the refiner,
and 24.6 / 48.5 / 57.9 % without (160 validation frames of the crowd). Full scale was not measured here.
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha

ARGUMENTS = {"scale": vha.ARGUMENTS["scale"]}


def get_config(arg: str = "") -> ConfigDict:
    """The config for an argument like "scale=demo", which chooses the crowd with the poses."""
    scale = vha.parse(arg, ARGUMENTS)["scale"]
    c = vha.get_config(2, f"scale={scale}")
    del c.model, c.sigmas, c.subvoxel, c.max_peaks
    c.task = "refiner"
    c.name = "refiner" + "_demo" * (scale == "demo")
    c.demo = "configs/refiner.py:scale=demo"

    # Random mistakes in true poses for training. These are means: some people have more of them than others.
    c.spoil = ConfigDict()
    c.spoil.missing = 0.25  # share of joints that are removed
    c.spoil.swapped = 0.05  # share of joints that change places with the other side's, or the next person's
    c.spoil.moved = 0.9  # share of the other joints that are moved
    c.spoil.move_by = 0.15  # standard deviation across the ray, in metres
    c.spoil.along_ray = 1.5  # standard deviation along the ray, as a multiple of that
    # A system that finds people, whose mistakes are learnt as well: a run's folder, a file of weights, or "released";
    # "" for none.
    c.spoil.predictor = ""
    c.spoil.found = 2000  # number of people that it finds in training scenes before the first step
    c.spoil.share = 0.5  # their share of the loss

    c.data.batch_size = 16 if scale == "demo" else 8
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 2e-3  # the paper's 1e-4 takes days
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = 100
    c.steps = 12_000
    c.log_every = 200
    c.checkpoint_every = 2000
    c.eval_every = 2000
    c.eval_frames = 64
    c.test_frames = 256
    return c
