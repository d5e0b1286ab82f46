"""Training and scoring of LoCO: from a picture, through a predicted code, to people (method sections 4 to 6)."""

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import ops
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import code_predictor, compact, vha
from loco_jax.models.refiner import Refiner
from loco_jax.ops import distributed
from loco_jax.pose import metrics, people, people_metrics, reading, refinement, suppression
from loco_jax.pose.association import People
from loco_jax.pose.people import Points
from loco_jax.report import tables as report
from loco_jax.runs import checkpoints
from loco_jax.tasks import Task, teaching, trunk
from loco_jax.tasks.vha import METRES, VhaTask, check_same, stated_by
from loco_jax.tasks.vha import create as create_vha
from loco_jax.weights import files as weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATCHINGS = ("hungarian", "nearest")
RANKED_BY = 0.8  # metres: of the F1 that frames are ranked by
GROUND_TRUTH = "GT volumetric heatmaps"
SUBVOXEL = "GT volumetric heatmaps, sub-voxel"
PICTURE = "picture"  # in place of a refiner: the poses that the compact predictor reads at people's places
# What weights may bring besides, and a user may set: by the config's field the task's.
_FIELDS = {
    "refiner": "refiner_weights", "refine.least_joints": "least_joints", "refine.least_stray": "least_stray",
}  # fmt: skip


class Found(NamedTuple):
    """What is found in a batch of pictures.

    Attributes:
      code_error: `[B]` mean squared error of the code.
      overflow: `[B]` whether there were more peaks of a type than `max_peaks`.
      systems: by name, points `[B, M, 3]` in metres, their joint types `[B, M]` and which of them count `[B, M]`.
      people: by name: joints `[B, N, 14, 3]` and which are known `[B, N, 14]`; of the picture's, refined or not, those
        whom `suppression` leaves.
      true_present: `[B, P, J]` which true joints are targets.
      touching: `[B, P, J]` which of those are in one voxel with another of their type, or in neighbouring ones: in the
        heatmap such two have one peak, or are a plateau.
      own_side: by whose code, for how many of `skeleton.PAIRS`' joints `[B, 4]` the heatmap is higher at their own
        voxel than at that of the same joint of the other side; as high counts half.
      side_joints: `[B, 4]` of how many that is: of targets that are `teaching.APART`.
    """

    code_error: jax.Array
    overflow: jax.Array
    systems: dict[str, tuple[jax.Array, jax.Array, jax.Array]]
    people: dict[str, tuple[jax.Array, jax.Array]]
    true_present: jax.Array
    touching: jax.Array
    own_side: dict[str, jax.Array]
    side_joints: jax.Array


class Record(NamedTuple):
    """One frame's scores.

    Attributes:
      scores: by (system, matching, threshold in words).
      errors: by system, number and sum in metres of the distances of joints matched within the largest threshold.
      people: by system, how its people are.
      code_error: mean squared error of the code.
      overflow: whether there were more peaks than `max_peaks`.
      targets: how many true joints there are, and how many of them touch another.
      own_side: by whose code, as in `Found`.
      side_joints: as in `Found`.
    """

    scores: dict[tuple[str, str, str], metrics.Scores]
    errors: dict[str, tuple[int, float]]
    people: dict[str, people_metrics.Found]
    code_error: float
    overflow: bool
    targets: tuple[int, int]
    own_side: dict[str, np.ndarray]
    side_joints: np.ndarray


