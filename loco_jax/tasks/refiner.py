"""Training and scoring of the refiner (method section 5).

It learns from true poses with random mistakes in them, and from people as a predictor finds them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.models import refiner
from loco_jax.pose import refinement
from loco_jax.tasks import Task, count, pretrained
from loco_jax.tasks.people import PeopleTask

KINDS = ("untouched", "moved", "swapped", "missing")


class Spoilt(NamedTuple):
    """People with mistakes in them.

    Attributes:
      joints: metres; 0 where missing.
      known: whether the joint was found.
      kind: index into KINDS, the mistake in the joint.
    """

    joints: Float[Array, "*batch 14 3"]
    known: Bool[Array, "*batch 14"]
    kind: Int[Array, "*batch 14"]


class Found(NamedTuple):
    """A batch of people, joints in metres.

    Attributes:
      spoilt: with mistakes.
      refined: the same, refined.
      clean: refined without any mistake before.
      kind: as in `Spoilt`.
    """

    spoilt: Float[Array, "*batch 14 3"]
    refined: Float[Array, "*batch 14 3"]
    clean: Float[Array, "*batch 14 3"]
    kind: Int[Array, "*batch 14"]


@dataclasses.dataclass(frozen=True)
class RefinerTask(Task):
    """The refiner learns to complete and to correct poses.

    Attributes:
      missing: share of joints that are dropped.
      swapped: share of joints that are taken from the other side, or from the next person.
      moved: share of the other joints, heads included, that are moved.
      move_by: metres, the standard deviation of that movement across the ray; a person's is from 0 to twice as much.
      along_ray: how many times farther joints move along the ray, where pictures say least.
      found: how many people there are whom a predictor found.
      share: weight of those people in the loss, 0 to 1.
      find_people: returns those: joints and true joints `[found, 14, 3]`, see `find`; None to learn without them.
    """

    missing: float
    swapped: float
    moved: float
    move_by: float
    along_ray: float
    found: int = 0
    share: float = 0.0
    find_people: Callable[[], dict[str, np.ndarray]] | None = None

    stages = 1
    frozen = frozen_data = ("found",)

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters, and empty arrays for the people whom a predictor finds. A run keeps those with it."""
        params = pretrained.init_refiner(key)
        if not self.find_people:
            return params
        nobody = jnp.zeros((self.found, skeleton.NUM_JOINTS, 3), jnp.float32)
        return {**params, "found": {"joints": nobody, "true": nobody}}

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """The parameters with the people whom the predictor finds."""
        return {**params, "found": self.find_people()} if self.find_people else params

    def describe(self) -> str:
        return f"Refiner: {count(self.shapes()['params']):,} parameters, 13 joints relative to the head"

    def spoil(self, frames: Frames, key: PRNGKeyArray) -> Spoilt:
        """A batch's people with random mistakes. No head is missing or swapped: without a head there is no person."""
        joints, shape = frames.joints, frames.joints.shape[:-1]
        keys = jax.random.split(key, 7)
        heads = np.arange(skeleton.NUM_JOINTS) == 0
        # Some people miss many joints, others none; and some are found less precisely than others.
        amount = 2 * jax.random.uniform(keys[0], (*shape[:2], 1), jnp.float32)
        u = jax.random.uniform(keys[1], shape, jnp.float32) / jnp.maximum(amount, 1e-3)
        gone, changed = ((u < edge) & ~heads for edge in np.cumsum([self.missing, self.swapped]).astype(np.float32))
        move = jax.random.uniform(keys[5], shape, jnp.float32) < self.moved
        kind = jnp.select([gone, changed, move], [np.int32(k) for k in (3, 2, 1)], 0)
        # Association reaches 1.5 m here, so joints of the next person are taken only if it stands close.
        other = jnp.roll(joints, 1, axis=1)
        close = jnp.linalg.norm(other - joints[:, :, :1], axis=-1) < 1.5
        from_other = close & (jax.random.uniform(keys[2], shape, jnp.float32) < 0.5)
        swapped = jnp.where(from_other[..., None], other, joints[..., skeleton.MIRROR, :])
        ray = joints / jnp.maximum(jnp.linalg.norm(joints, axis=-1, keepdims=True), 1e-3)
        shift = jax.random.normal(keys[3], joints.shape, jnp.float32)
        # Variances add up: this makes the deviation along the ray `along_ray` times that across it.
        more = math.sqrt(self.along_ray**2 - 1)
        shift = shift + more * jax.random.normal(keys[4], (*shape, 1), jnp.float32) * ray
        size = self.move_by * 2 * jax.random.uniform(keys[6], (*shape[:2], 1, 1), jnp.float32)
        moved = joints + size * shift
        spoilt = jnp.select(
            [(kind == k)[..., None] for k in (1, 2, 3)], [moved, swapped, jnp.zeros_like(joints)], joints
        )
        return Spoilt(spoilt, kind != 3, kind)

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """Mean squared error of the normalised offsets from the head, over all people who are present.

        Offsets start at the head as it was found, so that an error of the head does not move all other joints.
        """
        spoilt = self.spoil(frames, key)
        error = _error(params, spoilt.joints, spoilt.known, frames.joints, jnp.all(frames.present, axis=-1))
        if not self.find_people:
            return error, {}
        joints, known, true = self.draw(params["found"], jax.random.fold_in(key, 1), frames.present[..., 0].size)
        found_error = _error(params, joints, known, true, jnp.ones(len(joints), bool))
        return (1 - self.share) * error + self.share * found_error, {"spoilt_error": error, "found_error": found_error}

    def draw(
        self, found: Mapping[str, Float[Array, "M 14 3"]], key: PRNGKeyArray, number: int
    ) -> tuple[Float[jax.Array, "N 14 3"], Bool[jax.Array, "N 14"], Float[jax.Array, "N 14 3"]]:
        """Some of the found people: joints, which of them are known, and true joints. Half of them are mirrored.

        Further joints are dropped at random, so that the refiner does not learn a few people by heart.
        """
        keys = jax.random.split(key, 4)
        index = jax.random.randint(keys[0], (number,), 0, len(found["joints"]), jnp.int32)
        mirror = jax.random.bernoulli(keys[1], np.float32(0.5), (number, 1, 1))
        flip = jnp.float32([-1, 1, 1])
        joints, true = (
            jnp.where(mirror, x[:, skeleton.MIRROR] * flip, x) for x in (found["joints"][index], found["true"][index])
        )
        amount = 2 * self.missing * jax.random.uniform(keys[2], (number, 1), jnp.float32)
        gone = (jax.random.uniform(keys[3], joints.shape[:-1], jnp.float32) < amount).at[:, 0].set(False)
        return joints, (joints != 0).any(axis=-1) & ~gone, true

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """Spoils and refines a batch's people; and refines them without mistakes."""
        del thorough

        def refine(joints, known):
            better = refiner.Refiner().apply({"params": params["params"]}, refiner.normalise(joints, known))
            return refiner.restore(better, joints[..., 0, :])

        spoilt = self.spoil(frames, key)
        clean = refine(frames.joints, jnp.ones_like(frames.present))
        return Found(spoilt.joints, refine(spoilt.joints, spoilt.known), clean, spoilt.kind)

    def score_frame(self, found: Found, frame: Frames) -> dict[str, Shaped[np.ndarray, "..."]]:
        """For each kind of mistake the number of joints, and the sums of their errors in metres."""
        there = frame.present.all(axis=-1)
        true, kind = frame.joints[there], found.kind[there]
        spoilt, refined, clean = (np.linalg.norm(x[there] - true, axis=-1)[:, 1:] for x in found[:3])
        per_kind = [kind[:, 1:] == k for k in range(len(KINDS))]
        return {
            "count": np.array([k.sum() for k in per_kind]),
            "spoilt": np.array([spoilt[k].sum() for k in per_kind]),
            "refined": np.array([refined[k].sum() for k in per_kind]),
            "clean": np.array([clean.sum(), clean.size]),
        }

    def summary(self, records: list[dict[str, Shaped[np.ndarray, "..."]]]) -> dict[str, Any]:
        """Mean errors in cm before and after, by what happened to a joint; None for no joint."""
        total = {name: np.sum([r[name] for r in records], axis=0) for name in records[0]}

        def means(errors):
            return {kind: float(100 * e / n) if n else None for kind, e, n in zip(KINDS, errors, total["count"])}

        clean, joints = total["clean"]
        return {
            "frames": len(records),
            "joints": {kind: int(n) for kind, n in zip(KINDS, total["count"])},
            "before_cm": {**means(total["spoilt"]), "missing": None},
            "after_cm": means(total["refined"]),
            "clean_cm": float(100 * clean / joints) if joints else None,
        }

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        errors = {**summary["after_cm"], "clean": summary["clean_cm"]}
        return {f"{name}_loss": error / 100 for name, error in errors.items() if error is not None}


