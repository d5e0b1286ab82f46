"""Prepares JTA with the builder, and loads prepared data."""

import contextlib
import functools
import logging
import os
import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from loco_jax.cli import accounts, disk, silence
from loco_jax.data import scratch
from loco_jax.data.jta import annotations
from loco_jax.data.jta.annotations import MAX_PEOPLE, SPLITS
from loco_jax.data.jta.sequences import Source
from loco_jax.data.lazy import Lazy
from loco_jax.geometry.camera import Camera


class Prepared(NamedTuple):
    """A data set on disk."""

    folder: pathlib.Path
    splits: dict[str, dict[str, int]]  # counts of sequences, frames, people, joints, and most_people in one frame
    camera: Camera  # in pixels
    left_out: list[str]  # what is wrong with each bad file that was skipped
    reused: bool  # whether it existed before
    picture_size: tuple[int, int] | None = None  # height and width; None without pictures


def prepare(
    jta_dir: os.PathLike | str,
    data_dir: os.PathLike | str,
    *,
    camera: Camera | None = None,
    max_people: int = MAX_PEOPLE,
    skip_bad: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    pictures: bool = False,
    picture_height: int = 0,
    beam_options: str | None = None,
) -> Prepared:
    """Turns JTA's files into ArrayRecord files under `data_dir`. Existing data stays until the new data is complete.

    Args:
      jta_dir: holds `annotations/{train,val,test}/seq_N.json`.
      data_dir: created if missing; the data set goes into its `jta/poses`, or with pictures into `jta/frames`.
      camera: intrinsics in pixels; None for those of `read_camera_file`.
      max_people: more people in a frame are an error.
      skip_bad: leave out sequences with bad files instead of refusing all.
      overwrite: replace existing data. Without it, data that was prepared with the same `jta_dir`, camera and
        `picture_height` is reused, and other data is an error.
      num_workers: maximum number of processes that read; with fewer than two, this process reads. Not for Beam.
      pictures: with them, see `collect_pictures`.
      picture_height: resize pictures, and with them the camera, to this height in pixels; 0 leaves them as they are.
      beam_options: options of an Apache Beam pipeline that does the work, see `beam.parse`; None works without Beam.

    Raises AnnotationError with all bad files, FileExistsError if `data_dir` holds other data, OSError if it is not
    writable, and ValueError for a `picture_height` that is negative or without `pictures`. With
    `beam_options` it raises ModuleNotFoundError if Beam is not installed, ValueError for bad options, and OSError if
    the pipeline fails.
    """
    jta_dir, data_dir = (pathlib.Path(folder).expanduser().resolve() for folder in (jta_dir, data_dir))
    if picture_height < 0 or (picture_height and not pictures):
        raise ValueError(f"--picture_height={picture_height} needs --pictures, and must not be negative")
    from loco_jax.data.jta import builder  # here, because TFDS takes seconds to import

    if beam_options is not None:
        beam = _beam()
        options = beam.parse(beam_options)
    of_file, num_frames = annotations.read_camera_file(jta_dir)
    camera = annotations.check_camera(of_file if camera is None else camera)
    files = annotations.find_sequences(jta_dir)
    source = Source(jta_dir, files, camera, num_frames, max_people, pictures, picture_height)
    config = "frames" if pictures else "poses"
    target = _folder(data_dir, config)
    if _is_prepared(target) and not overwrite:
        old = _metadata(target).get("asked", {})
        if "jta_dir" not in old:
            raise FileExistsError(f"{target} was prepared by an earlier version; replace it with --overwrite")
        if differences := [f"{k}={old.get(k)}, not {v}" for k, v in source.asked().items() if old.get(k) != v]:
            remedy = "replace it with --overwrite, or choose another --data_dir"
            raise FileExistsError(f"{target} was prepared with {', '.join(differences)}; {remedy}")
        return _describe(target, reused=True)
    try:
        disk.check_writable(target.parent)  # before the work
    except OSError as error:
        problem = f"cannot be written to ({error.strerror})"
        raise OSError(f"{error.filename}: {problem}; choose another --data_dir") from error
    with scratch.folder(data_dir / f".preparing_{config}") as work, _quiet_tfds():
        if beam_options is None:
            new = builder.Jta(source, skip_bad, num_workers, work)
            new.download_and_prepare()
        else:
            new = beam.JtaByBeam(source, skip_bad, options, work)
            new.build()
        scratch.replace_folder(target, pathlib.Path(new.data_dir), work / "old")
    return _describe(target, reused=False)


