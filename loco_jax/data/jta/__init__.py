"""JTA (Joint Track Auto) as a TFDS data set: JTA's annotation files in, ArrayRecord out, no TensorFlow.

    python -m loco_jax.data.jta --jta_dir=JTA --data_dir=DATA

reads `JTA/annotations/{train,val,test}/seq_N.json` and writes `DATA/jta/poses/1.0.0`. With `--pictures` it also reads
`JTA/frames/{train,val,test}/seq_N/F.jpg` or `F.png` (F from 1), or `JTA/videos/{train,val,test}/seq_N.mp4` for a
sequence without such a folder, and writes `DATA/jta/frames/1.0.0`.

The intrinsics are JTA's, unless `JTA/camera.json` (`{"fx": ..., "fy": ..., "cx": ..., "cy": ...}`, in pixels) or the
flags --fx --fy --cx --cy give others. That file may also have `"num_frames"`, the frames of a miniature's sequences, at
most 900.

With `--beam_options` an Apache Beam pipeline does the work, see docs/data.md.

Full-HD pictures of all of JTA need about 80 GB of disk, and with `--overwrite` the old ones stay until the new ones are
complete.
"""

from etils import epy

with epy.lazy_api_imports(globals()):  # so that `python -m loco_jax.data.jta --help` answers at once
    from loco_jax.data.jta.annotations import SPLITS, AnnotationError, find_sequences, read_camera_file, read_sequence
    from loco_jax.data.jta.pictures import collect_pictures
    from loco_jax.data.jta.prepared import frames_a_sequence, load, name_of, prepare

__all__ = [
    "SPLITS", "AnnotationError", "collect_pictures", "find_sequences", "frames_a_sequence", "load", "name_of",
    "prepare", "read_camera_file", "read_sequence",
]  # fmt: skip
