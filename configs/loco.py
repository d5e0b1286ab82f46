"""What all LoCOs share; loco1.py, loco2.py and loco3.py set the level. The Code Predictor learns, the VHA is given."""

from ml_collections import ConfigDict

from loco_jax.configs import vha

ARGUMENTS = {**vha.ARGUMENTS, "trunk": ("inception", "compact")}


def get_config(level: int, arg: str = "") -> ConfigDict:
    """The experiment LoCO(level) at a scale, on a variant of the VHA, with a trunk of the Code Predictor."""
    options = vha.parse(arg, ARGUMENTS)
    demo, patch, compact = options["scale"] == "demo", options["variant"] == "patch", options["trunk"] == "compact"
    c = vha.get_config(level, f"scale={options['scale']},variant={options['variant']}")
    c.task = "loco"
    c.name = "_".join([f"loco{level}", *(["patch"] * patch), *(["compact"] * compact), *(["demo"] * demo)])
    c.demo = f"configs/loco{level}.py:variant=patch,trunk=compact,scale=demo"

    # Where trained parameters come from: a run's folder, a file of weights, or "released".
    c.vha = f"runs/vha{level}{'_patch' * patch}{'_demo' * demo}"  # the autoencoder of the same level and variant
    # What corrects people, for evaluation: a refiner, "" for none, or for the compact network "picture": the poses
    # that it reads at people's places.
    c.refiner = "picture" if compact else "released-refiner"

    # How its people are completed ("+"); as published 1 and 0.6. The compact network's scores are lower and it misses
    # more joints: what is best on validation frames, see docs/experiments.md.
    c.refine = ConfigDict()
    c.refine.least_joints = 5 if compact else 1  # joints a person needs, of 14
    c.refine.least_stray = 0.3 if compact else 0.6  # score above which a joint that belongs to nobody counts

    # Whom it names: each person once, and nobody of too low a score; see docs/suppression.md. Not in the paper.
    c.people = ConfigDict()
    c.people.min_score = 0.2  # of a person: the mean score of its 14 joints, 0 for those not found
    c.people.overlap = 0.1  # mean distance in the picture to a better person, in that one's heights; 0 to keep both

    c.predictor = ConfigDict()
    c.predictor.trunk = options["trunk"]
    # Of the trunk, where training starts: ImageNet weights of Inception, by python -m loco_jax.torch_weights; for the
    # compact one a run of configs/trunk.py.
    c.predictor.trunk_weights = ""
    c.predictor.width = 32  # channels of the first stage, compact only
    c.predictor.blocks = 2  # a stage, compact only
    c.predictor.coarsest = 64 if demo else 128  # pixels a cell of the last stage is wide, compact only
    # Of what the features are taught beside the code: joints in the picture, poses, the camera's stance; compact only.
    c.predictor.teaching_weight = 0.3 if compact else 0.0
    c.predictor.code_weight = 1.0  # of the mean squared error of the code: the published loss
    # Of the cross-entropy of the heatmaps that the VHA makes of the code. Where the picture leaves depth open, the mean
    # of two codes is none of a person, but a heatmap can say both.
    c.predictor.heatmap_weight = 0.01 if patch else 0.0

    # Of telling right from left in those heatmaps, at the joints' places.
    c.predictor.side_weight = 2.0 if patch and compact else 0.0

    c.data.pictures = True
    c.data.augment = True
    c.data.train_split = "train"

    c.optimizer.name = "muon" if compact else "adam"
    c.optimizer.learning_rate = 0.006 if compact else 1e-4
    c.optimizer.schedule = "cosine" if compact else "constant"
    c.optimizer.warmup = 100 if compact else 0
    c.steps = 1500 if demo else 400_000
    if compact:  # the recipe of docs/experiments.md
        c.data.batch_size = 4
        c.ema = 0.998
        c.steps = 15_000 if demo else 100_000
    if compact and demo:
        c.data.crowd.min_people, c.data.crowd.mean_people, c.data.crowd.most_people = 4, 14.0, 24
        c.checkpoint_every, c.eval_every, c.eval_frames = 300, 500, 64
    return c
