"""People in a film: found frame by frame, then followed and smoothed, then drawn."""

import contextlib
import itertools
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from loco_jax.cli import progress
from loco_jax.cli.disk import whole
from loco_jax.media import canvas as canvases
from loco_jax.media import films, overlays, videos
from loco_jax.media.films import Film, Frame
from loco_jax.media.overlays import Person
from loco_jax.pose import smoothing, tracking
from loco_jax.pose.tracking import Sighting, Tracked
from loco_jax.predict import ahead, page, results
from loco_jax.predict.files import in_a_line, printable
from loco_jax.predict.people import View, find_all, to_people, view_of
from loco_jax.predict.predictor import Predictor
from loco_jax.predict.results import Done, Options

_IDS = "ids are tracks, by where people are and move; two people who meet may swap ids"
_BRIDGED = "; a person of score 0 was not found in this frame: the track goes on before and after it"
_MOST_NOTES = 5
_THREADS = min(4, os.cpu_count() or 1)  # that draw


class _Seen(NamedTuple):
    """The people of a film's frames, as far as they were found.

    Attributes:
      frames: those of each frame.
      photos: small pictures for the page.
      failure: what stopped the search, or None.
      notes: lines about damaged frames.
    """

    frames: list[Tracked]
    photos: page.Pictures
    failure: BaseException | None
    notes: list[str]


def process(path: pathlib.Path, base: str, predictor: Predictor, options: Options, quiet: bool) -> Done:
    """Finds the people in a video or in a folder of pictures, and writes JSON, page and overlay.

    If an error or Ctrl-C stops it after some frames, these frames' results are written. Raises ValueError or OSError if
    there are none, and KeyboardInterrupt after Ctrl-C.
    """
    film = films.of_pictures(path, options.fps) if path.is_dir() else films.of_video(path)
    name = printable(path.resolve().name)[-30:]
    with warnings.catch_warnings(), contextlib.closing(film.read()) as some:
        warnings.simplefilter("ignore", videos.DamageWarning)  # it comes again below
        _, image, _ = next(some)
    view = view_of(image.shape[:2], options.lens, film.focal, predictor, film.pixel_aspect)
    seen = _find(film, view, predictor, name, quiet)
    if not seen.frames:
        assert seen.failure
        raise seen.failure
    frames, failure, before = seen.frames, seen.failure, f"the {len(seen.frames)} frames before that were done"
    if isinstance(failure, KeyboardInterrupt):
        tqdm.write(f"{printable(path)}: writing {len(frames)} frames; Ctrl-C again stops that too", sys.stderr)
    if options.smooth:
        try:
            frames = smoothing.smooth(frames)
        except KeyboardInterrupt as error:
            failure, before = failure or error, f"{before}, but not smoothed"
    view = view._replace(warnings=(*view.warnings, *seen.notes))
    about = results.facts(path, view, predictor, options) | {"ids": _IDS + _BRIDGED * options.smooth}
    shown = _write_json(base, about, frames, film.fps, view, complete=failure is None)
    results.write_page(path, base, shown, seen.photos.kept, view, predictor)
    try:
        _write_overlay(base, film, view, frames, name, quiet)
    except results.ERRORS as error:
        failure, before = failure or error, "JSON and page are written, the overlay is not"
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{path}: stopped; JSON and page are written, the overlay is not") from error
    if isinstance(failure, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{path}: stopped; {before}") from failure
    failed = "" if failure is None else f"{in_a_line(path, failure)} ({before})"
    people = sum(int((frame.scores > 0).any(axis=1).sum()) for frame in frames)
    tracks = len({number for frame in frames for number in frame.ids.tolist()})
    return Done(people, len(frames), view.camera_from, view.warnings, tracks, failed)


def _find(film: Film, view: View, predictor: Predictor, name: str, quiet: bool) -> _Seen:
    """Finds and follows people, while a thread reads the next frames."""
    seen = _Seen([], page.Pictures(), None, [])
    tracker, people = tracking.Tracker(), 0

    def prepared() -> Iterator[tuple[Frame, UInt8[np.ndarray, "h w 3"]]]:
        for number, image, time in film.read():
            if image.shape[:2] != view.size:  # as in recorded calls
                raise ValueError(f"frame {number} (counted from 0) has another size; cut the video there")
            yield (number, image, time), canvases.fill(view.canvas, image)

    def look(group: list[tuple[Frame, np.ndarray]]) -> list[tuple[Frame, np.ndarray, np.ndarray]]:
        found = find_all([canvas for _, canvas in group], [view] * len(group), predictor)
        return [(frame, *each) for (frame, _), each in zip(group, found)]

    failure: BaseException | None = None
    with (
        warnings.catch_warnings(record=True) as caught,
        progress.bar(film.frames or None, " frames", quiet, desc=name, leave=False) as bar,
    ):
        warnings.simplefilter("always", videos.DamageWarning)
        try:
            groups = ahead.groups(ahead.items(prepared(), most=1 + predictor.batch), predictor.batch)
            for group in ahead.calls(look, groups, predictor.threads, most=1 + predictor.threads):
                for (number, image, time), joints, scores in group:
                    sighting = Sighting(time, joints, scores)
                    seen.frames.append(Tracked(*sighting, tracker.update(sighting)))
                    seen.photos.add(number, image)
                    people += len(joints)
                bar.set_postfix_str(f"{people} people", refresh=False)
                bar.update(len(group))
        except (*results.ERRORS, KeyboardInterrupt) as error:
            failure = error
    notes = [str(w.message) for w in caught if issubclass(w.category, videos.DamageWarning)]
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"{len(notes) - _MOST_NOTES} more warnings like these"]
    return seen._replace(failure=failure, notes=notes)


