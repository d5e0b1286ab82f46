"""All inputs of a command: pictures are read, looked at and written at the same time, and films come one by one."""

import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from loco_jax.cli import progress
from loco_jax.media import canvas as canvases
from loco_jax.media import pictures
from loco_jax.media.pictures import Picture
from loco_jax.motion import names
from loco_jax.predict import ahead, exporting, files, film, results, shards
from loco_jax.predict.files import in_a_line, printable
from loco_jax.predict.people import People, View, find_all, to_people, view_of
from loco_jax.predict.predictor import Predictor
from loco_jax.predict.results import ERRORS, Done, Options

_WRITERS = min(4, os.cpu_count() or 1)  # threads


class Input(NamedTuple):
    """A file or folder, and the beginning of the paths of its results."""

    path: pathlib.Path
    base: str


class _Ready(NamedTuple):
    """A picture that the network can look at."""

    input: Input
    picture: Picture
    view: View
    canvas: UInt8[np.ndarray, "h w 3"]


class _Failed(NamedTuple):
    input: Input
    error: BaseException


class _Looked(NamedTuple):
    input: Input
    people: People


def inputs_of(paths: Sequence[pathlib.Path], output: os.PathLike | str) -> list[Input]:
    """Inputs, with the names of their results in `output`."""
    return [Input(p, os.path.join(output, n)) for p, n in zip(paths, files.name_outputs(paths, output))]


def record_of(
    shard: shards.Shard, inputs: Sequence[Input], output: pathlib.Path, failures: Sequence[str]
) -> tuple[shards.Record, list[Input]]:
    """Begins a shard's record, and gives the shard's inputs. Errors are those of `shards.Record`."""
    ordered = shards.order(inputs)
    return shards.Record(shard, ordered, output, failures), shard.of(ordered)


def process_all(
    inputs: Sequence[Input],
    output: pathlib.Path,
    predictor: Predictor,
    options: Options,
    resume: bool = False,
    quiet: bool = False,
    export: Sequence[str] = (),
    record: shards.Record | None = None,
) -> list[str]:
    """Processes all inputs and prints the result of each. One that fails does not stop the others. Returns errors.

    Args:
      inputs: pictures, videos, and folders whose pictures are a film.
      output: an existing folder for the results.
      resume: leave out inputs that are done, see `results.are_done`.
      quiet: show no progress.
      export: formats of `loco_jax.motion` in which the people are written too, also of inputs that are done.
      record: of the shard that these inputs belong to.
    """
    if record:
        print(record, flush=True)
    old = names.earlier(output, export)  # once, since folders may be large
    kept, refused = _without_others(inputs, old)
    failures = list(refused.values())
    done = [resume and results.are_done(*each, predictor, options) for each in kept]
    if any(done):
        print(f"{sum(done)} of {len(kept)} inputs are done already", flush=True)
    if record:
        record.begin(itertools.compress(kept, done), refused.items())
    for each in itertools.compress(kept, done):
        if failure := _export(each, export, old):
            failures.append(failure)
            if record:
                record.fail(each, failure)
    inputs = [each for each, is_done in zip(kept, done) if not is_done]
    people = 0
    with progress.bar(len(inputs), " files", quiet or len(inputs) < 2, leave=False) as bar:
        for each, outcome in outcomes(inputs, predictor, options, quiet):
            failure = ""
            if isinstance(outcome, Done):
                people += outcome.people
                lines = [*outcome.warnings, outcome.failure]
                failures += [outcome.failure] if outcome.failure else []
            else:
                failures.append(in_a_line(each.path, outcome))
                lines = [failures[-1]]
            for line in filter(None, lines):
                tqdm.write(f"loco_jax: {in_a_line(each.path, line)}", file=sys.stderr)
            if isinstance(outcome, Done):
                tqdm.write(_summary(each, outcome), file=sys.stdout)
                sys.stdout.flush()
                if failure := _export(each, export, old):
                    failures.append(failure)
            if record:
                record.add(each, outcome, failure)
            bar.set_postfix_str(f"{people} people", refresh=False)
            bar.update()
    if record:
        record.end()
    return failures


