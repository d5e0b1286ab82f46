"""usage: python -m loco_jax.convert RESULTS.json [...] --export=c3d,trc,bvh,gltf,csv [--output=FOLDER]

Writes the people of saved results of predict as files that other software reads: NAME.c3d, NAME.trc, NAME.glb and
NAME.csv with everybody, and NAME_p3.bvh for each person. See docs/predict.md for their axes and units.
"""

import collections
import os
import pathlib
import sys

from absl import app, flags

from loco_jax import cli

FLAGS = flags.FlagValues()
_EXPORT = flags.DEFINE_string("export", "", "Some of c3d, trc, bvh, gltf and csv, with commas.", flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The folder for the files; by default that of each JSON. Earlier files of ours are replaced.",
    flag_values=FLAGS,
)  # fmt: skip


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise app.UsageError("name a JSON file that predict wrote")
    if not _EXPORT.value.strip(", "):
        raise app.UsageError("--export= is missing; name one or more formats")
    from loco_jax.motion import names  # heavy imports come after the flags, so that --help answers at once
    from loco_jax.predict import exporting, files

    formats = exporting.parse(_EXPORT.value)
    output = None if _OUTPUT.value is None else files.make_folder(_OUTPUT.value)
    named = [pathlib.Path(text).expanduser() for text in argv[1:]]
    paths = list({os.path.realpath(path): path for path in reversed(named)}.values())[::-1]
    bases = [os.path.join(output or path.parent, path.stem) for path in paths]
    taken = collections.Counter(base.lower() for base in bases)  # some file systems ignore case
    old: dict[str, list[str]] = {}
    for folder in {os.path.dirname(base) for base in bases}:
        old |= names.earlier(folder, formats)
    failed = False
    for path, base in zip(paths, bases):
        try:
            if taken[base.lower()] > 1:
                raise ValueError(f"another input has the name {path.stem} too; convert it into another --output")
            print(exporting.export(path, base, formats, old.get(base, ())), flush=True)
        except (ValueError, OSError) as error:
            failed = True
            print(f"loco_jax: {files.in_a_line(path, error)}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    cli.start(main, FLAGS)
