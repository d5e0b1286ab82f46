"""usage: python -m loco_jax.predict INPUT [INPUT ...] [--output=FOLDER] [--weights=RUN_OR_FILE] [--fov=DEGREES]

Finds the people in pictures and videos, and in folders of these. For every input NAME it writes NAME.json,
NAME_overlay.jpg (or .mp4), and NAME_3d.html, a page to look at from all sides. Coordinates are in metres from the
camera (x right, y down, z ahead) and in pixels from the picture's top left corner. In videos people have identities.

Without --fx, --fy and --fov the focal length comes from EXIF; if there is none, the field of view of the training
pictures is assumed. Distances are as accurate as the focal length. The camera options apply to all inputs.
"""

import contextlib
import math
import sys

from absl import app, flags

from loco_jax import cli

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string(
    "output", "out", "The folder for results. Earlier results are replaced.", flag_values=FLAGS
)
_WEIGHTS = flags.DEFINE_string("weights", "released", "A run's folder, or a file of weights.", flag_values=FLAGS)
_MIN_SCORE = flags.DEFINE_float(
    "min_score", None, "The least score of a person, 0 to 1; by default that of the weights' config.", flag_values=FLAGS
)
_SMOOTH = flags.DEFINE_enum(
    "smooth", "on", ["on", "off"], "Whether the tracks of videos are smoothed and bridged.", flag_values=FLAGS
)
_FPS = flags.DEFINE_float(
    "fps", 0.0, "Frames a second: the pictures of each folder are a video, in the order of the numbers in their "
    "names. Without it they are single pictures.", 0.0, flag_values=FLAGS
)  # fmt: skip
_EXPORT = flags.DEFINE_string(
    "export", "", "Files for other software too: some of c3d, trc, bvh, gltf and csv, with commas.", flag_values=FLAGS
)
_RESUME = flags.DEFINE_bool("resume", False, "Leave out inputs whose results exist.", flag_values=FLAGS)
_SHARD = flags.DEFINE_string(
    "shard", "", "I/N: only every N-th input, from number I, 0 to N - 1. N such processes, with the same inputs and "
    "--output, process all. python -m loco_jax.predict.merge makes one table of them.", flag_values=FLAGS
)  # fmt: skip
_QUIET = flags.DEFINE_bool("quiet", False, "Show no progress.", flag_values=FLAGS)
_LENS = {
    name: flags.DEFINE_float(name, None, text, flag_values=FLAGS)
    for name, text in {
        "fx": "Focal length in pixels of your picture; --fy is the same if absent.",
        "fy": "Vertical focal length, if pixels are not square.",
        "cx": "Pixels from the left edge to the optical axis; the middle if absent.",
        "cy": "Pixels from the top edge to the optical axis; the middle if absent.",
        "fov": "Horizontal field of view in degrees, instead of --fx and --fy.",
    }.items()
}


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise app.UsageError("name a picture, a folder, or a video")
    from loco_jax.predict import (
        exporting,
        files,
        shards,
    )  # heavy imports come after the flags, so that --help answers at once
    from loco_jax.predict.camera import Lens, check_lens

    lens = Lens(**{name: flag.value for name, flag in _LENS.items()})
    check_lens(lens)
    if _MIN_SCORE.value is not None and not 0 <= _MIN_SCORE.value <= 1:
        raise ValueError(f"--min_score={_MIN_SCORE.value:g} must be from 0 to 1")
    if not math.isfinite(_FPS.value):
        raise ValueError(f"--fps={_FPS.value} must be a number of frames a second")
    formats = exporting.parse(_EXPORT.value)
    shard = shards.parse(_SHARD.value)
    paths, failures, notes = files.collect(argv[1:], as_films=_FPS.value > 0)
    for text in [*notes, *failures]:
        print(f"loco_jax: {files.printable(text)}", file=sys.stderr)
    if paths:
        output = files.make_folder(_OUTPUT.value)
        cli.start_jax()
        from loco_jax.predict import everything, people, results

        inputs, record = everything.inputs_of(paths, output), None
        if shard:  # before long work
            record, inputs = everything.record_of(shard, inputs, output, failures)
        with record or contextlib.nullcontext():
            predictor = people.load(_WEIGHTS.value, _MIN_SCORE.value).predictor
            print(f"Using {predictor.description}", flush=True)
            options = results.Options(lens, _SMOOTH.value == "on", _FPS.value)
            resume, quiet = _RESUME.value, _QUIET.value
            failures += everything.process_all(inputs, output, predictor, options, resume, quiet, formats, record)
    return 1 if failures else 0


def command() -> None:
    """The command `loco-predict`."""
    cli.start(main, FLAGS)


if __name__ == "__main__":
    command()
