"""Training and scoring of LoCO: from a picture, through a predicted code, to people (method sections 4 to 6)."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, PRNGKeyArray, UInt8

from loco_jax import ops
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models import compact, vha
from loco_jax.pose import metrics, people, people_metrics, reading, refinement, suppression
from loco_jax.pose.association import People
from loco_jax.pose.people import Points
from loco_jax.tasks import Task, pretrained, sides, teaching, trunk
from loco_jax.tasks.vha import METRES, VhaTask

MATCHINGS = ("hungarian", "nearest")
RANKED_BY = 0.8  # metres: frames are ranked by their F1 at this threshold
GROUND_TRUTH = "GT volumetric heatmaps"
SUBVOXEL = "GT volumetric heatmaps, sub-voxel"
PICTURE = "picture"  # in place of a refiner: the poses that the compact predictor reads at people's places


class Found(NamedTuple):
    """What is found in a batch of pictures.

    Attributes:
      code_error: `[B]` mean squared error of the code.
      overflow: `[B]` whether there were more peaks of a type than `max_peaks`.
      systems: by name, points `[B, M, 3]` in metres, their joint types `[B, M]` and which of them count `[B, M]`.
      people: by name, joints `[B, N, 14, 3]` and which of them are known `[B, N, 14]`. Of the people found in the
        picture, refined or not, only those whom `suppression` keeps.
      true_present: `[B, P, J]` which true joints are targets.
      touching: `[B, P, J]` which of those are at most a voxel from another of their type. Two such joints have one peak
        in the heatmap, or a plateau.
      own_side: by whose code `[B, 4]`, see `sides.own_side`.
      side_joints: `[B, 4]` how many joints of each pair `own_side` looks at.
    """

    code_error: Array
    overflow: Array
    systems: dict[str, tuple[Array, Array, Array]]
    people: dict[str, tuple[Array, Array]]
    true_present: Array
    touching: Array
    own_side: dict[str, Array]
    side_joints: Array


class Record(NamedTuple):
    """One frame's scores.

    Attributes:
      scores: by (system, matching, threshold in words).
      errors: by system, number and sum in metres of the distances of joints matched within the largest threshold.
      people: by system, how well its people are found.
      code_error, overflow, own_side, side_joints: as in `Found`.
      targets: how many true joints there are, and how many of them touch another.
    """

    scores: dict[tuple[str, str, str], metrics.Scores]
    errors: dict[str, tuple[int, float]]
    people: dict[str, people_metrics.Found]
    code_error: float
    overflow: bool
    targets: tuple[int, int]
    own_side: dict[str, Array]
    side_joints: Array


@dataclasses.dataclass(frozen=True)
class LocoTask(Task):
    """The network learns to predict codes from pictures. The trained autoencoder that defines the codes is frozen.

    Attributes:
      vha: the autoencoder, its volume and its targets.
      network: from pictures to codes.
      code_weight: weight of the code's mean squared error, the published loss.
      heatmap_weight: weight of the cross-entropy of the heatmaps that the autoencoder makes of the predicted code.
      vha_weights: where the autoencoder's parameters come from.
      refiner_weights: where the refiner's parameters come from; "" for no refiner, `PICTURE` for the poses that the
        network itself reads.
      trunk_weights: where the trunk's parameters come from: ImageNet weights for the published trunk, a run of the task
        trunk for the compact one; "" for new ones.
      side_weight: weight of telling right from left in the heatmaps, see `sides.error`.
      teaching_weight: weight of the other losses of the compact predictor's features, see `teaching.losses`.
      least_joints: joints that a person needs to be refined, see `refinement.choose`.
      least_stray: score above which a joint that belongs to nobody counts after refinement.
      kept: which people are named. The scores of joints count all joints.
    """

    vha: VhaTask
    network: Any
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

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters, by part: the autoencoder, the predictor, and its normalisation's statistics if it has any."""
        vha_key, key = jax.random.split(key)
        variables = trunk.init(self.network, self.vha.volume, key)
        return {"vha": self.vha.init(vha_key), **pretrained.split_variables(variables)}

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """The parameters with those of the trained autoencoder, and of the trained trunk if there is one."""
        if initialised:
            return params
        params = {**params, "vha": pretrained.read("vha", "vha", self.vha_weights, self.vha.init)}
        return {**params, **pretrained.with_trunk(params, self.trunk_weights)} if self.trunk_weights else params

    @property
    def needs_refiner(self) -> bool:
        """Whether a refiner's parameters are to be read for an evaluation."""
        return self.refiner_weights not in ("", PICTURE)

    def for_evaluation(self, params: Any) -> Any:
        """The parameters, and the refiner's if there is one."""
        if not self.needs_refiner:
            return params
        refiner = pretrained.read("refiner", "refiner", self.refiner_weights, pretrained.init_refiner)
        return {**params, "refiner": refiner}

    def describe(self) -> str:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        parameters = sum(x.size for x in jax.tree.leaves(shapes["predictor"]))
        height, width = self.vha.volume.image_size
        code = vha.code_shape(self.vha.volume.shape, self.vha.network.level)
        return (
            f"{type(self.network).__name__}({self.network.level}): {parameters:,} parameters; pictures of "
            f"{height} x {width} to a code of {' x '.join(map(str, code))}. {self.vha.describe()}"
        )

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The code's mean squared error (method section 4), and the errors of the heatmaps that it stands for."""
        assert frames.image is not None
        code, features = self.look(params, frames.image, frames.camera)
        taught: dict[str, jax.Array] = {}
        if features is not None:
            volume = self.vha.volume
            taught = teaching.losses(self.network, pretrained.join_variables(params), features, frames, volume, key)
        voxels_BxPxJx3, present_BxPxJ = jax.vmap(self.vha.targets)(frames._replace(image=None))
        target = self.vha.encode_targets(params["vha"], voxels_BxPxJx3, present_BxPxJ)
        errors = {"code_error": jnp.mean(jnp.square(code - lax.stop_gradient(target).astype(jnp.float32)))}
        loss = self.code_weight * errors["code_error"] + self.teaching_weight * sum(taught.values())
        if self.heatmap_weight:
            decoded = ops.apply(self.vha.network, params["vha"], code, method="decode_features")
            targets = voxels_BxPxJx3, present_BxPxJ
            errors["heatmap_error"] = self.vha.entropy_of_features(params["vha"], decoded, *targets)
            loss = loss + self.heatmap_weight * errors["heatmap_error"]
            if self.side_weight:
                errors["side_error"] = sides.error(self.vha.network, params["vha"], self.vha.volume, decoded, *targets)
                loss = loss + self.side_weight * errors["side_error"]
        return loss, errors | taught

    def look(
        self, params: Any, image: UInt8[Array, "B height width 3"], camera: Camera
    ) -> tuple[Float[jax.Array, "B h w d"], compact.Features | None]:
        """Codes of pictures by cameras with fields `[B]`; and the codes' features if `teaching_weight` is not 0."""
        variables = pretrained.join_variables(params)
        if not self.teaching_weight:
            return ops.apply(self.network, variables, image, camera).astype(jnp.float32), None
        features = ops.apply(self.network, variables, image, camera, method="features")
        code = ops.apply(self.network, variables, features, image.shape[1:3], method="code")
        return code.astype(jnp.float32), features

    def look_at(
        self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera
    ) -> tuple[Float[jax.Array, "h w d"], compact.Features | None]:
        """The code of one picture, and its features as a batch of one."""
        code, features = self.look(
            params, image[None], jax.tree.map(lambda f: jnp.asarray(f, jnp.float32)[None], camera)
        )
        return code[0], features

    def refine(self, params: Any, found: People, features: compact.Features | None, camera: Camera) -> People | None:
        """People with corrected and completed poses, all of them; None if nothing corrects them."""
        if "refiner" in params:
            return refinement.refine(params["refiner"], found)
        if self.refiner_weights != PICTURE:
            return None
        places = reading.places(found, camera, self.vha.volume.image_size)
        numbers = ops.apply(
            self.network, pretrained.join_variables(params), features, places[None], method="read_poses"
        )[0]
        return reading.settle(found, reading.unpack(numbers).offsets)

    def points_of_code(self, params: Any, code: Float[jax.Array, "h w d"], camera: Camera, subvoxel: bool) -> Points:
        """The points of the heatmaps that the autoencoder makes of a code."""
        options: dict[str, Any] = {
            "max_peaks": self.vha.max_peaks,
            "subvoxel": subvoxel,
            "volume_dtype": self.vha.volume_dtype,
        }
        found = ops.decode_peaks(self.vha.network, params["vha"], code, self.vha.volume.shape[:2], **options)
        return people.in_metres(found, camera, self.vha.volume)

    def people_of_picture(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture, corrected as `refiner_weights` says, before suppression."""
        code, features = self.look_at(params, image, camera)
        found = people.find_people(self.points_of_code(params, code, camera, subvoxel=True))
        better = self.refine(params, found, features, camera)
        return found if better is None else refinement.choose(found, better, self.least_joints)

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
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
            apart = sides.far_apart(voxels, present, sides.MEASURED)
            side_joints = 2 * apart.sum(axis=0, dtype=jnp.int32)
            decoder = self.vha.network, params["vha"], volume
            own_side = {name: sides.own_side(*decoder, code, voxels, present) for name, code in codes.items()}
            return Found(code_error, overflow, systems, groups, present, touching, own_side, side_joints)

        return lax.map(one, frames)

    def score(self, predicted: Found, frames: Frames) -> list[Record]:
        """A record for each frame. Arguments are NumPy arrays."""
        both = predicted, frames._replace(image=None)
        return [self._score(*_frame(both, i)) for i in range(len(frames.present))]

    def _score(self, found: Found, frame: Frames) -> Record:
        seen = people_metrics.see(frame.joints, found.true_present, frame.camera)
        true = metrics.people_rows(seen.joints, seen.known)
        scores, errors, counts = {}, {}, {}
        for system, cloud in found.systems.items():
            rows = metrics.cloud_rows(*map(np.asarray, cloud))
            for matching in MATCHINGS:
                for threshold in METRES:
                    score = metrics.joint_scores(rows, true, threshold, matching)
                    scores[system, matching, f"{threshold} m"] = score
            pairs = metrics.match(rows, true, METRES[-1])
            distances = metrics.matched_errors(rows, true, pairs)
            errors[system] = (len(distances), float(distances.sum()))
            counts[system] = people_metrics.measure(seen, *found.people[system], frame.camera, rows, pairs)
        targets = int(found.true_present.sum()), int(found.touching.sum())
        error, overflow = float(found.code_error), bool(found.overflow)
        return Record(scores, errors, counts, error, overflow, targets, found.own_side, found.side_joints)

    def rank(self, record: Record) -> float:
        refined = f"{self.name}+"
        system = refined if refined in record.errors else self.name
        return record.scores[system, "hungarian", f"{RANKED_BY} m"].f1

    def summary(self, records: list[Record]) -> dict[str, Any]:
        """By system: mean scores over frames, mean errors in cm, how well people are found, and joints' sides."""
        # What was found in pictures comes first, then what true codes and true heatmaps allow.
        first = (self.name, f"{self.name}+")
        names = sorted(records[0].errors, key=lambda name: (name not in first, GROUND_TRUTH in name, name))
        systems: dict[str, dict[str, Any]] = {name: {} for name in names}
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
            "made_of": {
                "predictor": type(self.network).__name__,
                "autoencoder": self.vha.name,
                "refiner": self.refiner_weights or None,
                "least_joints": self.least_joints,
                "least_stray": self.least_stray,
                **self.kept._asdict(),
            },
            "frames_with_too_many_peaks": sum(r.overflow for r in records),
        }

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds of the stages from a picture to people, measured on the first frame of a batch."""
        frame = _frame(frames, 0)
        find = jax.jit(functools.partial(self.points_of_code, subvoxel=self.vha.subvoxel))
        look = jax.jit(self.look_at)
        (code, features), seconds = _time(look, params, frame.image, frame.camera)
        stages = {"picture to code": seconds}
        points, stages["code to points"] = _time(find, params, code, frame.camera)
        found, stages["points to people"] = _time(jax.jit(people.find_people), points)
        better, seconds = _time(jax.jit(self.refine), params, found, features, frame.camera)
        if better is not None:
            stages["refinement"] = seconds
        return stages

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        entry = summary["systems"][self.name]
        found = summary["systems"].get(f"{self.name}+", entry)["people"]
        shares = {name: side["share"] for name, side in entry["own_side"].items()}
        known = [share for share in shares.values() if share is not None]
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
            **{f"side_{name}": share for name, share in shares.items()},
        }
        return {name: value for name, value in numbers.items() if value is not None}


def _touching(voxels_PxJx3: Array, present_PxJ: Array) -> Array:
    """Which present joints `[P, J]` are at most one voxel, in every axis, from another person's joint of their type."""
    apart_PxPxJ = jnp.abs(voxels_PxJx3[:, None] - voxels_PxJx3[None]).max(axis=-1)
    others_PxPx1 = ~jnp.eye(len(voxels_PxJx3), dtype=bool)[..., None]
    return present_PxJ & ((apart_PxPxJ <= 1) & others_PxPx1 & present_PxJ[None]).any(axis=1)


def _as_rows(points: Points) -> tuple[Array, Array, Array]:
    num_joints, num_peaks = points.scores.shape
    types = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32)[:, None], (num_joints, num_peaks))
    return points.xyz.reshape(-1, 3), types.reshape(-1), points.scores.reshape(-1) > 0


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
