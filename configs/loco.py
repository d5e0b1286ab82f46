"""The settings that all LoCOs share; loco1.py, loco2.py and loco3.py set the level.

The Code Predictor is trained; the autoencoder comes from another run, `config.vha`.
"""

from ml_collections import ConfigDict

from loco_jax.configs import vha

ARGUMENTS = {**vha.ARGUMENTS, "trunk": ("inception", "compact")}


def get_config(level: int, arg: str = "") -> ConfigDict:
    """The config of LoCO(level) for an argument like "variant=patch,trunk=compact,scale=demo"."""
    options = vha.parse(arg, ARGUMENTS)
    demo, patch, compact = options["scale"] == "demo", options["variant"] == "patch", options["trunk"] == "compact"
    c = vha.get_config(level, f"scale={options['scale']},variant={options['variant']}")
    c.task = "loco"
    c.name = "_".join([f"loco{level}", *(["patch"] * patch), *(["compact"] * compact), *(["demo"] * demo)])
    c.demo = f"configs/loco{level}.py:variant=patch,trunk=compact,scale=demo"

    # The trained autoencoder of the same level and variant: a run's folder, a file of weights, or "released".
    c.vha = f"runs/vha{level}{'_patch' * patch}{'_demo' * demo}"
    # Correction of people in evaluation: a refiner's run or file, "" for none, or (compact only) "picture" for the
    # poses that the network reads from the picture at people's places.
    c.refiner = "picture" if compact else "released-refiner"

    # Rules by which people are completed ("+"). The published values are 1 and 0.6. The compact network has lower
    # scores and misses more joints; its values are the best on validation frames, see docs/experiments.md.
    c.refine = ConfigDict()
    c.refine.least_joints = 5 if compact else 1  # least number of joints of a person, of 14
    c.refine.least_stray = 0.3 if compact else 0.6  # least score of a joint that belongs to nobody

    # Rules by which people are named: each person once, and nobody with a low score. Not in the paper; docs/predict.md.
    c.people = ConfigDict()
    c.people.min_score = 0.2  # least mean score of a person's 14 joints; a joint that is not found counts as 0
    c.people.overlap = 0.1  # least mean distance to a better person in the picture, in diagonals of that person's box

    # With --mode=eval: scores of tracks, docs/method.md, section 12.
    c.tracks = ConfigDict()
    c.tracks.sequences = 0  # number of sequences; 0 for none
    c.tracks.frames = 30  # frames of each; of JTA at most the 90 that are prepared
    c.tracks.fps = 3.0  # frames a second, of the crowd; JTA's are 3

    c.predictor = ConfigDict()
    c.predictor.trunk = options["trunk"]
    # Weights from which the trunk's training starts: ImageNet weights of Inception, which python -m
    # loco_jax.torch_weights makes; for the compact trunk a run of configs/trunk.py; "" for new ones.
    c.predictor.trunk_weights = ""
    c.predictor.width = 32  # compact only: channels of the first stage
    c.predictor.blocks = 2  # compact only: blocks of a stage
    c.predictor.coarsest = 64 if demo else 128  # compact only: width of a cell of the last stage, in pixels
    # Compact only: weight of the features' other losses: joints in the picture, poses, the camera's height and tilt.
    c.predictor.teaching_weight = 0.3 if compact else 0.0
    c.predictor.code_weight = 1.0  # weight of the mean squared error of the code, the published loss
    # Weight of the cross-entropy of the heatmaps that the VHA decodes. Where the picture leaves two depths possible,
    # the mean of their codes is not the code of a person, but a heatmap can show both.
    c.predictor.heatmap_weight = 0.01 if patch else 0.0
    # Weight of telling left from right in those heatmaps, at the joints' places.
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
