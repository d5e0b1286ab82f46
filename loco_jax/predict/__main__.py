"""usage: python -m loco_jax.predict INPUT [INPUT ...] [--output=FOLDER] [--weights=RUN_OR_FILE] [--fov=DEGREES]

Finds the people in pictures, in folders of pictures, and in videos. For every input NAME it writes NAME.json,
NAME_overlay.jpg (or .mp4), and NAME_3d.html, a page to look at from all sides. Coordinates are in metres from the
camera (x right, y down, z ahead) and in pixels from the picture's top left corner.

Without --fx, --fy and --fov the focal length comes from EXIF; if there is none, the field of view of the training
pictures is assumed. Distances are as accurate as the focal length. The camera options apply to all inputs.
"""

import sys
from collections.abc import Sequence

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
_QUIET = flags.DEFINE_bool("quiet", False, "Show no progress.", flag_values=FLAGS)
_LENS = {
    name: flags.DEFINE_float(name, None, text, flag_values=FLAGS)
    for name, text in {
        "fx": "Focal length in pixels of your picture; --fy is the same if absent.",
        "fy": "Vertical focal length, if pixels are not square.",
        "cx": "Pixels from the left edge to the optical axis; the middle if absent.",
        "cy": "Pixels from the top edge to the optical axis; the middle if absent.",
        "fov": "Horizontal field of view in degrees, from edge to edge, instead of --fx and --fy.",
    }.items()
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, without the program's name.

    Returns the exit status: 0, 1 if anything failed, 2 if no input is named, 130 after Ctrl-C or SIGTERM.
    """
    return cli.run(_main, sys.argv if argv is None else ["loco_jax.predict", *argv], FLAGS)


def _main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise app.UsageError("name a picture, a folder, or a video")
    from loco_jax.predict import files  # heavy imports come after the flags, so that --help answers at once
    from loco_jax.predict.camera import Lens, check_lens

    lens = Lens(**{name: flag.value for name, flag in _LENS.items()})
    check_lens(lens)
    if _MIN_SCORE.value is not None and not 0 <= _MIN_SCORE.value <= 1:
        raise ValueError(f"--min_score={_MIN_SCORE.value:g} must be from 0 to 1")
    paths, failures, notes = files.collect(argv[1:])
    for text in [*notes, *failures]:
        print(f"loco_jax: {files.printable(text)}", file=sys.stderr)
    if paths:
        output = files.make_folder(_OUTPUT.value)
        cli.start_jax()
        from loco_jax.predict import people, results

        predictor = people.load(_WEIGHTS.value, _MIN_SCORE.value).predictor
        print(f"Using {predictor.description}", flush=True)
        failures += results.process_all(paths, output, lens, predictor, _QUIET.value)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
