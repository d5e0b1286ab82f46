"""What all Volumetric Heatmap Autoencoders share; vha1.py, vha2.py and vha3.py set the level."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

ARGUMENTS = {"scale": ("full", "demo"), "variant": ("published", "patch")}


def parse(arg: str, arguments: Mapping[str, Sequence[str]] = ARGUMENTS) -> dict[str, str]:
    """The options in "variant=patch,scale=demo"; the first of each if absent. Raises ValueError for another."""
    options = {name: values[0] for name, values in arguments.items()}
    for part in filter(None, (arg or "").split(",")):
        name, _, value = part.partition("=")
        if value not in arguments.get(name, ()):
            known = "; ".join(f"{n}={'|'.join(v)}" for n, v in arguments.items())
            raise ValueError(f"config argument {part!r} is not known; there are {known}")
        options[name] = value
    return options


def get_config(level: int, arg: str = "") -> ConfigDict:
    """The experiment VHA(level) at a scale and of a variant."""
    options = parse(arg)
    demo, patch = options["scale"] == "demo", options["variant"] == "patch"
    c = ConfigDict()
    c.task = "vha"
    c.name = "_".join([f"vha{level}", *(["patch"] if patch else []), *(["demo"] if demo else [])])
    c.scale = options["scale"]
    c.demo = f"configs/vha{level}.py:variant=patch,scale=demo"  # what to suggest on a CPU
    c.seed = 0

    # The voxel grid. The paper's; at demo scale, pictures a quarter as wide and the same bins up to 25 m.
    c.volume = ConfigDict()
    c.volume.image_size = (270, 480) if demo else (1080, 1920)
    c.volume.stride = 8
    c.volume.depth_bins = 80 if demo else 316
    c.volume.max_distance = 25.0 if demo else 100.0

    c.model = ConfigDict()
    c.model.level = level
    c.model.variant = options["variant"]
    # Channels inside, patch only. Level 1 has 8 times the cells of level 2: with more it would not fit into 24 GiB.
    c.model.width = 32 if level == 1 else 64
    c.model.blocks = 2  # a side, patch only
    c.model.dtype = "float32"  # of the arithmetic; bfloat16 on GPUs
    c.model.pad_channels = False  # published only: zeros make channels multiples of 8 in the computation, for GPUs
    # Of the volumes in which peaks are searched: float32 for as the network makes them, or bfloat16. Not on CPUs.
    c.model.volume_dtype = "float32"
    c.model.positive_weight = 0.0  # the loss counts 1 + this * target times
    c.model.code_noise = 0.2 if patch else 0.0  # in training, up to this part of the code's deviation

    # The published recipe begins with fat Gaussians, and halves them when the loss no longer falls.
    c.sigmas = (2.0,) if patch else (8.0, 4.0, 2.0)
    c.subvoxel = patch  # Gaussians centred on the joints, not on the nearest voxels
    c.plateau = ConfigDict()
    c.plateau.patience = 20  # log lines without a gain
    c.plateau.least_gain = 0.005  # of the best loss

    c.data = ConfigDict()
    c.data.source = "crowd"  # or "jta"
    c.data.dir = ""  # of a prepared JTA
    c.data.train_split = "train_vha"  # of a prepared JTA: the paper's frames for this task
    c.data.batch_size = 1  # over all devices: a multiple of their number uses them all
    c.data.render_batch = 1  # steps whose pictures of the crowd are made at once, for GPUs
    c.data.max_people = 64  # of a JTA frame
    c.data.validation_split = "validation"
    c.data.pictures = False  # does the task look at them?
    c.data.augment = False  # colours, scale and flips, of JTA's training pictures
    # People in a training scene of the crowd; 0 for as many as the scale has. Scores are always of the scale's scenes.
    c.data.crowd = ConfigDict()
    c.data.crowd.min_people = 0
    c.data.crowd.mean_people = 0.0
    c.data.crowd.most_people = 0
    c.data.workers = 0  # processes that decode JTA's pictures; 0 for threads of this one

    # Of several devices, so many share each frame's rows in training, for volumes too large for one; 1 for none.
    c.mesh = ConfigDict()
    c.mesh.rows = 1

    c.optimizer = ConfigDict()
    c.optimizer.name = "muon" if patch else "adam"
    c.optimizer.learning_rate = 0.02 if patch else 1e-4
    c.optimizer.schedule = "cosine" if patch else "constant"  # cosine: to zero at the last step
    c.optimizer.warmup = 100 if patch else 0  # steps
    c.optimizer.orthogonalise_every = 1  # steps, Muon only: in between, matrices go in the last direction again
    c.optimizer.orthogonalise_dtype = "float32"  # Muon only; or bfloat16, for GPUs
    c.optimizer.clip_norm = 1.0
    c.optimizer.max_skipped = 10  # steps in a row that are left out since a number is not finite; one more ends the run
    c.ema = 0.0  # decay of the parameters' moving average; 0 for none

    c.steps = 1400 if demo else 200_000
    c.max_minutes = 0.0  # stop and save after this many; 0 for no limit
    c.spike = 4.0  # losses above so many times their running mean are logged, to be looked at with --mode=replay; or 0
    c.log_every = 20 if demo else 100
    c.checkpoint_every = 350 if demo else 1000
    c.keep_checkpoints = 2
    c.eval_every = 350 if demo else 5000
    c.eval_frames = 16 if demo else 64  # of the validation split, while training
    c.test_frames = 64 if demo else 1024  # of the test split, with --mode=eval
    c.pictures = 3  # so many first frames are drawn; a LoCO's --mode=eval draws five, from the best to the worst
    c.max_peaks = 32 if demo else 128  # a joint type
    c.quiet = False  # no progress bars
    return c
