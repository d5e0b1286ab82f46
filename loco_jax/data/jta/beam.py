"""The TFDS builder of JTA as a Beam pipeline, for engines such as Dataflow, Flink and Spark.

Workers read each sequence twice, once to check it and once to write it, and keep nothing between. So an engine may
repeat any part of the work. All workers need the folders of JTA and of the data set under the same names as here.
"""

import contextlib
import functools
import io
import logging
import os
import pathlib
import pickle
import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam import runners
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from etils import epath

from loco_jax.cli import silence
from loco_jax.data.jta import builder, sequences
from loco_jax.data.jta.annotations import SPLITS, AnnotationError
from loco_jax.data.jta.sequences import Read, Source
from loco_jax.geometry.camera import Camera
from loco_jax.runs import files

_FLAG = "--beam_options"
_ASKING = ("flink", "spark", "portable", "prism")  # these runners accept further options, which only their servers know


def parse(text: str) -> PipelineOptions:
    """Beam's options from a text like `runner=FlinkRunner,parallelism=8`, as TFDS's own command takes them.

    Raises ValueError for a part without a name, an unknown runner or option, and a value that Beam refuses.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not part.partition("=")[0].isidentifier():
            raise ValueError(f"{_FLAG}={text}: {part!r} is not NAME=VALUE, such as runner=DirectRunner,job_name=jta")
    said = io.StringIO()
    try:
        with silence.quiet(logging.WARNING):  # the errors are reported below
            with contextlib.redirect_stderr(said):
                options = PipelineOptions([f"--{part}" for part in parts])
                known = options.get_all_options()
                unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
            name = options.view_as(StandardOptions).runner or "DirectRunner"
            problems = PipelineOptionsValidator(options, runners.create_runner(name)).validate()
    except SystemExit as error:  # argparse exits on errors
        problem = said.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"{_FLAG}={text}: {problem}") from error
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"{_FLAG}={text}: {_line(error)}") from error
    if unknown and "." not in name and not name.lower().startswith(_ASKING):
        problems.append(f"Beam has no option {', '.join(sorted(unknown))}")
    if problems:
        raise ValueError(f"{_FLAG}={text}: {_line('; '.join(problems))}")
    return options


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C or a signal caused an error. Beam raises another error in place of KeyboardInterrupt."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _line(error: BaseException | str) -> str:
    """A message in one line. For a worker's traceback it is the line with the error."""
    text = re.sub(r" \[while running .*?\]", "", str(error))  # names of Beam's steps
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "Error: " in line), " ".join(lines))


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """While entered, Beam logs nothing, because it logs the tracebacks of errors that it also raises."""
    log = logging.getLogger("apache_beam")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _ending_workers() -> Iterator[None]:
    """While entered, signals end the processes that were started meanwhile, because Beam waits for them forever.

    The signals' usual handlers run afterwards. Processes are found on Linux only.
    """
    old: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if threading.current_thread() is not threading.main_thread():
        old = {}
    others = _descendants()

    def end(number: int, frame: Any) -> None:
        for process in _descendants() - others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        old[number](number, frame)

    old = {number: handler for number, handler in old.items() if callable(handler)}
    for number in old:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _descendants() -> set[int]:
    """The processes that this one started, and those that they started."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
    found, new = set(), {os.getpid()}
    while new:
        new = {process for process, parent in parents.items() if parent in new}
        found |= new
    return found


class JtaByBeam(builder.Described, tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds the same data as `builder.Jta`, in the same order. TFDS chooses how many files a split has."""

    name = "jta"  # of the folder, too

    def __init__(self, source: Source, skip_bad: bool, options: PipelineOptions, data_dir: pathlib.Path):
        """`data_dir` also gets the work in progress, which stays there. See `prepare` for the other arguments."""
        self._skip_bad, self._options = skip_bad, options
        super().__init__(source, data_dir)

    def build(self) -> None:
        """Runs the pipelines.

        Raises AnnotationError as `sequences.gather` does, and OSError with a message of one line if an engine fails.
        """
        try:
            with _in_silence(), _ending_workers():
                self.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_options=self._options))
        except AnnotationError:
            raise
        except OSError as error:
            raise OSError(_line(error)) from error
        except Exception as error:  # engines raise anything, with the worker's traceback as text
            if _is_interrupt(error):
                raise KeyboardInterrupt from error
            raise OSError(f"Beam's pipeline failed: {_line(error)}") from error

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        source = self._source
        results = _check_all(source, self._options, pathlib.Path(self.data_dir_root))
        gathered = sequences.gather(source, results, self._skip_bad)
        self.describe(gathered)
        factor = builder.shrinking(source, gathered)
        return {
            split: self._generate_examples(split, list(gathered.read[selection.folder]), factor)
            for split, selection in SPLITS.items()
        }

    def _generate_examples(self, split: str, numbers: Sequence[int], factor: float) -> beam.PTransform:
        read = functools.partial(_examples, split=split, source=self._source, factor=factor)
        return beam.Create(numbers) | beam.Reshuffle() | "Read" >> beam.FlatMap(read)


def _check_all(source: Source, options: PipelineOptions, folder: pathlib.Path) -> list[Read | str]:
    """Checks all sequences by a pipeline that leaves the results in `folder`. They come as `gather` takes them."""
    path = epath.Path(folder) / "results.pickle"
    with beam.Pipeline(options=options) as pipeline:
        numbered = pipeline | beam.Create(list(enumerate(sequences.names_of(source)))) | beam.Reshuffle()
        results = numbered | "Check" >> beam.MapTuple(functools.partial(_checked, source=source))
        packed = results | beam.combiners.ToList() | "Pack" >> beam.Map(pickle.dumps)
        _ = packed | "Keep" >> beam.Map(functools.partial(files.write_bytes, path))
    if not path.exists():
        raise OSError(f"{path}: the workers wrote no results there; they need --data_dir under the same name as here")
    return [result for _, result in sorted(pickle.loads(path.read_bytes()), key=lambda each: each[0])]


def _checked(place: int, name: tuple[str, int], source: Source) -> tuple[int, Read | str]:
    """Reads a sequence for its counts. Its files are gone afterwards."""
    with tempfile.TemporaryDirectory() as work:
        read = sequences.read_to_file(name, work=pathlib.Path(work), source=source)
    return place, read if isinstance(read, str) else read._replace(pictures={})


def _examples(number: int, split: str, source: Source, factor: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples of a sequence. Raises AnnotationError if the sequence changed and is bad now."""
    frames = SPLITS[split].up_to(source.num_frames)
    with tempfile.TemporaryDirectory() as work:
        name = SPLITS[split].folder, number
        read = sequences.read_to_file(name, work=pathlib.Path(work), source=source, some=[split])
        if isinstance(read, str):
            raise AnnotationError(read)
        yield from builder.examples(number, read, frames, Camera(*source.camera.scaled(factor)), factor)