@dataclasses.dataclass(frozen=True)
class LocoTask(Task):
    """Pictures to codes; the codes are those of a trained autoencoder, which stays as it is.

    Attributes:
      vha: the autoencoder, its volume and its targets.
      network: from pictures to codes.
      code_weight: of the mean squared error of the code, the published loss.
      side_weight: of telling right from left in those heatmaps, see `side_error`.
      teaching_weight: of what the compact predictor's features are taught beside it, see `teaching.losses`.
      heatmap_weight: of the cross-entropy of the heatmaps that the autoencoder makes of the predicted code.
      vha_weights: where the autoencoder's parameters come from.
      refiner_weights: where the refiner's come from; "" for none, `PICTURE` for what the network itself reads.
      trunk_weights: where the trunk's come from: ImageNet weights of the published one, a run of the task trunk for the
        compact one; "" for random ones.
      least_joints: joints that a person needs to be refined, see `refinement.choose`.
      least_stray: score above which a joint that belongs to nobody counts after refinement.
      kept: which of the people are named; all joints count in the scores of joints.
    """

    vha: VhaTask
    network: nn.Module
    code_weight: float
    heatmap_weight: float
    vha_weights: str
    refiner_weights: str
    trunk_weights: str = ""
    side_weight: float = 0.0
    teaching_weight: float = 0.0
    least_joints: int = 1
    least_stray: float = 0.6
    kept: suppression.Options = suppression.Options()

    stages = 1
    frozen = ("vha", "batch_stats")
    ranked_by = f"F1 @{RANKED_BY} m"

    @property
    def name(self) -> str:
        return f"LoCO({self.vha.network.level})"

    def init(self, key: jax.Array) -> Any:
        """New parameters: of the autoencoder and of the predictor, whose normalisation's statistics stand apart."""
        vha_key, key = jax.random.split(key)
        variables = trunk.init(self.network, self.vha.volume, key)
        return {"vha": self.vha.init(vha_key), **_apart(variables)}

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """With the autoencoder's trained parameters, and the trunk's if there are any."""
        if initialised:
            return params
        with naming("vha", self.vha_weights):
            params = {**params, "vha": read_params("vha", self.vha_weights, self.vha.init)}
        if self.trunk_weights:
            with naming("predictor.trunk_weights", self.trunk_weights):
                params = {**params, **_with_trunk(params, self.trunk_weights)}
        return params

    def check_sources(self, initialised: bool = False) -> None:
        if not initialised:
            with naming("vha", self.vha_weights):
                if not self.vha_weights:
                    raise weights.WeightsError("no weights given")
                check_same(self.vha, self.vha_weights, "config.vha")
            if self.trunk_weights:
                with naming("predictor.trunk_weights", self.trunk_weights):
                    _with_trunk(jax.eval_shape(self.init, jax.random.key(0)), self.trunk_weights)
        if self._needs_refiner():
            with naming("refiner", self.refiner_weights):
                weights.config_of(self.refiner_weights)

    def check_weights(self, source: str, field: str) -> None:
        check_same(self.vha, source, field)

    def with_parts_of(self, source: str, given: Collection[str] = ()) -> "LocoTask":
        path, config = weights.path_of(source), weights.config_of(source)
        with stated_by(path):
            changes = {} if config is None else _rules(config)
        if not path.is_dir() and "refiner" in weights.load(path)[0]:
            changes["refiner_weights"] = source
        elif config is not None and config.get("refiner") == PICTURE:
            changes["refiner_weights"] = PICTURE
        own = {name: getattr(self, name) for field, name in _FIELDS.items() if field in given}
        kept = {name: getattr(self.kept, name) for name in suppression.Options._fields if f"people.{name}" in given}
        return dataclasses.replace(self, **{**changes, **own, "kept": changes.get("kept", self.kept)._replace(**kept)})

    def _needs_refiner(self):
        return self.refiner_weights not in ("", PICTURE)

    def for_evaluation(self, params: Any) -> Any:
        if not self._needs_refiner():
            return params
        with naming("refiner", self.refiner_weights):
            return {**params, "refiner": read_params("refiner", self.refiner_weights, _init_refiner)}

    def describe(self) -> str:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        parameters = sum(x.size for x in jax.tree.leaves(shapes["predictor"]))
        height, width = self.vha.volume.image_size
        code = vha.code_shape(self.vha.volume.shape, self.vha.network.level)
        return (
            f"{type(self.network).__name__}({self.network.level}): {parameters:,} parameters; pictures of "
            f"{height} x {width} to a code of {' x '.join(map(str, code))}. {self.vha.describe()}"
        )

    def loss(self, params: Any, frames: Frames, key: jax.Array, stage: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error of the code (method section 4), and if it has a weight, of what is decoded from it."""
        code, features = self.look(params, frames.image, frames.camera)
        taught = {}
        if features is not None:
            volume = self.vha.volume
            taught = teaching.losses(self.network, _together(params), features, frames, volume, key)
        voxels_BxPxJx3, present_BxPxJ = jax.vmap(self.vha.targets)(frames._replace(image=None))
        target = self.vha.encode_targets(params["vha"], voxels_BxPxJx3, present_BxPxJ)
        errors = {"code_error": jnp.mean(jnp.square(code - lax.stop_gradient(target).astype(jnp.float32)))}
        loss = self.code_weight * errors["code_error"] + self.teaching_weight * sum(taught.values())
        if self.heatmap_weight:
            features = ops.apply(self.vha.network, params["vha"], code, method="decode_features")
            targets = voxels_BxPxJx3, present_BxPxJ
            errors["heatmap_error"] = self.vha.entropy_of_features(params["vha"], features, *targets)
            loss = loss + self.heatmap_weight * errors["heatmap_error"]
            if self.side_weight:
                errors["side_error"] = self.side_error(params["vha"], features, *targets)
                loss = loss + self.side_weight * errors["side_error"]
        return loss, errors | taught

    def side_error(
        self, params: Any, features_BxdxhxwxC: jax.Array, voxels_BxPxJx3: jax.Array, present_BxPxJ: jax.Array
    ) -> jax.Array:
        """How badly the heatmaps of a PatchVHA's features tell right from left, of joints that are `teaching.APART`.

        The mean of softplus(-d) over four differences d of logits for each of the six pairs. At a joint's place its
        own heatmap is to be higher than that of the other side's joint. A joint's heatmap is to be higher at its own
        place than at the other's. Where nothing tells the sides apart it is log 2.
        """
        sides_2x6 = np.int32([teaching.RIGHT, teaching.LEFT])
        joints_2x2xPx6 = np.broadcast_to(sides_2x6[:, None, None], (2, 2, voxels_BxPxJx3.shape[1], 6))

        def of_frame(features, voxels_PxJx3, present_PxJ):
            apart_Px6 = _apart_in_picture(voxels_PxJx3, present_PxJ, sides_2x6)
            inside = jnp.clip(jnp.round(voxels_PxJx3), 0, np.int32(self.vha.volume.shape) - 1)
            voxels_PxJx3 = jnp.where(present_PxJ[..., None], inside, 0).astype(jnp.int32)
            at_2xPx6x3 = jnp.moveaxis(voxels_PxJx3[:, sides_2x6], 1, 0)
            at_2x2xPx6x3 = jnp.broadcast_to(at_2xPx6x3, (2, *at_2xPx6x3.shape))
            found = ops.logits_at(
                self.vha.network, params, features, joints_2x2xPx6.reshape(-1), at_2x2xPx6x3.reshape(-1, 3)
            ).reshape(joints_2x2xPx6.shape)
            own, other = jnp.stack([found[0, 0], found[1, 1]]), jnp.stack([found[0, 1], found[1, 0]])
            wrong_Px6 = jnp.mean(nn.softplus(other - own) + nn.softplus(other[::-1] - own), axis=0) / 2
            return jnp.sum(wrong_Px6, where=apart_Px6), jnp.sum(apart_Px6, dtype=jnp.int32)

        error, count = jax.vmap(of_frame)(features_BxdxhxwxC, voxels_BxPxJx3, present_BxPxJ)
        return jnp.sum(error) / jnp.maximum(jnp.sum(count, dtype=jnp.int32), 1)

    def look(self, params: Any, image: jax.Array, camera: Camera) -> tuple[jax.Array, compact.Features | None]:
        """Codes `[B, h, w, d]`, float32, of pictures `[B, H, W, 3]` uint8 by cameras with fields `[B]`.

        Beside them the features that they are made of, if these are taught.
        """
        variables = _together(params)
        if not self.teaching_weight:
            return ops.apply(self.network, variables, image, camera).astype(jnp.float32), None
        features = ops.apply(self.network, variables, image, camera, method="features")
        code = ops.apply(self.network, variables, features, image.shape[1:3], method="code")
        return code.astype(jnp.float32), features

    def look_at(self, params: Any, image: jax.Array, camera: Camera) -> tuple[jax.Array, compact.Features | None]:
        """The code `[h, w, d]` of one picture `[H, W, 3]`, and its features as a batch of one."""
        code, features = self.look(
            params, image[None], jax.tree.map(lambda f: jnp.asarray(f, jnp.float32)[None], camera)
        )
        return code[0], features

    def refine(self, params: Any, found: People, features: compact.Features | None, camera: Camera) -> People | None:
        """People with corrected and completed poses, whatever joints they have; None if nothing corrects them."""
        if "refiner" in params:
            return refinement.refine(params["refiner"], found)
        if self.refiner_weights != PICTURE:
            return None
        places = reading.places(found, camera, self.vha.volume.image_size)
        numbers = ops.apply(self.network, _together(params), features, places[None], method="read_poses")[0]
        return reading.settle(found, reading.unpack(numbers).offsets)

    def points_of_code(self, params: Any, code: jax.Array, camera: Camera, subvoxel: bool) -> Points:
        """The points of the heatmaps that the autoencoder makes of one code `[h, w, d]`."""
        options = {"max_peaks": self.vha.max_peaks, "subvoxel": subvoxel, "volume_dtype": self.vha.volume_dtype}
        found = ops.decode_peaks(self.vha.network, params["vha"], code, self.vha.volume.shape[:2], **options)
        return people.in_metres(found, camera, self.vha.volume)

    def people_of_picture(self, params: Any, image: jax.Array, camera: Camera) -> People:
        """Everybody in a picture `[H, W, 3]` uint8, corrected as `refiner_weights` says, before any is suppressed."""
        code, features = self.look_at(params, image, camera)
        found = people.find_people(self.points_of_code(params, code, camera, subvoxel=True))
        better = self.refine(params, found, features, camera)
        return found if better is None else refinement.choose(found, better, self.least_joints)

    def predict(self, params: Any, frames: Frames, key: jax.Array, thorough: bool) -> Found:
        """Finds the people in pictures. If `thorough`, also what the true code and the true heatmaps would give."""
        del key
        volume = self.vha.volume

        def one(frame):
            target = self.vha.encode(params["vha"], frame._replace(image=None)).astype(jnp.float32)
            code, features = self.look_at(params, frame.image, frame.camera)

            def points_of(heatmaps, subvoxel):
                return people.find_points(heatmaps, frame.camera, volume, self.vha.max_peaks, subvoxel)

            points = self.points_of_code(params, code, frame.camera, self.vha.subvoxel)
            found = people.find_people(points)
            systems, groups = {self.name: _as_rows(points)}, {self.name: found}
            better = self.refine(params, found, features, frame.camera)
            if better is not None:
                better = refinement.choose(found, better, self.least_joints)
                systems[f"{self.name}+"] = refinement.all_joints(points.xyz, points.scores, better, self.least_stray)
                groups[f"{self.name}+"] = better
            groups = {name: suppression.suppress(group, frame.camera, self.kept) for name, group in groups.items()}
            voxels, present = self.vha.targets(frame)
            codes = {self.name: code}
            if thorough:
                true_code = f"{self.vha.name}, true code"
                codes[true_code] = target
                render = functools.partial(self.vha.render, present_PxJ=present, sigma=self.vha.sigmas[-1])
                known = {
                    true_code: self.points_of_code(params, target, frame.camera, self.vha.subvoxel),
                    GROUND_TRUTH: points_of(render(voxels, subvoxel=False), subvoxel=False),
                    SUBVOXEL: points_of(render(voxels, subvoxel=True), subvoxel=True),
                }
                systems |= {name: _as_rows(cloud) for name, cloud in known.items()}
                groups |= {name: people.find_people(cloud) for name, cloud in known.items()}
            overflow = (points.count > self.vha.max_peaks).any()
            touching = _touching(jnp.round(voxels), present)
            groups = {name: (group.joints, group.known) for name, group in groups.items()}
            code_error = jnp.mean(jnp.square(code - target))
            apart = _apart_in_picture(voxels, present, _measured_pairs())
            side_joints = 2 * apart.sum(axis=0, dtype=jnp.int32)
            own_side = {name: self._own_side(params, code, voxels, present) for name, code in codes.items()}
            return Found(code_error, overflow, systems, groups, present, touching, own_side, side_joints)

        return lax.map(one, frames)

    def _own_side(self, params, code, voxels_PxJx3, present_PxJ):
        """For how many joints of each pair `[4]` a code's heatmap is higher at their own place: `Found.own_side`."""
        own_2x4 = _measured_pairs()
        apart_Px4 = _apart_in_picture(voxels_PxJx3, present_PxJ, own_2x4)
        voxels_PxJx3 = jnp.where(present_PxJ[..., None], jnp.round(voxels_PxJx3), 0)
        at_SxPx2x4x3 = jnp.stack([voxels_PxJx3[:, own_2x4], voxels_PxJx3[:, own_2x4[::-1]]])
        joints_SxPx2x4 = jnp.broadcast_to(own_2x4, at_SxPx2x4x3.shape[:-1])
        values = ops.decode_at(
            self.vha.network,
            params["vha"],
            code,
            self.vha.volume.shape[:2],
            joints_SxPx2x4.reshape(-1),
            at_SxPx2x4x3.reshape(-1, 3),
        )
        here, there = values.reshape(joints_SxPx2x4.shape)
        won_Px2x4 = (here > there) + 0.5 * (here == there).astype(jnp.float32)
        return jnp.sum(won_Px2x4 * apart_Px4[:, None], axis=(0, 1))

    def score(self, predicted: Found, frames: Frames) -> list[Record]:
        """A record for each frame; NumPy arrays in."""
        both = predicted, frames._replace(image=None)
        return [self._score(*_frame(both, i)) for i in range(len(frames.present))]

    def _score(self, found: Found, frame: Frames) -> Record:
        seen = people_metrics.see(frame.joints, found.true_present, frame.camera)
        true = metrics.people_rows(seen.joints, seen.known)
        scores, errors, counts = {}, {}, {}
        for system, cloud in found.systems.items():
            rows = _rows(*cloud)
            for matching in MATCHINGS:
                for threshold in METRES:
                    score = metrics.joint_scores(rows, true, threshold, matching)
                    scores[system, matching, f"{threshold} m"] = score
            pairs = metrics.match(rows, true, METRES[-1])
            distances = metrics.matched_errors(rows, true, pairs)
            errors[system] = (len(distances), float(distances.sum()))
            counts[system] = people_metrics.measure(seen, *found.people[system], frame.camera, rows, pairs)
        targets = int(found.true_present.sum()), int(found.touching.sum())
        sides = found.own_side, found.side_joints
        return Record(scores, errors, counts, float(found.code_error), bool(found.overflow), targets, *sides)

    def rank(self, record: Record) -> float:
        refined = f"{self.name}+"
        system = refined if refined in record.errors else self.name
        return record.scores[system, "hungarian", f"{RANKED_BY} m"].f1

    def summary(self, records: list[Record]) -> dict[str, Any]:
        """Mean scores over frames by system, mean errors in cm, how people are, and on which side their joints."""
        systems = {name: {} for name in self._in_order(records[0].errors)}
        for system, matching, threshold in records[0].scores:
            mean = metrics.mean_scores([r.scores[system, matching, threshold] for r in records])
            systems[system].setdefault(matching, {})[threshold] = mean._asdict()
        for system, entry in systems.items():
            count, total = (sum(r.errors[system][i] for r in records) for i in range(2))
            entry["error_cm"] = 100 * total / count if count else None
            entry["people"] = people_metrics.summarise([r.people[system] for r in records])
            if system in records[0].own_side:
                won, joints = (np.sum(x, axis=0) for x in zip(*((r.own_side[system], r.side_joints) for r in records)))
                entry["own_side"] = {
                    name: {"share": float(w / n) if n else None, "joints": int(n)}
                    for name, w, n in zip(skeleton.PAIRS, won, joints)
                }
        code_error = float(np.mean([r.code_error for r in records]))
        return {
            "network": type(self.network).__name__,
            "level": self.vha.network.level,
            "frames": len(records),
            "systems": systems,
            "code_error": code_error if np.isfinite(code_error) else None,
            "joints": sum(r.targets[0] for r in records),
            "joints_that_touch": sum(r.targets[1] for r in records),
            "made_of": self.made_of(),
            "frames_with_too_many_peaks": sum(r.overflow for r in records),
        }

    def made_of(self) -> dict[str, Any]:
        """What the numbers of a summary rest on."""
        return {
            "predictor": type(self.network).__name__,
            "autoencoder": self.vha.name,
            "refiner": self.refiner_weights or None,
            "least_joints": self.least_joints,
            "least_stray": self.least_stray,
            **self.kept._asdict(),
        }

    def _in_order(self, systems: Iterable[str]) -> list[str]:
        """What was predicted from pictures first, then what its parts would allow."""
        first = (self.name, f"{self.name}+")
        return sorted(systems, key=lambda name: (first.index(name) if name in first else 2, GROUND_TRUTH in name, name))

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Of the way from a picture to people, measured on the first frame of a batch."""
        frame = _frame(frames, 0)
        find = jax.jit(functools.partial(self.points_of_code, subvoxel=self.vha.subvoxel))
        find_people = jax.jit(people.find_people)
        look = jax.jit(self.look_at)
        (code, features), seconds = _time(look, params, frame.image, frame.camera)
        stages = {"picture to code": seconds}
        points, stages["code to points"] = _time(find, params, code, frame.camera)
        found, stages["points to people"] = _time(find_people, points)
        better, seconds = _time(jax.jit(self.refine), params, found, features, frame.camera)
        if better is not None:
            stages["refinement"] = seconds
        return stages

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        entry = summary["systems"][self.name]
        found = summary["systems"].get(f"{self.name}+", entry)["people"]
        sides = {name: side["share"] for name, side in entry["own_side"].items()}
        known = [share for share in sides.values() if share is not None]
        numbers = {
            **{f"f1_{t}m": entry["hungarian"][f"{t} m"]["f1"] for t in METRES},
            "code_loss": summary["code_error"],
            "people_precision": found["precision"],
            "people_recall": found["recall"],
            "named_twice": found["named_twice"] / found["true"] if found["true"] else None,
            "mpjpe_cm": found["mpjpe_cm"],
            "pa_mpjpe_cm": found["pa_mpjpe_cm"],
            **{f"width_{name}": found["widths"][name] for name in ("shoulders", "hips")},
            "side": float(np.mean(known)) if known else None,
            **{f"side_{name}": share for name, share in sides.items()},
        }
        return {name: value for name, value in numbers.items() if value is not None}

    def table(self, summary: Mapping[str, Any]) -> str:
        return report.loco_table(summary)

    def picture(self, predicted: Found, frames: Frames, index: int, title: str) -> "Figure":
        from loco_jax.report import drawings as draw  # here, since predict does without matplotlib

        found, frame = _frame((predicted, frames), index)
        name = f"{self.name}+" if f"{self.name}+" in found.people else self.name
        joints, known = found.people[name]
        exist = known[:, 0]
        people = joints[exist], known[exist]
        return draw.people(frame.image, frame.camera, people, (frame.joints, found.true_present), f"{name}, {title}")


def create(config: ConfigDict) -> LocoTask:
    """The task of a config. Raises ValueError for a field whose value cannot work."""
    autoencoder = create_vha(config)
    c, volume = config.predictor, autoencoder.volume
    if c.trunk == "compact":
        network = compact.create(config, volume)
    elif c.trunk == "inception":
        network = code_predictor.CodePredictor(config.model.level, volume.depth_bins, dtype=autoencoder.network.dtype)
    else:
        raise ValueError(f"config.predictor.trunk={c.trunk!r}; there are inception, compact")
    if c.teaching_weight and c.trunk != "compact":
        raise ValueError(
            f"config.predictor.teaching_weight={c.teaching_weight} needs config.predictor.trunk=compact: the published "
            "network's features are taught nothing else"
        )
    if config.refiner == PICTURE and c.trunk != "compact":
        raise ValueError(
            f"config.refiner={PICTURE} needs config.predictor.trunk=compact: the published network reads no poses"
        )
    if config.refiner == PICTURE and not c.teaching_weight:
        raise ValueError(
            f"config.refiner={PICTURE} needs a config.predictor.teaching_weight above 0, which teaches poses; give "
            'config.refiner="" for people as the code has them'
        )
    if not config.data.pictures:
        raise ValueError("config.data.pictures must be True: this task looks at pictures")
    if autoencoder.volume.stride != Volume.stride:
        raise ValueError(
            f"config.volume.stride={autoencoder.volume.stride} must be {Volume.stride} here: the predictors' layers "
            "are made for it"
        )
    if c.heatmap_weight and config.model.variant != "patch":
        raise ValueError(
            f"config.predictor.heatmap_weight={c.heatmap_weight} needs config.model.variant=patch: the loss of "
            "heatmaps is compared as a PatchVHA's cells"
        )
    if c.get("side_weight", 0.0) and not c.heatmap_weight:
        raise ValueError(
            f"config.predictor.side_weight={c.side_weight} needs a config.predictor.heatmap_weight above 0, and so "
            "config.model.variant=patch: it looks at the same heatmaps"
        )
    weight = c.code_weight, c.heatmap_weight, c.get("side_weight", 0.0), c.teaching_weight
    if not (min(weight) >= 0 and c.code_weight + c.heatmap_weight > 0):
        raise ValueError(
            "config.predictor: the weights must not be negative, nor code_weight and heatmap_weight both 0"
        )
    return LocoTask(
        autoencoder,
        network,
        code_weight=c.code_weight,
        heatmap_weight=c.heatmap_weight,
        vha_weights=config.vha,
        refiner_weights=config.refiner,
        trunk_weights=c.trunk_weights,
        side_weight=c.get("side_weight", 0.0),
        teaching_weight=c.teaching_weight,
        **_rules(config),
    )


def _rules(config: ConfigDict) -> dict[str, Any]:
    """The attributes of a task that `config.refine` and `config.people` say, where they are there."""
    rules = {}
    if "refine" in config:
        r = config.refine
        if not (1 <= r.least_joints <= skeleton.NUM_JOINTS and 0 <= r.least_stray <= 1):
            raise ValueError(
                f"config.refine: want least_joints of 1 to {skeleton.NUM_JOINTS}, least_stray of 0 to 1; have "
                f"{r.to_dict()}"
            )
        rules |= {"least_joints": r.least_joints, "least_stray": r.least_stray}
    if "people" in config:
        rules["kept"] = suppression.Options(**config.people).check("config.people")
    return rules


@contextlib.contextmanager
def naming(field: str, source: str) -> Iterator[None]:
    """Errors about weights name the field of the config that they come from, and say where such weights come from."""
    made = {
        "vha": "train one with --config=configs/vha2.py (the same level, variant and scale)",
        "spoil.predictor": 'train one with --config=configs/loco2.py, or give "" for none',
        "refiner": 'train one with --config=configs/refiner.py, or give "released-refiner", or "" for none',
        "predictor.trunk_weights": "python -m loco_jax.torch_weights --kind=inception makes them of torchvision's for "
        "trunk=inception, --config=configs/trunk.py trains them for trunk=compact",
    }
    try:
        yield
    except (weights.WeightsError, checkpoints.CheckpointError) as error:
        text = str(error) if f"config.{field}=" in str(error) else f"config.{field}={source}: {error}"
        raise weights.WeightsError(
            f"{text}\n{made[field][:1].upper()}{made[field][1:]}; then give --config.{field}= its run or file."
        ) from error


def read_params(kind: str, source: str, init: Callable[[jax.Array], Any]) -> Any:
    """Trained parameters, see `weights.read`, shaped as those of `init`."""
    return jax.tree.map(jnp.asarray, weights.read(kind, source, jax.eval_shape(init, jax.random.key(0))))


def _init_refiner(key: jax.Array) -> Any:
    return Refiner().init(key, jnp.zeros((1, 39), jnp.float32))


class Predictor:
    """A trained LoCO, ready for pictures of any size; each new size is compiled once.

    Attributes:
      camera: the one it was trained with, for pictures of `image_size`.
      image_size: height and width of those.
      description: what it is, in a line.
    """

    def __init__(self, task: LocoTask, params: Any, camera: Camera, description: str):
        self.camera, self.image_size = camera, task.vha.volume.image_size
        self.description = description
        self._task, self._params = task, jax.device_put(params)
        self._find = functools.lru_cache(self._compile)

    def __call__(self, image: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Joints `[N, 14, 3]` in metres and scores `[N, 14]` of the people in a picture `[H, W, 3]`, uint8.

        The picture is taken as one by `camera`, whose focal lengths should be those that the network was trained with.
        A joint with score 0 was not seen: it was filled in, or it lies at 0 and is a hole.
        """
        found = self._find(image.shape[:2])(self._params, image, Camera(*(jnp.float32(f) for f in camera)))
        joints, scores = jax.device_get((found.joints, found.scores))
        exist = scores[:, 0] > 0
        return joints[exist], scores[exist]

    def _compile(self, size: tuple[int, int]):
        volume = dataclasses.replace(self._task.vha.volume, image_size=size)
        task = dataclasses.replace(self._task, vha=dataclasses.replace(self._task.vha, volume=volume))

        def find(params, image, camera):
            return suppression.suppress(task.people_of_picture(params, image, camera), camera, task.kept)

        return jax.jit(find)


def load_predictor(source: str | None = None, min_score: float | None = None) -> Predictor:
    """A trained LoCO from a run's folder or a file of weights; the released weights if `source` is None.

    `min_score` is the least score of a person; if None, what the weights' config says.
    Raises WeightsError or CheckpointError if there are no weights, ValueError for a config that makes no sense.
    """
    task, params, _, camera = load(source or weights.RELEASED)
    if min_score is not None:
        task = dataclasses.replace(task, kept=task.kept._replace(min_score=min_score).check("min_score"))
    path = weights.path_of(source or weights.RELEASED)
    which = "the released weights, no good on photographs yet" if source is None else f"the weights of {path}"
    return Predictor(task, params, camera, f"{which}: {task.describe()}")


def load(source: str) -> tuple[LocoTask, Any, ConfigDict, Camera]:
    """Task, parameters with the refiner's if there is one, config and camera of a run's folder, a file of weights, or
    "released". Raises as `load_predictor` does."""
    path = weights.path_of(source)
    if path.is_dir():
        config = weights.run_config(path)
        task = _task_of(path, config)
        params = weights.read_run(path, config, jax.eval_shape(task.init, jax.random.key(0)))
        params = task.for_evaluation(params)
        camera = streams.camera_of(config)
    else:
        params, about = weights.load(path)
        if about.get("kind") != "loco":
            kind = weights.brief(repr(about.get("kind")))
            raise weights.WeightsError(f"{path}: holds weights of kind {kind}, not a whole loco")
        config = weights.as_config(path, about.get("config", {}))
        task = _task_of(path, config)
        camera = _camera_of(path, about["camera"], config) if "camera" in about else streams.camera_of(config)
        like = jax.eval_shape(task.init, jax.random.key(0))
        if "refiner" in params:
            like["refiner"] = jax.eval_shape(_init_refiner, jax.random.key(0))
        weights.check_fit(params, like, str(path))
    return task, params, config, camera


def _task_of(path: Any, config: ConfigDict) -> LocoTask:
    """The task of the config that a run or a file of weights comes with."""
    if config.get("task") not in ("loco", None):
        raise weights.WeightsError(f"{path}: holds a run of the task {weights.brief(config.task)}, not loco")
    with stated_by(path):
        return create(config)


def _camera_of(path: Any, numbers: Any, config: ConfigDict) -> Camera:
    """The camera that a file of weights says it was trained with. Raises WeightsError for one that cannot be."""
    with stated_by(path):
        camera = Camera(*map(float, numbers))
        streams.check_camera(camera, streams.volume_of(config), os.fspath(path))
        longest = max(config.volume.image_size)
        if not all(0.02 * longest < f < 200 * longest for f in camera[:2]):
            raise ValueError(f"focal lengths of {camera.fx:g} and {camera.fy:g} pixels")
        return camera


def export(workdir: str, path: str, dtype: Any = None, tune: int = 0, refiner: str = "") -> None:
    """Writes the newest checkpoint of a run, its refiner with it, as one file of weights; see `weights.save`.

    With `tune`, its config says what is best on so many validation frames, see `tuned`. `refiner` takes the place of
    what the run's `config.refiner` says.
    """
    folder = weights.path_of(workdir)
    config = weights.run_config(folder)
    config.refiner = refiner or config.refiner
    task = _task_of(folder, config)
    params = weights.read_run(folder, config, jax.eval_shape(task.init, jax.random.key(0)))
    _save(path, task.for_evaluation(params), config, dtype, tune)


def join(config: ConfigDict, code_predictor: str, path: str, dtype: Any = None, tune: int = 0) -> None:
    """Writes parts that were trained apart, as the authors' were, as one file of weights.

    Args:
      config: of the LoCO that they make; its `vha` and `refiner` say where those come from.
      code_predictor: a file of weights of that kind, see `torch_weights`.
      path: the file to write.
      dtype: see `weights.save`.
      tune: see `export`.

    Raises WeightsError if a part is missing or of another network.
    """
    task = create(config)
    task.check_sources()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    predictor = weights.read("code_predictor", code_predictor, _together(shapes))
    params = task.pretrained(_apart(predictor))
    _save(path, task.for_evaluation(params), config, dtype, tune)


def _save(path: str, params: Any, config: ConfigDict, dtype: Any, tune: int) -> None:
    if tune:
        config = tuned(config, params, tune)
    camera = streams.camera_of(config)  # of the data, which may not be there where the file is used
    plain = weights.portable(config) | ({"refiner": PICTURE} if config.refiner == PICTURE else {})
    weights.save(path, params, {"kind": "loco", "config": plain, "camera": camera}, dtype)


def tuned(config: ConfigDict, params: Any, num_frames: int) -> ConfigDict:
    """The config with the `refine` and `people` that are best for a network on `num_frames` validation frames."""
    config, task = config.copy_and_resolve_references(), create(config)

    def find(params, frame):
        code, features = task.look_at(params, frame.image, frame.camera)
        points = task.points_of_code(params, code, frame.camera, True)
        found = people.find_people(points)
        better = task.refine(params, found, features, frame.camera)
        return points, found, better, frame.camera, frame.joints, task.vha.targets(frame)[1]

    find_all = jax.jit(lambda params, frames: lax.map(functools.partial(find, params), frames))
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    batches = streams.evaluation_batches(config, config.data.validation_split, 1, num_frames, sharding)
    params = jax.device_put(params)
    seen = [jax.device_get(find_all(params, frames)) for frames, _ in batches]
    points, found, better, cameras, true, present = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    if better is not None:
        least_joints, least_stray = best_rules(points, found, better, true, present)
        config.refine.update(least_joints=least_joints, least_stray=least_stray)
        found = jax.device_get(refinement.choose(found, better, least_joints))
    best, _ = suppression.best_people_options(found, cameras, true, present, people_metrics.FOUND_WITHIN)
    config.people = ConfigDict(best._asdict())
    return config


def best_rules(
    points: Points,
    found: People,
    better: People,
    true: np.ndarray,
    present: np.ndarray,
    least_joints: Sequence[int] = (1, 3, 5, 7, 9, 11, skeleton.NUM_JOINTS),
    least_strays: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6),
) -> tuple[int, float]:
    """With which `least_joints` and `least_stray` of those given refinement gains most F1 of joints.

    A gain is the mean over the three thresholds; but first, none may lose, or else as little as can be.

    Args:
      points: of each frame, a leading axis F.
      found: `[F]` people of those, not refined.
      better: the same, all refined.
      true: `[F, P, 14, 3]` joints in metres.
      present: `[F, P, 14]` which of those are targets.
    """
    wanted = [metrics.people_rows(*frame) for frame in zip(true, present)]

    def f1(frames):
        return np.array([metrics.mean_scores(metrics.batch_scores(frames, wanted, metres)).f1 for metres in METRES])

    plain = f1([metrics.peak_rows(*frame) for frame in zip(points.xyz, points.scores)])

    def gain(rules):
        chosen = refinement.choose(found, better, rules[0])
        count = jax.vmap(functools.partial(refinement.all_joints, least_stray=rules[1]))
        clouds = jax.device_get(count(points.xyz, points.scores, chosen))
        gains = f1([_rows(*cloud) for cloud in zip(*clouds)]) - plain
        return min(gains.min(), 0.0), gains.mean()

    return max(itertools.product(least_joints, least_strays), key=gain)