def _without_others(inputs: Sequence[Input], old: Mapping[str, Sequence[str]]) -> tuple[list[Input], dict[Input, str]]:
    """The inputs whose exports replace no foreign files, and the errors of the other inputs, which are printed."""
    kept, refused = [], {}
    for each in inputs:
        try:
            names.refuse_others(old.get(each.base, ()))
            kept.append(each)
        except ValueError as error:
            refused[each] = in_a_line(each.path, error)
            print(f"loco_jax: {refused[each]}", file=sys.stderr)
    return kept, refused


def _export(each: Input, formats: Sequence[str], old: Mapping[str, Sequence[str]]) -> str:
    """Writes the people of a result in these formats, says which files, and returns an error or nothing."""
    if not formats:
        return ""
    try:
        tqdm.write(exporting.export(f"{each.base}.json", each.base, formats, old.get(each.base, ())), file=sys.stdout)
        sys.stdout.flush()
        return ""
    except ERRORS as error:
        failure = in_a_line(each.path, error)
        tqdm.write(f"loco_jax: {failure}", file=sys.stderr)
        return failure


def outcomes(
    inputs: Iterable[Input], predictor: Predictor, options: Options, quiet: bool = True
) -> Iterator[tuple[Input, Done | BaseException]]:
    """Writes the results of each input, and yields in order the outcome: `Done`, or the error of that input."""
    for are_films, some in itertools.groupby(inputs, lambda each: files.is_film(each.path)):
        if not are_films:
            yield from _pictures(some, predictor, options)
            continue
        for each in some:
            try:
                yield each, film.process(*each, predictor, options, quiet)
            except ERRORS as error:
                yield each, error


def _pictures(
    inputs: Iterable[Input], predictor: Predictor, options: Options
) -> Iterator[tuple[Input, Done | BaseException]]:
    """Some threads read the next pictures, some look at pictures with the network, and some write results."""

    def read(each: Input) -> _Ready | _Failed:
        try:
            picture = pictures.read(each.path)
            view = view_of(picture.size, options.lens, picture.focal, predictor)
            view = view._replace(warnings=picture.warnings + view.warnings)
            return _Ready(each, picture, view, canvases.fill(view.canvas, picture.image))
        except ERRORS as error:
            return _Failed(each, error)

    def look(group: list[_Ready | _Failed]) -> list[_Looked | _Failed]:
        ready = [each for each in group if isinstance(each, _Ready)]
        if not ready:
            return [each for each in group if isinstance(each, _Failed)]
        views = [each.view for each in ready]
        try:
            found = find_all([each.canvas for each in ready], views, predictor)
        except ERRORS as error:
            if len(ready) > 1:  # the memory may suffice for one by one
                return [looked for each in ready for looked in look([each])]
            return [_Failed(ready[0].input, error)]
        people = [to_people(*each, view.camera) for each, view in zip(found, views)]
        return [_Looked(each.input, People(some, each.picture.image, each.view)) for each, some in zip(ready, people)]

    def write(each: _Looked | _Failed) -> tuple[Input, Done | BaseException]:
        if isinstance(each, _Failed):
            return each
        try:
            return each.input, results.write_picture(*each.input, each.people, predictor, options)
        except ERRORS as error:
            return each.input, error

    readable = ahead.calls(read, inputs, most=1 + predictor.batch)
    groups = ahead.groups(readable, predictor.batch, _kind)
    looked = ahead.calls(look, groups, predictor.threads, most=1 + predictor.threads)
    each_looked = itertools.chain.from_iterable(looked)
    yield from ahead.calls(write, each_looked, threads=_WRITERS, most=_WRITERS)


def _kind(each: _Ready | _Failed) -> tuple[int, ...] | None:
    """Pictures of the same kind are looked at together."""
    return each.canvas.shape if isinstance(each, _Ready) else None


def _summary(each: Input, done: Done) -> str:
    people = "no people" if not done.people else "1 person" if done.people == 1 else f"{done.people} people"
    if done.tracks is not None:
        frames, tracks = (f"{n} {name}{'s' * (n != 1)}" for n, name in ((done.frames, "frame"), (done.tracks, "track")))
        people = f"{frames}, {done.people / done.frames:.1f} people in each, {tracks}"
    name = os.path.basename(each.base)
    ending = ".jpg" if done.tracks is None else ".mp4"
    written = f"  {printable(each.base)}.json, {name}_overlay{ending}, {name}_3d.html"
    return f"{printable(each.path)}: {people} (camera {done.camera_from})\n{written}"