def _people(frame: Tracked, view: View) -> list[Person]:
    return to_people(frame.joints, frame.scores, view.camera, frame.ids.tolist())


def _write_json(
    base: str, about: dict[str, Any], frames: list[Tracked], fps: float, view: View, complete: bool
) -> page.Frames:
    """A line for each frame, so that the file can be read line by line. Returns the frames for the page."""
    shown, last = page.Frames(), frames[-1].time
    fps = round((len(frames) - 1) / last, 4) if last else fps
    with whole(f"{base}.json") as part, part.open("w", encoding="utf-8") as file:
        file.write(results.to_json(about)[:-1] + ', "frames": [\n')
        for number, frame in enumerate(frames):
            people = _people(frame, view)
            shown.add(number, people, frame.time)
            line = {"frame": number, "time": round(frame.time, 4), "people": [results.as_json(p) for p in people]}
            file.write("," * bool(number) + results.to_json(line) + "\n")
        end = {"fps": fps, "warnings": view.warnings, "complete": complete}
        file.write("], " + results.to_json(end)[1:] + "\n")
    return shown


def _write_overlay(base: str, film: Film, view: View, frames: list[Tracked], name: str, quiet: bool) -> None:
    """Draws people into the frames, which are read once more, because tracks are smooth only when all are known."""

    def draw(item: tuple[Frame, Tracked]) -> tuple[UInt8[np.ndarray, "drawn_H drawn_W 3"], float]:
        (_, image, time), frame = item
        return overlays.draw(image, _people(frame, view)), time

    size = overlays.drawn_size(view.size)
    with (
        warnings.catch_warnings(),
        videos.Writer(f"{base}_overlay.mp4", film.fps, size, pixel_aspect=film.pixel_aspect) as writer,
        progress.bar(len(frames), " frames", quiet, desc=f"{name}: overlay", leave=False) as bar,
    ):
        warnings.simplefilter("ignore", videos.DamageWarning)  # the user knows
        pairs = zip(itertools.islice(film.read(), len(frames)), frames)
        for image, time in ahead.calls(draw, pairs, threads=_THREADS, most=2 * _THREADS):
            writer.write(image, time)
            bar.update()