def _beam() -> types.ModuleType:
    """The builder for Beam, which most users do not have. Raises ModuleNotFoundError with the remedy."""
    try:
        with silence.quiet(logging.WARNING):  # Beam tells which of its parts are not installed
            from loco_jax.data.jta import beam
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--beam_options needs Beam: pip install 'apache-beam>=2.72,<3' ({error})") from error
    return beam


def load(data_dir: os.PathLike | str, split: str, pictures: bool = False) -> Sequence:
    """The examples of a prepared split as a random access source of NumPy arrays (see `Jta` for the features).

    Args:
      data_dir: as in `prepare`.
      split: a name in `SPLITS`, or a part of one as TFDS writes it, such as `train[:10%]`.
      pictures: load the config `frames`, with `image`, a JPEG file's bytes. Without it, either config is loaded.

    Raises:
      FileNotFoundError: nothing is prepared there; the message has the command that does it.
      ValueError: there is no such split, or no example in it. Reading an example raises it for a damaged file.
    """
    target = _find(data_dir, pictures)
    if split.partition("[")[0] not in SPLITS:
        raise ValueError(f"JTA has no split {split!r}, only {', '.join(SPLITS)} and parts of them such as train[:10%]")
    with _quiet_tfds():
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(target)
        if not builder.info.splits[split].num_examples:
            raise ValueError(f"split {split!r} of {target} has no frame; name a larger part of it")
        decoders = {"image": tfds.decode.SkipDecoding()} if "image" in builder.info.features else None
        source = builder.as_data_source(split, decoders=decoders)
        return Lazy(len(source), functools.partial(_read, source, f"{target}, split {split!r}"))


def frames_a_sequence(data_dir: os.PathLike | str, split: str, pictures: bool = False) -> int:
    """The number of frames that a prepared split has of each sequence. Arguments and errors are those of `load`.

    The examples of `load` are in the order of sequences, and of their frames.
    """
    counts = _metadata(_find(data_dir, pictures))["splits"][split]
    return counts["frames"] // counts["sequences"]


def name_of(data_dir: os.PathLike | str, pictures: bool = False) -> str:
    """The name of the prepared data: "JTA", or that of a miniature. Raises FileNotFoundError as `load` does."""
    return _metadata(_find(data_dir, pictures)).get("name", "JTA")


def _read(source: Any, where: str, index: int) -> dict[str, Any]:
    """An example of a data source. Errors name the data and the remedy."""
    try:
        example = source[index]
        if example["frame"] is None:  # ArrayRecord gives this for a file that was cut off after it was opened
            raise OSError("it is empty")
        return example
    except (RuntimeError, OSError) as error:  # ArrayRecord raises the former for all damage that it finds
        raise ValueError(
            f"{where}: example {index} cannot be read ({error}), because a file is damaged or missing; put it back, or "
            "prepare the data again with --overwrite"
        ) from error


def _folder(data_dir: Any, config: str) -> Any:
    return data_dir / "jta" / config / annotations.VERSION


def _find(data_dir: os.PathLike | str, pictures: bool) -> Any:
    root = epath.Path(data_dir).expanduser()
    targets = [_folder(root, config) for config in (("frames",) if pictures else ("poses", "frames"))]
    for target in targets:
        if _is_prepared(target):
            return target
    command = f"python -m loco_jax.data.jta --jta_dir=JTA --data_dir={data_dir}{' --pictures' * pictures}"
    raise FileNotFoundError(f"no prepared JTA in {targets[0]}; prepare it with\n  {command}")


def _is_prepared(target: Any) -> bool:
    return (target / "dataset_info.json").exists()  # TFDS writes it last


def _metadata(target: Any) -> dict[str, Any]:
    with _quiet_tfds():
        import tensorflow_datasets as tfds

        return dict(tfds.builder_from_directory(target).info.metadata)


def _describe(target: Any, reused: bool) -> Prepared:
    metadata = _metadata(target)
    size = metadata["picture_size"] and tuple(metadata["picture_size"])
    return Prepared(target, metadata["splits"], Camera(**metadata["camera"]), metadata["left_out"], reused, size)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """While entered, TFDS prints and logs nothing, draws no bars, and accepts users without a name."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with silence.quiet(logging.INFO), accounts.stand_ins():
        yield
