"""The settings that all Volumetric Heatmap Autoencoders share; vha1.py, vha2.py and vha3.py set the level."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

ARGUMENTS = {"scale": ("full", "demo"), "variant": ("published", "patch")}


def parse(arg: str, arguments: Mapping[str, Sequence[str]] = ARGUMENTS) -> dict[str, str]:
    """The options in an argument like "variant=patch,scale=demo". The default of each option is its first value.

    Raises ValueError for an unknown option or value.
    """
    options = {name: values[0] for name, values in arguments.items()}
    for part in filter(None, (arg or "").split(",")):
        name, _, value = part.partition("=")
        if value not in arguments.get(name, ()):
            known = "; ".join(f"{n}={'|'.join(v)}" for n, v in arguments.items())
            raise ValueError(f"config argument {part!r} is not known; there are {known}")
        options[name] = value
    return options


def get_config(level: int, arg: str = "") -> ConfigDict:
    """The config of VHA(level) for an argument like "variant=patch,scale=demo"."""
    options = parse(arg)
    demo, patch = options["scale"] == "demo", options["variant"] == "patch"
    c = ConfigDict()
    c.task = "vha"
    c.name = "_".join([f"vha{level}", *(["patch"] if patch else []), *(["demo"] if demo else [])])
    c.scale = options["scale"]
    c.demo = f"configs/vha{level}.py:variant=patch,scale=demo"  # suggested on a CPU
    c.seed = 0

    # The voxel grid: the paper's. At demo scale pictures are a quarter as wide, and the same bins reach to 25 m.
    c.volume = ConfigDict()
    c.volume.image_size = (270, 480) if demo else (1080, 1920)
    c.volume.stride = 8
    c.volume.depth_bins = 80 if demo else 316
    c.volume.max_distance = 25.0 if demo else 100.0

    c.model = ConfigDict()
    c.model.level = level
    c.model.variant = options["variant"]
    # Patch only: channels of the blocks. Level 1 has 8 times the cells of level 2, and 24 GiB of memory must suffice.
    c.model.width = 32 if level == 1 else 64
    c.model.blocks = 2  # patch only: blocks in the encoder, and as many in the decoder
    c.model.dtype = "float32"  # type of the arithmetic; or bfloat16, for GPUs
    c.model.code_noise = 0.2 if patch else 0.0  # noise in training, up to this share of the code's standard deviation

    # Widths of the Gaussians in voxels, one a stage. A stage ends when its loss no longer falls; with a budget, stage k
    # of n ends at the latest when k/n of it is used.
    c.sigmas = (2.0,) if patch else (8.0, 4.0, 2.0)
    c.subvoxel = patch  # centre Gaussians on the joints, or on the nearest voxels
    c.plateau = ConfigDict()
    c.plateau.patience = 20  # log lines without a gain before the next stage begins
    c.plateau.least_gain = 0.005  # the least gain, as a share of the best loss

    c.data = ConfigDict()
    c.data.source = "crowd"  # or "jta", "mupots", "panoptic", or a class of your own as "my_module:MyData"
    c.data.dir = ""  # folder of a prepared JTA, or of another data set
    c.data.train_split = "train_vha"  # split of a prepared JTA: the paper's frames for this task
    # Focal lengths and middle (fx, fy, cx, cy) of the camera for which pictures of other data sets than the crowd and
    # JTA are resampled; () for JTA's angle of view, across pictures as wide as volume.image_size.
    c.data.camera = ()
    c.data.head_of_ears = False  # whether training on CMU Panoptic, which has no head top, takes one of ears and neck
    c.data.batch_size = 1  # frames a step, over all devices; a multiple of their number uses all of them
    c.data.render_batch = 1  # for GPUs: render the crowd's pictures for so many steps at once
    c.data.max_people = 64  # most people of a frame in files
    c.data.validation_split = "validation"
    c.data.pictures = False  # whether the task needs pictures
    c.data.augment = False  # whether to vary colours, scale and flips of training pictures in files
    # People in a training scene of the crowd; 0 for the scale's numbers, which evaluation always uses.
    c.data.crowd = ConfigDict()
    c.data.crowd.min_people = 0
    c.data.crowd.mean_people = 0.0
    c.data.crowd.most_people = 0
    c.data.workers = 0  # processes that decode pictures in files; 0 for threads of this process

    # Spatial sharding in training: so many devices share the rows of each frame. For volumes too large for one device.
    c.mesh = ConfigDict()
    c.mesh.rows = 1

    c.optimizer = ConfigDict()
    c.optimizer.name = "muon" if patch else "adam"
    c.optimizer.learning_rate = 0.02 if patch else 1e-4
    c.optimizer.schedule = "cosine" if patch else "constant"  # cosine falls to zero at the last step
    c.optimizer.warmup = 100 if patch else 0  # steps in which the learning rate rises
    c.optimizer.orthogonalise_dtype = "float32"  # Muon only: or bfloat16, for GPUs
    c.optimizer.clip_norm = 1.0  # most of the gradient's norm; 0 for no limit
    c.optimizer.max_skipped = 10  # most steps in a row that are skipped for a number that is not finite
    c.ema = 0.0  # decay of the moving average of the parameters; 0 for none

    c.init = ""  # parameters to start from: a run's folder, a file of weights, or "released"; "" for new ones
    c.init_missing = False  # whether modules may be missing there; they are then new
    c.steps = 1400 if demo else 200_000
    c.budget_clock = "wall"  # or "processor", for equal budgets on CPUs that other work shares
    c.budget_minutes = 0.0  # training time over all starts, which rate and stages follow; 0 for none; docs/train.md
    c.max_minutes = 0.0  # save and stop after so many minutes of one start; 0 for no limit
    c.spike = 4.0  # log losses above so many times their running mean, for --mode=replay; 0 for none
    c.log_every = 20 if demo else 100
    c.checkpoint_every = 350 if demo else 1000
    c.keep_checkpoints = 2
    c.eval_every = 350 if demo else 5000
    c.eval_frames = 16 if demo else 64  # frames of the validation split, while training
    c.test_frames = 64 if demo else 1024  # frames of the test split, with --mode=eval
    c.pictures = 3  # number of first frames to draw; --mode=eval of a LoCO draws five, from the best to the worst
    c.max_peaks = 32 if demo else 128  # most peaks of a joint type
    c.quiet = False  # whether to hide progress bars
    return c
