"""People in a film: found frame by frame, then followed and smoothed, then drawn."""

import contextlib
import itertools
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from loco_jax.cli import progress
from loco_jax.media import canvas as canvases
from loco_jax.media import films, overlays, videos
from loco_jax.media.films import Film, Frame
from loco_jax.media.overlays import Person
from loco_jax.pose import smoothing, tracking
from loco_jax.pose.tracking import Sighting
from loco_jax.predict import ahead, page, results
from loco_jax.predict.files import printable
from loco_jax.predict.people import View, find_all, to_people, view_of
from loco_jax.predict.predictor import Predictor
from loco_jax.predict.results import Done, Options

_IDS = "ids are tracks, by where people are and move; two people who meet may swap ids"
_BRIDGED = "; a person of score 0 was not found in this frame: the track goes on before and after it"
_THREADS = min(4, os.cpu_count() or 1)  # that draw


class _Seen(NamedTuple):
    """The people of a film's frames, as far as they were found.

    Attributes:
      frames: those of each frame.
      photos: small pictures for the page.
      failure: what stopped the search, or None.
      notes: lines about damaged frames.
    """

    frames: list[Sighting]
    photos: page.Pictures
    failure: BaseException | None
    notes: list[str]


def process(path: pathlib.Path, base: str, predictor: Predictor, options: Options, quiet: bool) -> Done:
    """Finds the people in a video or in a folder of pictures, and writes JSON, page and overlay.

    If an error or Ctrl-C stops it after some frames, these frames' results are written. Raises ValueError or OSError if
    there are none, and KeyboardInterrupt after Ctrl-C.
    """
    film = films.of_pictures(path, options.fps) if path.is_dir() else films.of_video(path)
    name = printable(path.name)[-30:]
    with warnings.catch_warnings(), contextlib.closing(film.read()) as some:
        warnings.simplefilter("ignore", videos.DamageWarning)  # it comes again below
        _, image, _ = next(some)
    view = view_of(image.shape[:2], options.lens, film.focal, predictor, film.pixel_aspect)
    seen = _find(film, view, predictor, name, quiet)
    if not seen.frames:
        assert seen.failure
        raise seen.failure
    view = view._replace(warnings=(*view.warnings, *seen.notes))
    tracked = tracking.follow(seen.frames)
    if options.smooth:
        tracked = smoothing.smooth(tracked)
    people = [to_people(frame.joints, frame.scores, view.camera, frame.ids.tolist()) for frame in tracked]
    times = [frame.time for frame in tracked]
    about = results.facts(path, view, predictor, options) | {"ids": _IDS + _BRIDGED * options.smooth}
    _write_json(base, about, people, times, film.fps, view.warnings, complete=seen.failure is None)
    shown = page.Frames()
    for number, (now, time) in enumerate(zip(people, times)):
        shown.add(number, now, time)
    results.write_page(path, base, shown, seen.photos.kept, view, predictor)
    _write_overlay(base, film, view, people, name, quiet)
    before = f"the {len(people)} frames before that were done"
    if isinstance(seen.failure, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{path}: stopped; {before}") from seen.failure
    failed = "" if seen.failure is None else f"{results.in_a_line(path, seen.failure)} ({before})"
    tracks = len({person.id for now in people for person in now})
    return Done(sum(map(len, people)), len(people), view.camera_from, view.warnings, tracks, failed)


def _find(film: Film, view: View, predictor: Predictor, name: str, quiet: bool) -> _Seen:
    """Finds people, while a thread reads the next frames."""
    seen = _Seen([], page.Pictures(), None, [])

    def look(group: list[tuple[Frame, np.ndarray]]) -> list[tuple[Frame, np.ndarray, np.ndarray]]:
        canvas = [image for _, image in group]
        found = find_all(canvas, [view] * len(group), predictor)
        return [(frame, *each) for (frame, _), each in zip(group, found)]

    def prepared() -> Iterator[tuple[Frame, UInt8[np.ndarray, "h w 3"]]]:
        for number, image, time in film.read():
            if image.shape[:2] != view.size:  # as in recorded calls
                raise ValueError(f"frame {number} (counted from 0) has another size; cut the video there")
            yield (number, image, time), canvases.fill(view.canvas, image)

    failure: BaseException | None = None
    found = 0
    with (
        warnings.catch_warnings(record=True) as caught,
        progress.bar(film.frames or None, " frames", quiet, desc=name, leave=False) as bar,
    ):
        warnings.simplefilter("always", videos.DamageWarning)
        try:
            groups = ahead.groups(ahead.items(prepared(), most=2 * predictor.batch), predictor.batch)
            for group in ahead.calls(look, groups, predictor.threads, most=2 * predictor.threads):
                for (number, image, time), joints, scores in group:
                    seen.frames.append(Sighting(time, joints, scores))
                    seen.photos.add(number, image)
                    found += len(joints)
                bar.set_postfix_str(f"{found} people", refresh=False)
                bar.update(len(group))
        except (ValueError, RuntimeError, KeyboardInterrupt) as error:  # JAX raises RuntimeError without memory
            failure = error
    notes = [str(w.message) for w in caught if issubclass(w.category, videos.DamageWarning)]
    return seen._replace(failure=failure, notes=notes)


def _write_json(
    base: str,
    about: dict[str, Any],
    people: list[list[Person]],
    times: list[float],
    fps: float,
    notes: tuple[str, ...],
    complete: bool,
) -> None:
    """A line for each frame, so that the file can be read line by line."""
    fps = round((len(times) - 1) / times[-1], 4) if times[-1] else fps
    with results.whole(f"{base}.json") as part, part.open("w", encoding="utf-8") as file:
        file.write(results.to_json(about)[:-1] + ', "frames": [\n')
        for number, (now, time) in enumerate(zip(people, times)):
            line = {"frame": number, "time": round(time, 4), "people": [results.as_json(p) for p in now]}
            file.write("," * bool(number) + results.to_json(line) + "\n")
        end = {"fps": fps, "warnings": notes, "complete": complete}
        file.write("], " + results.to_json(end)[1:] + "\n")


def _write_overlay(base: str, film: Film, view: View, people: list[list[Person]], name: str, quiet: bool) -> None:
    """Draws people into the frames, which are read once more, because tracks are smooth only when all are known."""

    def draw(item: tuple[Frame, list[Person]]) -> tuple[UInt8[np.ndarray, "drawn_H drawn_W 3"], float]:
        (_, image, time), now = item
        return overlays.draw(image, now), time

    size = overlays.drawn_size(view.size)
    with (
        warnings.catch_warnings(),
        videos.Writer(f"{base}_overlay.mp4", film.fps, size, pixel_aspect=film.pixel_aspect) as writer,
        progress.bar(len(people), " frames", quiet, desc=f"{name}: overlay", leave=False) as bar,
    ):
        warnings.simplefilter("ignore", videos.DamageWarning)  # the user knows
        frames = zip(itertools.islice(film.read(), len(people)), people)
        for image, time in ahead.calls(draw, frames, threads=_THREADS, most=2 * _THREADS):
            writer.write(image, time)
            bar.update()
