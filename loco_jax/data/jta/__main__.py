"""The command `python -m loco_jax.data.jta`, which prepares JTA for training."""

import os
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from loco_jax import cli

_CAMERA = ("fx", "fy", "cx", "cy")


def _define_flags() -> None:
    flags.DEFINE_string("jta_dir", None, "Folder with annotations/{train,val,test}/seq_N.json.", required=True)
    room = "Folder for the data set. Pictures of all of JTA need 80 GB; with --overwrite twice as much for a while."
    flags.DEFINE_string("data_dir", None, room, required=True)
    flags.DEFINE_bool("pictures", False, "Prepare pictures too, from JTA's frames/ or videos/.")
    flags.DEFINE_integer("picture_height", 0, "Resize pictures to this height in pixels; 0 leaves them as they are.", 0)
    flags.DEFINE_bool("skip_bad", False, "Leave out sequences with bad annotations or pictures, and report them.")
    flags.DEFINE_bool("overwrite", False, "Replace a data set that was prepared before.")
    flags.DEFINE_integer("max_people", 64, "More people in a frame are an error.", lower_bound=1)
    flags.DEFINE_integer("num_workers", min(os.cpu_count() or 1, 8), "Maximum number of processes.", lower_bound=0)
    options = "Use Apache Beam with these options, such as runner=FlinkRunner,parallelism=8."
    flags.DEFINE_string("beam_options", None, options)
    for field in _CAMERA:
        flags.DEFINE_float(field, None, "Intrinsic in pixels (default: from camera.json of jta_dir, or JTA's).")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    from loco_jax.data import jta  # here, so that --help answers at once

    values = flags.FLAGS
    start = time.time()
    given: dict[str, Any] = {field: values[field].value for field in _CAMERA if values[field].value is not None}
    camera = jta.read_camera_file(values.jta_dir)[0]._replace(**given)
    names = ("max_people", "skip_bad", "overwrite", "num_workers", "pictures", "picture_height", "beam_options")
    options: dict[str, Any] = {name: values[name].value for name in names}
    prepared = jta.prepare(values.jta_dir, values.data_dir, camera=camera, **options)
    done = "Already prepared" if prepared.reused else f"Prepared in {time.time() - start:.1f} s"
    print(f"{done}: {prepared.folder}")
    print("camera:", ", ".join(f"{field} {value:g}" for field, value in prepared.camera._asdict().items()))
    if prepared.picture_size:
        print("pictures: {} pixels high, {} wide".format(*prepared.picture_size))
    columns = ("sequences", "frames", "people", "joints")
    print(f"{'split':12}", *(f"{column:>11}" for column in columns))
    for split, counts in prepared.splits.items():
        print(f"{split:12}", *(f"{counts[column]:11,}" for column in columns))
    if prepared.left_out:
        print(f"Left out {len(prepared.left_out)} bad file(s):", *prepared.left_out, sep="\n  ")
    if prepared.reused:
        print("Prepare it again with --overwrite.")


if __name__ == "__main__":
    _define_flags()
    cli.start(main)
