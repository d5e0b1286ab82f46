"""Training and scoring of the refiner, on true poses that were spoilt on purpose (method section 5), and on people as a
predictor finds them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax.cli import progress
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.models import refiner
from loco_jax.pose import refinement
from loco_jax.report import tables as report
from loco_jax.tasks import Task, loco
from loco_jax.weights import files as weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("untouched", "moved", "swapped", "missing")
_SCENES_AT_ONCE = 4  # in which a predictor looks for people


class Spoilt(NamedTuple):
    """People with mistakes in them.

    Attributes:
      joints: `[..., 14, 3]` metres; 0 where missing.
      known: `[..., 14]` whether the joint was found.
      kind: `[..., 14]` index into KINDS: what happened to it.
    """

    joints: jax.Array
    known: jax.Array
    kind: jax.Array


class Found(NamedTuple):
    """A batch of people, spoilt and refined: `[B, P, 14, 3]` metres, and `[B, P, 14]` what happened to each joint.

    `clean` are the refined joints of people that nothing happened to.
    """

    spoilt: jax.Array
    refined: jax.Array
    clean: jax.Array
    kind: jax.Array


@dataclasses.dataclass(frozen=True)
class RefinerTask(Task):
    """Poses with holes and mistakes to poses without.

    Attributes:
      missing: share of joints that are dropped.
      swapped: share of joints that are taken from the other side, or from the next person.
      moved: share of the others, and of the heads, that are moved.
      move_by: metres, the standard deviation of that across the ray; a person's is from 0 to twice as much.
      along_ray: how many times more joints move along the ray, where pictures tell least.
      predictor: weights of a LoCO whose own mistakes are learnt as well; "" for none.
      found: how many people it is to find for that.
      share: of the loss, that theirs has.
      data: where training scenes come from: `config.data`'s source and dir.
      quiet: no progress bar while it finds them.
    """

    missing: float
    swapped: float
    moved: float
    move_by: float
    along_ray: float
    predictor: str = ""
    found: int = 0
    share: float = 0.0
    data: tuple[str, str] = ("crowd", "")
    quiet: bool = True

    stages = 1
    frozen = frozen_data = ("found",)

    def init(self, key: jax.Array) -> Any:
        """New parameters; beside them room for the people that the predictor finds, which a run keeps."""
        params = refiner.Refiner().init(key, jnp.zeros((1, 39), jnp.float32))
        if not self.predictor:
            return params
        nobody = jnp.zeros((self.found, skeleton.NUM_JOINTS, 3), jnp.float32)
        return {**params, "found": {"joints": nobody, "true": nobody}}

    def check_sources(self, initialised: bool = False) -> None:
        if self.predictor:
            with loco.naming("spoil.predictor", self.predictor):
                loco.load(self.predictor)

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """With the people that the predictor finds."""
        return {**params, "found": self.find_people()} if self.predictor else params

    def find_people(self) -> dict[str, np.ndarray]:
        """People as the predictor finds them in training scenes, and whom it means: `joints` and `true` `[N, 14, 3]`.

        Joints that refinement takes for holes are 0. Who means nobody, see `refinement.match`, or has too few joints to
        be refined, is left out. It looks at `found` scenes at most; fewer people than that come again. The crowd's
        scenes are not those that the predictor was trained on.
        """
        with loco.naming("spoil.predictor", self.predictor):
            task, params, config, _ = loco.load(self.predictor)
        params = {name: value for name, value in params.items() if name != "refiner"}
        task = dataclasses.replace(task, refiner_weights="")
        config = config.copy_and_resolve_references()
        config.seed += 1
        config.data.update(batch_size=_SCENES_AT_ONCE, augment=False, workers=0, render_batch=1)
        config.data.source, config.data.dir = self.data
        sharding = NamedSharding(Mesh(np.array(jax.local_devices()[:1]), ("batch",)), PartitionSpec("batch"))

        def find(params, frame):
            people = task.people_of_picture(params, frame.image, frame.camera)
            index, meant = refinement.match(people, frame.joints, frame.present)
            sure = people.scores > refiner.LEAST_SCORE
            joints = jnp.where(sure.at[:, 0].set(True)[..., None], people.joints, 0.0)
            enough = people.known.sum(axis=-1, dtype=jnp.int32) >= task.least_joints
            return joints, frame.joints[index], meant & enough

        find_all = jax.jit(lambda params, frames: lax.map(lambda frame: find(params, frame), frames))
        params, joints, true, number = jax.device_put(params, sharding.mesh.devices.item()), [], [], 0
        scenes = range(0, self.found, _SCENES_AT_ONCE)
        with progress.bar(self.found, " people", self.quiet, desc="finding", leave=False) as bar:
            for _, frames in zip(scenes, streams.training_stream(config, sharding)):
                *both, meant = jax.device_get(find_all(params, frames))
                joints.append(both[0][meant])
                true.append(both[1][meant])
                number += int(meant.sum())
                bar.update(int(meant.sum()))
                if number >= self.found:
                    break
        if not number:
            raise weights.WeightsError(
                f"config.spoil.predictor={self.predictor}: finds nobody in {self.found} training scenes; train it for "
                'longer, or give "" for none'
            )
        places = np.arange(self.found) % number
        return {"joints": np.concatenate(joints)[places], "true": np.concatenate(true)[places]}

    def describe(self) -> str:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        number = sum(x.size for x in jax.tree.leaves(shapes["params"]))
        return f"Refiner: {number:,} parameters, 13 joints relative to the head"

    def spoil(self, frames: Frames, key: jax.Array) -> Spoilt:
        """A batch's people with random mistakes. Heads may move, but stay: without a head there is no person."""
        joints, shape = frames.joints, frames.joints.shape[:-1]
        keys = jax.random.split(key, 7)
        heads = np.arange(skeleton.NUM_JOINTS) == 0
        # Who is badly seen misses many joints, who is well seen none; and some are found less precisely than others.
        amount = 2 * jax.random.uniform(keys[0], (*shape[:2], 1), jnp.float32)
        u = jax.random.uniform(keys[1], shape, jnp.float32) / jnp.maximum(amount, 1e-3)
        gone, changed = ((u < edge) & ~heads for edge in np.float32(np.cumsum([self.missing, self.swapped])))
        move = jax.random.uniform(keys[5], shape, jnp.float32) < self.moved
        kind = jnp.select([gone, changed, move], np.int32([3, 2, 1]), 0)
        # Not farther than association reaches: those of the next person only if they stand close.
        other = jnp.roll(joints, 1, axis=1)
        close = jnp.linalg.norm(other - joints[:, :, :1], axis=-1) < 1.5
        from_other = close & (jax.random.uniform(keys[2], shape, jnp.float32) < 0.5)
        swapped = jnp.where(from_other[..., None], other, joints[..., skeleton.MIRROR, :])
        ray = joints / jnp.maximum(jnp.linalg.norm(joints, axis=-1, keepdims=True), 1e-3)
        shift = jax.random.normal(keys[3], joints.shape, jnp.float32)
        # Variances add up: what is added along the ray makes the deviation there `along_ray` times the others'.
        more = math.sqrt(self.along_ray**2 - 1)
        shift = shift + more * jax.random.normal(keys[4], (*shape, 1), jnp.float32) * ray
        size = self.move_by * 2 * jax.random.uniform(keys[6], (*shape[:2], 1, 1), jnp.float32)
        moved = joints + size * shift
        spoilt = jnp.select(
            [(kind == k)[..., None] for k in (1, 2, 3)], [moved, swapped, jnp.zeros_like(joints)], joints
        )
        return Spoilt(spoilt, kind != 3, kind)

    def loss(self, params: Any, frames: Frames, key: jax.Array, stage: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error of the normalised offsets from the head, over all people who are there.

        From the head as it was found: where that one is too near or too far, the others need not follow.
        """
        spoilt = self.spoil(frames, key)
        error = _error(params, spoilt.joints, spoilt.known, frames.joints, frames.present.all(axis=-1))
        if not self.predictor:
            return error, {}
        joints, known, true = self.draw(params["found"], jax.random.fold_in(key, 1), frames.present[..., 0].size)
        found_error = _error(params, joints, known, true, jnp.ones(len(joints), bool))
        return (1 - self.share) * error + self.share * found_error, {"spoilt_error": error, "found_error": found_error}

    def draw(self, found: Mapping[str, jax.Array], key: jax.Array, number: int) -> tuple[jax.Array, ...]:
        """Some of the found people: joints, which are known, and true joints; half of them mirrored.

        A few people seen again and again would be learnt by heart: of some more joints are missing than there were.
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

    def predict(self, params: Any, frames: Frames, key: jax.Array, thorough: bool) -> Found:
        """Spoils and refines a batch's people, and refines them as they are."""
        del thorough

        def refine(joints, known):
            better = refiner.Refiner().apply({"params": params["params"]}, refiner.normalise(joints, known))
            return refiner.restore(better, joints[..., 0, :])

        spoilt = self.spoil(frames, key)
        clean = refine(frames.joints, jnp.ones_like(frames.present))
        return Found(spoilt.joints, refine(spoilt.joints, spoilt.known), clean, spoilt.kind)

    def score(self, predicted: Found, frames: Frames) -> list[dict[str, np.ndarray]]:
        """For each frame and kind of mistake: how many joints, and the sums of their errors in metres."""
        records = []
        for i in range(len(frames.present)):
            there = np.asarray(frames.present[i]).all(axis=-1)
            true, kind = np.asarray(frames.joints[i])[there], np.asarray(predicted.kind[i])[there]
            errors = [np.linalg.norm(x[i][there] - true, axis=-1) for x in predicted[:3]]
            per_kind = [kind[:, 1:] == k for k in range(len(KINDS))]
            records.append(
                {
                    "count": np.array([k.sum() for k in per_kind]),
                    "spoilt": np.array([errors[0][:, 1:][k].sum() for k in per_kind]),
                    "refined": np.array([errors[1][:, 1:][k].sum() for k in per_kind]),
                    "clean": np.array([errors[2][:, 1:].sum(), errors[2][:, 1:].size]),
                }
            )
        return records

    def summary(self, records: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Mean errors in cm before and after, by what happened to a joint."""
        total = {name: np.sum([r[name] for r in records], axis=0) for name in records[0]}
        count = np.maximum(total["count"], 1)
        return {
            "frames": len(records),
            "joints": {kind: int(n) for kind, n in zip(KINDS, total["count"])},
            "before_cm": {
                kind: None if kind == "missing" else float(100 * e / n)
                for kind, e, n in zip(KINDS, total["spoilt"], count)
            },
            "after_cm": {kind: float(100 * e / n) for kind, e, n in zip(KINDS, total["refined"], count)},
            "clean_cm": float(100 * total["clean"][0] / max(total["clean"][1], 1)),
        }

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        after = {f"{kind}_loss": summary["after_cm"][kind] / 100 for kind in KINDS}
        return {**after, "clean_loss": summary["clean_cm"] / 100}

    def table(self, summary: Mapping[str, Any]) -> str:
        def number(value):
            return "" if value is None else f"{value:.1f}"

        rows = [
            [
                kind,
                f"{summary['joints'][kind]:,}",
                number(summary["before_cm"][kind]),
                number(summary["after_cm"][kind]),
            ]
            for kind in KINDS
        ]
        rows.append(["of people without any mistake", "", "0.0", number(summary["clean_cm"])])
        header = ["joints", "number", "error before (cm)", "error after (cm)"]
        return report.table(header, rows) + f"\n\nMean over {summary['frames']:,} frames of {summary.get('data', '')}."

    def picture(self, predicted: Found, frames: Frames, index: int, title: str) -> "Figure":
        from loco_jax.report import drawings as draw  # here, since predict does without matplotlib

        there = np.asarray(frames.present[index]).all(axis=-1)
        spoilt, refined, kind = (np.asarray(x[index])[there] for x in (predicted[0], predicted[1], predicted[3]))
        rows = {"given": (spoilt, kind != 3), "refined": (refined, np.ones_like(kind, bool))}
        return draw.poses(np.asarray(frames.joints[index])[there], rows, f"Refiner, {title}")


def _error(params: Any, joints: jax.Array, known: jax.Array, true: jax.Array, there: jax.Array) -> jax.Array:
    """Mean squared error of the normalised offsets from the found head, over the people who are `there[...]`."""
    found = refiner.Refiner().apply({"params": params["params"]}, refiner.normalise(joints, known))
    true = refiner.normalise(true.at[..., 0, :].set(joints[..., 0, :]), jnp.ones_like(known))
    count = jnp.maximum(there.sum(dtype=jnp.int32), 1)
    return jnp.sum(jnp.square(found - true) * there[..., None]) / (39 * count)


def create(config: ConfigDict) -> RefinerTask:
    """The task of a config. Raises ValueError for shares or lengths that cannot be."""
    s = config.spoil
    if min(s.missing, s.swapped, s.moved) < 0 or max(s.missing + s.swapped, s.moved) > 1:
        raise ValueError(
            "config.spoil: want shares of at least 0, moved of at most 1, and missing and swapped of at most 1 "
            f"together; have {s.to_dict()}"
        )
    if not (s.move_by >= 0 and s.along_ray >= 1):
        raise ValueError(f"config.spoil: want move_by of at least 0 and along_ray of at least 1; have {s.to_dict()}")
    if s.found < 1 or not 0 <= s.share <= 1:
        raise ValueError(f"config.spoil: want found of at least 1 and share of 0 to 1; have {s.to_dict()}")
    return RefinerTask(**s.to_dict(), data=(config.data.source, config.data.dir), quiet=config.quiet)
