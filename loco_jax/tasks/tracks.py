"""Scoring of tracks: people are found in each picture of a sequence, followed, smoothed, and compared with the truth.

True poses without identities are followed too: no system can be expected to score higher with this tracker.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from loco_jax.data.frames import Frames, Instant
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.volume import Volume
from loco_jax.pose import smoothing, track_metrics, tracking
from loco_jax.pose.track_metrics import Counts, Identified
from loco_jax.pose.tracking import Sighting, Tracked
from loco_jax.tasks.people import PeopleTask, targets

TRUE_POSES = "true poses"


class Record(NamedTuple):
    """One sequence's results.

    Attributes:
      frames: their number.
      seconds: from the first frame to the last.
      counts: by the system's name.
    """

    frames: int
    seconds: float
    counts: dict[str, Counts]


def measure(
    task: PeopleTask,
    params: Any,
    volume: Volume,
    sequences: Iterable[Iterable[Instant]],
    done: Callable[[], Any] = lambda: None,
) -> list[Record]:
    """A record for each sequence, whose frames have pictures. `done` is called after each frame.

    Only people in view of the volume count as true, with their joints in view. The people found are those whom
    `predict` names. Their tracks are scored once more after smoothing.
    """
    look = functools.partial(jax.jit(functools.partial(_look, task, volume)), params)
    name = f"{task.name}{'+' * bool(task.refiner_weights)}"
    return [_measure(look, name, instants, done) for instants in sequences]


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The scores of all sequences together, as JSON: by system those of `track_metrics.summarise`."""
    steps, seconds = sum(r.frames - 1 for r in records), sum(r.seconds for r in records)
    return {
        "sequences": len(records),
        "frames": sum(r.frames for r in records),
        "fps": round(steps / seconds, 3) if seconds else None,
        "systems": {name: track_metrics.summarise([r.counts[name] for r in records]) for name in records[0].counts},
    }


def _look(
    task: PeopleTask, volume: Volume, params: Any, frame: Frames
) -> tuple[Float[Array, "N 14 3"], Float[Array, "N 14"], Bool[Array, "P 14"]]:
    """The joints and scores of the people who are named in a picture, and which true joints are in view."""
    assert frame.image is not None
    found = task.named_people(params, frame.image, frame.camera)
    return found.joints, found.scores, targets(frame, volume)[1]


def _measure(
    look: Callable[[Frames], Any],
    name: str,
    instants: Iterable[Instant],
    done: Callable[[], Any],
) -> Record:
    times, true, found, known, annotated = [], [], [], [], []
    for instant in instants:
        joints, scores, in_view = jax.device_get(look(instant.frame))
        times.append(instant.time)
        found.append(_sighting(instant.time, joints, scores, (joints != 0).any(axis=-1) & (scores[:, :1] > 0)))
        known.append(_sighting(instant.time, np.asarray(instant.frame.joints), in_view.astype(np.float32), in_view))
        true.append(Identified(instant.ids[in_view.any(axis=1)], known[-1].joints))
        origin = instant.frame.origin
        annotated.append(np.ones(joints.shape[1], bool) if origin is None else np.asarray(origin.annotated))
        done()
    followed = tracking.follow(found)
    tracks = {name: followed, f"{name}, smoothed": smoothing.smooth(followed), TRUE_POSES: tracking.follow(known)}
    counts = {
        system: track_metrics.compare(true, _identified(tracked, annotated)) for system, tracked in tracks.items()
    }
    return Record(len(times), times[-1] - times[0], counts)


def _sighting(time: float, joints: np.ndarray, scores: np.ndarray, known: np.ndarray) -> Sighting:
    """The people with a known joint."""
    there = known.any(axis=1)
    places = np.where(known[..., None], joints, np.nan).astype(np.float64)
    return Sighting(time, places[there], scores[there].astype(np.float64))


def _identified(frames: Sequence[Tracked], annotated: Sequence[Bool[np.ndarray, " 14"]]) -> list[Identified]:
    """People with their ids. Joints that the data set lacks are left out, because nothing says how they should move."""
    joints = [np.where(there[:, None], frame.joints, np.nan) for frame, there in zip(frames, annotated)]
    return [Identified(np.asarray(frame.ids), xyz) for frame, xyz in zip(frames, joints)]
