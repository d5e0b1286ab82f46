"""A miniature JTA: sequences of the crowd in JTA's format, to try everything that reads JTA.

    python -m loco_jax.data.miniature --output=DIR [--train=8 --validation=2 --test=2] [--scale=demo] [--seed=0]
        [--videos] [--frames] [--num_frames=900]

writes `DIR/annotations/{train,val,test}/seq_N.json`, numbered as JTA's, and `DIR/camera.json`, the intrinsics (and the
number of frames, if it is not JTA's 900), which `loco_jax.data.jta` reads. `--videos` adds
`DIR/videos/{train,val,test}/seq_N.mp4`, `--frames` adds `DIR/frames/{train,val,test}/seq_N/F.jpg`. With either, the
annotations have the occlusion flags, which are all 0 otherwise. `DIR/miniature.json` marks the folder: `--overwrite`
replaces only folders with this mark.
"""

import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from loco_jax import cli

_SEQUENCES = {"train": (8, 256), "validation": (2, 128), "test": (2, 128)}  # by default, and in JTA


def _define_flags() -> None:
    flags.DEFINE_string("output", None, "A new folder for the miniature.", required=True)
    for split, (count, most) in _SEQUENCES.items():
        flags.DEFINE_integer(split, count, f"Number of {split} sequences, at most {most} as in JTA.", 1, most)
    flags.DEFINE_enum("scale", "demo", ["demo", "full"], "The kind of scenes.")
    flags.DEFINE_integer("seed", 0, "Selects other scenes.", lower_bound=0)
    flags.DEFINE_bool("videos", False, "Write videos too, and occlusion flags.")
    flags.DEFINE_bool("frames", False, "Write each frame as a picture too, and occlusion flags.")
    flags.DEFINE_integer("num_frames", 900, "Frames of a sequence, 10 to 900.", 10, 900)
    flags.DEFINE_bool("overwrite", False, "Replace an earlier miniature.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    cli.start_jax()
    from loco_jax.data import crowd as crowds  # here, so that --help answers at once
    from loco_jax.data.jta import writing

    given: dict[str, Any] = flags.FLAGS.flag_values_dict()
    crowd = {"demo": crowds.DEMO, "full": crowds.FULL}[given["scale"]]
    output, sequences = given["output"], {split: given[split] for split in _SEQUENCES}
    start = time.time()
    options = {name: given[name] for name in ("seed", "overwrite", "videos", "frames", "num_frames")}
    writing.write(output, sequences, crowd, **options)
    counts = ", ".join(f"{split} {count}" for split, count in sequences.items())
    pictures = " --pictures" if given["videos"] or given["frames"] else ""
    print(f"Wrote a miniature JTA in {time.time() - start:.1f} s: {output}")
    print(f"{sum(sequences.values())} sequences ({counts}) of {given['num_frames']} frames")
    camera = ", ".join(f"{field} {value:g}" for field, value in crowd.camera._asdict().items())
    print(f"camera: {camera} (in camera.json, which loco_jax.data.jta reads)")
    print(f"Prepare it with\n  python -m loco_jax.data.jta --jta_dir={output} --data_dir=DATA{pictures}")


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
