"""JTA (Joint Track Auto) as a TFDS data set: JTA's annotation files in, ArrayRecord out, no TensorFlow.

    python -m loco_jax.data.jta --jta_dir=JTA --data_dir=DATA

reads `JTA/annotations/{train,val,test}/seq_N.json` and writes `DATA/jta/poses/1.0.0`. With `--pictures` it also reads
`JTA/frames/{train,val,test}/seq_N/F.jpg` (F from 1; other pictures of 8 bits such as F.png work too), or
`JTA/videos/{train,val,test}/seq_N.mp4` for a sequence without such a folder, and writes `DATA/jta/frames/1.0.0`.

The intrinsics are JTA's, unless `JTA/camera.json` (`{"fx": ..., "fy": ..., "cx": ..., "cy": ...}`, in pixels) or the
flags --fx --fy --cx --cy give others. That file may also have `"num_frames"`, the frames of a miniature's sequences, at
most 900.

Full-HD pictures of all of JTA need about 80 GB of disk, and with `--overwrite` the old ones stay until the new ones are
complete.
"""

import importlib
from typing import Any

_MODULES = {
    "annotations": ("AnnotationError", "FIELDS", "MAX_PEOPLE", "SPLITS", "VERSION", "find_sequences", "read_sequence"),
    "camera_file": ("read_camera", "read_num_frames"),
    "pictures": ("collect_pictures",),
    "prepared": ("load", "name_of", "prepare"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, so that `python -m loco_jax.data.jta --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