def _error(params: Any, joints: Array, known: Array, true: Array, there: Array) -> jax.Array:
    """Mean squared error of the normalised offsets from the found head, over the people who are `there[...]`."""
    found: Any = refiner.Refiner().apply({"params": params["params"]}, refiner.normalise(joints, known))
    true = refiner.normalise(jnp.asarray(true).at[..., 0, :].set(joints[..., 0, :]), jnp.ones_like(known))
    count = jnp.maximum(there.sum(dtype=jnp.int32), 1)
    return jnp.sum(jnp.square(found - true) * there[..., None]) / (39 * count)


def find(
    task: PeopleTask, params: Any, batches: Iterable[Frames], number: int, tell: Callable[[int], Any]
) -> dict[str, Float[np.ndarray, "number 14 3"]] | None:
    """People as a predictor finds them, `joints`, and the true people that they match, `true`; None without any.

    Joints that refinement takes for holes are 0. People who match nobody, see `refinement.match`, and people with too
    few joints to be refined are left out. If the batches have fewer people than `number`, they are repeated. `tell` is
    called with the number of people of each batch.
    """

    def find_in(params, frame):
        people = task.people_to_refine(params, frame.image, frame.camera)
        index, meant = refinement.match(people, frame.joints, frame.present)
        sure = people.scores > refiner.LEAST_SCORE
        joints = jnp.where(sure.at[:, 0].set(True)[..., None], people.joints, 0.0)
        enough = people.known.sum(axis=-1, dtype=jnp.int32) >= task.least_joints
        return joints, frame.joints[index], meant & enough

    find_all = jax.jit(lambda params, frames: lax.map(functools.partial(find_in, params), frames))
    joints, true, total = [], [], 0
    for frames in batches:
        *both, meant = jax.device_get(find_all(params, frames))
        joints.append(both[0][meant])
        true.append(both[1][meant])
        total += int(meant.sum())
        tell(int(meant.sum()))
        if total >= number:
            break
    if not total:
        return None
    places = np.arange(number) % total
    return {"joints": np.concatenate(joints)[places], "true": np.concatenate(true)[places]}