def _apart(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A network's variables as top-level parts: what is trained, and the statistics that are not."""
    statistics = {"batch_stats": variables["batch_stats"]} if "batch_stats" in variables else {}
    return {"predictor": {"params": variables["params"]}, **statistics}


def _with_trunk(params: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The predictor's parameters and statistics with those of a trained trunk in place."""
    trained = params["predictor"]["params"]
    if "batch_stats" not in params:
        taken = jax.tree.map(jnp.asarray, weights.read("trunk", source, trunk.without_head(params["predictor"])))
        return {"predictor": {"params": {**trained, **taken["params"]}}}
    statistics = params["batch_stats"]
    like = {"params": trained["trunk"], "batch_stats": statistics["trunk"]}
    taken = jax.tree.map(jnp.asarray, weights.read("inception", source, like))
    return {
        "predictor": {"params": {**trained, "trunk": taken["params"]}},
        "batch_stats": {**statistics, "trunk": taken["batch_stats"]},
    }


def _together(params: Mapping[str, Any]) -> dict[str, Any]:
    statistics = {"batch_stats": params["batch_stats"]} if "batch_stats" in params else {}
    return {**params["predictor"], **statistics}


def _touching(voxels_PxJx3: jax.Array, present_PxJ: jax.Array) -> jax.Array:
    """Which present joints `[P, J]` are at most one voxel away, in every axis, from another person's of their type."""
    apart_PxPxJ = jnp.abs(voxels_PxJx3[:, None] - voxels_PxJx3[None]).max(axis=-1)
    others_PxPx1 = ~jnp.eye(len(voxels_PxJx3), dtype=bool)[..., None]
    return present_PxJ & ((apart_PxPxJ <= 1) & others_PxPx1 & present_PxJ[None]).any(axis=1)


def _measured_pairs() -> np.ndarray:
    return np.int32(list(skeleton.PAIRS.values())).T


def _apart_in_picture(voxels_PxJx3: jax.Array, present_PxJ: jax.Array, pairs_2xS: np.ndarray) -> jax.Array:
    """Of which of the pairs of joint types both are there and `teaching.APART` `[P, S]`."""
    right, left = pairs_2xS
    away_PxS = jnp.linalg.norm(voxels_PxJx3[:, right, :2] - voxels_PxJx3[:, left, :2], axis=-1)
    return present_PxJ[:, right] & present_PxJ[:, left] & (away_PxS >= teaching.APART)


def _as_rows(points: Points) -> tuple[jax.Array, jax.Array, jax.Array]:
    num_joints, num_peaks = points.scores.shape
    types = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32)[:, None], (num_joints, num_peaks))
    return points.xyz.reshape(-1, 3), types.reshape(-1), points.scores.reshape(-1) > 0


def _rows(points_Mx3: np.ndarray, types_M: np.ndarray, keep_M: np.ndarray) -> np.ndarray:
    return np.concatenate([types_M[keep_M, None], points_Mx3[keep_M]], axis=1).astype(np.float64)


def _frame(batch: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], batch)


def _time(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What a jitted function returns, and the median of five times in seconds, compilation apart."""
    result, times = jax.block_until_ready(function(*args)), []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return result, float(np.median(times))
