"""How the time of a picture depends on the number of people in it: the poster's "does not scale"."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from loco_jax.geometry.camera import Camera
from loco_jax.report import tables
from loco_jax.report.figure import CYCLE, MARKERS
from loco_jax.tasks.people import PeopleTask, timed
from loco_jax.tasks.top_down import TopDownTask

PEOPLE = (1, 5, 20, 60)


def seconds(task: PeopleTask, params: Any, config: ConfigDict) -> list[float]:
    """Seconds from a picture of the crowd to people, for each of `PEOPLE` in the scene; medians of five.

    A top-down system looks at as many boxes as there are people, whether its detector finds them or not. Tasks should
    look for as many people as the scenes have.
    """
    most = max(PEOPLE)
    people: dict[str, Any] = {f"{name}_people": most for name in ("min", "mean", "most", "max")}
    crowd = dataclasses.replace(streams.crowd_of(config), **people)
    take = jax.jit(functools.partial(_picture, crowd=crowd))  # for all numbers, since compiling takes long
    camera, times = Camera(*(jnp.float32(f) for f in crowd.camera)), []
    for number in PEOPLE:
        find = task.people_of_picture
        if isinstance(task, TopDownTask):
            find = functools.partial(_in_boxes, task, number=number)
        times.append(timed(jax.jit(find), params, take(number), camera)[1])
    return times


def table(found: Mapping[str, Sequence[float]]) -> str:
    """Milliseconds a picture by system, as Markdown."""
    rows = [[system, *(tables.number(value, 0, 1000) for value in times)] for system, times in found.items()]
    note = (
        "A top-down system looks at a crop for each person. LoCO reads the same number of peaks from any picture, "
        f"{max(PEOPLE)} of each joint type, so its time hardly depends on how many people there are."
    )
    return "\n".join(
        [tables.table(["system, ms a picture", "1 person", *(f"{n} people" for n in PEOPLE[1:])], rows), "", note]
    )


def figure(found: Mapping[str, Sequence[float]]) -> Figure:
    """Seconds a picture over the number of people, a line for each system."""
    drawn = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    axes = drawn.add_subplot()
    for index, (system, times) in enumerate(found.items()):
        axes.plot(PEOPLE, times, color=CYCLE[index], marker=MARKERS[index], label=system)
    axes.set(xlabel="people in the scene", ylabel="seconds a picture", xlim=(0, None), ylim=(0, None))
    axes.grid(color="0.9")
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawn


def _picture(number: jax.Array, crowd: crowds.Crowd) -> jax.Array:
    """A picture of a scene with as many people as there is room for, of whom only the first `number` are present."""
    key = crowds.scene_key("test", 0)
    scene = crowds.sample_scene(key, crowd)
    scene = scene._replace(present=jnp.arange(crowd.max_people) < number)
    return crowds.take_picture(jax.random.fold_in(key, 1), scene, crowd).image


def _in_boxes(task: TopDownTask, params: Any, image: jax.Array, camera: Any, *, number: int) -> Any:
    return task.people_in_boxes(params, image, camera, task.boxes_of_picture(params, image, camera, number))
