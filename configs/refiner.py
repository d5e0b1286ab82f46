"""The refiner: people's poses, completed and corrected. Arguments: scale=full|demo."""

from ml_collections import ConfigDict

from loco_jax.configs import vha

ARGUMENTS = {"scale": vha.ARGUMENTS["scale"]}


def get_config(arg: str = "") -> ConfigDict:
    """The experiment at a scale: which crowd the poses are taken from."""
    scale = vha.parse(arg, ARGUMENTS)["scale"]
    c = vha.get_config(2, f"scale={scale}")
    del c.model, c.sigmas, c.subvoxel, c.max_peaks
    c.task = "refiner"
    c.name = "refiner" + "_demo" * (scale == "demo")
    c.demo = "configs/refiner.py:scale=demo"

    # What is done to the poses; people are spoilt more or less, these are means.
    c.spoil = ConfigDict()
    c.spoil.missing = 0.25  # share of joints
    c.spoil.swapped = 0.05  # with the other side's, or the next person's
    c.spoil.moved = 0.9  # share of the others
    c.spoil.move_by = 0.15  # metres, standard deviation across the ray
    c.spoil.along_ray = 1.5  # times that along the ray
    # A LoCO whose own mistakes are learnt as well: a run's folder, a file of weights, or "released"; "" for none.
    c.spoil.predictor = ""
    c.spoil.found = 2000  # people that it finds in training scenes, before the first step
    c.spoil.share = 0.5  # of the loss, that theirs has

    c.data.batch_size = 16 if scale == "demo" else 8
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 2e-3  # the paper's 1e-4 is for days
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = 100
    c.steps = 12_000
    c.log_every = 200
    c.checkpoint_every = 2000
    c.eval_every = 2000
    c.eval_frames = 64
    c.test_frames = 256
    return c
