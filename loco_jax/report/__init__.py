"""Tables and pictures of what tasks find, and reports that compare runs (`python -m loco_jax.report`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from loco_jax.data.frames import Frames
    from loco_jax.tasks import Task


def table_of(task: str, summary: Mapping[str, Any]) -> str:
    """The summary of an evaluation of a task, the value of `config.task`, as Markdown."""
    from loco_jax.report import tables  # all imports are in functions, so that --help of the command is quick

    return getattr(tables, f"{task}_table")(summary)


def picture(task: "Task", predicted: Any, frames: "Frames", index: int, title: str) -> "Figure":
    """A picture of what a task found in frame `index` of a batch, with `title` in the heading."""
    import jax
    import numpy as np

    from loco_jax.pose import metrics
    from loco_jax.report import drawings
    from loco_jax.tasks.people import PeopleTask
    from loco_jax.tasks.refiner import KINDS, RefinerTask
    from loco_jax.tasks.top_down import TopDownTask
    from loco_jax.tasks.vha import VhaTask

    found, frame = jax.tree.map(lambda x: np.asarray(x[index]), (predicted, frames))
    if isinstance(task, VhaTask):
        rows = metrics.peak_rows(found.peaks.voxels[0], found.peaks.scores[0])
        true_rows = metrics.people_rows(found.true_voxels, found.true_present)
        return drawings.projections(task.volume, true_rows, rows, found.code, title=f"{task.name}, {title}")
    if isinstance(task, PeopleTask):
        found = found.people if isinstance(task, TopDownTask) else found
        name = f"{task.name}+" if f"{task.name}+" in found.people else task.name
        joints, known = found.people[name]
        exist, true = known[:, 0], (frame.joints, found.true_present)
        return drawings.people(frame.image, frame.camera, (joints[exist], known[exist]), true, f"{name}, {title}")
    if isinstance(task, RefinerTask):
        there = frame.present.all(axis=-1)
        given = found.spoilt[there], found.kind[there] != KINDS.index("missing")
        refined = found.refined[there], np.ones_like(given[1])
        return drawings.poses(frame.joints[there], {"given": given, "refined": refined}, f"Refiner, {title}")
    offsets = found.poses.offsets[found.there]  # of a TrunkTask
    read = offsets, np.ones(offsets.shape[:2], bool)
    return drawings.poses(found.true.offsets[found.there], {"read": read}, f"Trunk, {title}")
