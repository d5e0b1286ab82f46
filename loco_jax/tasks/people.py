"""Scoring of people whom networks find in pictures, whatever the networks' representation."""

import abc
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, UInt8

from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.pose import heatmaps, metrics, people_metrics, protocols, refinement, suppression
from loco_jax.pose.association import People
from loco_jax.pose.people import Points, find_people, find_points
from loco_jax.tasks import Task, finite, pretrained

METRES = (0.4, 0.8, 1.2)  # thresholds of the scores of joints
MATCHINGS = ("hungarian", "nearest")
RANKED_BY = 0.8  # metres: frames are ranked by their F1 at this threshold
GROUND_TRUTH = "GT volumetric heatmaps"
SUBVOXEL = "GT volumetric heatmaps, sub-voxel"

Systems = dict[str, tuple[Array, Array, Array]]
Groups = dict[str, tuple[Array, Array]]


class Found(NamedTuple):
    """The results of a task's systems on a batch of pictures. A task leaves out what it does not have.

    Attributes:
      systems: by name, points `[B, M, 3]` in metres, their joint types `[B, M]` and which of them count `[B, M]`.
      people: by name, joints `[B, N, 14, 3]` in metres and which of them are known `[B, N, 14]`. Of the people found in
        the picture, refined or not, only those whom `suppression` keeps.
      true_present: `[B, P, J]` which true joints are targets.
      touching: `[B, P, J]` which of those touch another, see `touching`.
      overflow: `[B]` whether there were more peaks of a type than are read.
      code_error: `[B]` mean squared error of the code.
      own_side: by the code's system `[B, 4]`, see `sides.own_side`.
      side_joints: `[B, 4]` the number of joints of each pair that `own_side` looks at.
    """

    systems: Systems
    people: Groups
    true_present: Array
    touching: Array
    overflow: Array | None = None
    code_error: Array | None = None
    own_side: Mapping[str, Array] = {}
    side_joints: Array | None = None


class Record(NamedTuple):
    """One frame's scores.

    Attributes:
      scores: by (system, matching, threshold in words).
      errors: by system, number and sum in metres of the distances of joints matched within the largest threshold.
      people: by system, the measures of its people.
      protocols: by system, the errors of its people in the protocols of other data sets.
      found: the frame's `Found`, without systems and people.
    """

    scores: dict[tuple[str, str, str], metrics.Scores]
    errors: dict[str, tuple[int, float]]
    people: dict[str, people_metrics.Found]
    protocols: dict[str, protocols.Errors]
    found: Found


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeopleTask(Task):
    """A task that finds people in pictures. Its `predict` returns `Found`, for which `results` makes the systems.

    Attributes:
      network: from pictures to a representation of people.
      refiner_weights: where the refiner's parameters come from; "" for no refiner.
      least_joints: joints that a person needs to be refined, see `refinement.choose`.
      least_stray: score above which a joint that belongs to nobody counts after refinement.
      kept: the rules by which people are named. The scores of joints count all joints.
    """

    network: Any
    refiner_weights: str = ""
    least_joints: int = 1
    least_stray: float = 0.6
    kept: suppression.Options = suppression.Options()

    stages = 1
    ranked_by = f"F1 @{RANKED_BY} m"

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of the system in tables. The refined system has a "+" after it."""

    @abc.abstractmethod
    def people_of_picture(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture, corrected if the task corrects them, before suppression."""

    def named_people(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture whom suppression keeps. The joints and scores of all others are 0."""
        return suppression.suppress(self.people_of_picture(params, image, camera), camera, self.kept)

    def people_to_refine(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture as a refiner learns from them. Their scores distinguish holes from joints."""
        return self.people_of_picture(params, image, camera)

    @property
    def needs_refiner(self) -> bool:
        """Whether an evaluation reads a refiner's parameters."""
        return bool(self.refiner_weights)

    def for_evaluation(self, params: Any) -> Any:
        """The parameters, and the refiner's if there is one."""
        if not self.needs_refiner:
            return params
        refiner = pretrained.read("refiner", "refiner", self.refiner_weights, pretrained.init_refiner)
        return {**params, "refiner": refiner}

    def refine(self, params: Any, found: People, features: Any, camera: Camera) -> People | None:
        """All people with corrected and completed poses; None if nothing corrects them.

        `features` are those of the picture, for a task that reads poses from them.
        """
        return refinement.refine(params["refiner"], found) if "refiner" in params else None

    def correct(self, params: Any, found: People, features: Any, camera: Camera) -> People | None:
        """All people, refined if they have at least `least_joints` joints; None if nothing corrects them."""
        better = self.refine(params, found, features, camera)
        return None if better is None else refinement.choose(found, better, self.least_joints)

    def results(
        self,
        points: Points,
        found: People,
        corrected: People | None,
        camera: Camera,
        known: Mapping[str, Points] | None = None,
    ) -> tuple[Systems, Groups]:
        """A frame's `Found.systems` and `Found.people`, of the joints and the people that the network finds.

        With `corrected` people, see `correct`, there is a "+" system. `known` are points of further systems, which are
        made of the true people, by name.
        """
        systems, groups = {self.name: _as_rows(points)}, {self.name: found}
        if corrected is not None:
            refined = f"{self.name}+"
            systems[refined] = refinement.all_joints(points.xyz, points.scores, corrected, self.least_stray)
            groups[refined] = corrected
        groups = {name: suppression.suppress(group, camera, self.kept) for name, group in groups.items()}
        for name, cloud in (known or {}).items():
            systems[name], groups[name] = _as_rows(cloud), find_people(cloud)
        return systems, {name: (group.joints, group.known) for name, group in groups.items()}

    def score_frame(self, found: Found, frame: Frames) -> Record:
        seen = people_metrics.see(frame.joints, found.true_present, frame.camera)
        true = metrics.people_rows(seen.joints, seen.known)
        annotated = np.ones(skeleton.NUM_JOINTS, bool) if frame.origin is None else np.asarray(frame.origin.annotated)
        scores, errors, counts, published = {}, {}, {}, {}
        for system, (points, types, keep) in found.systems.items():
            rows = metrics.cloud_rows(
                np.asarray(points), np.asarray(types), np.asarray(keep) & annotated[np.asarray(types)]
            )
            for matching, threshold in itertools.product(MATCHINGS, METRES):
                score = metrics.joint_scores(rows, true, threshold, matching)
                scores[system, matching, f"{threshold} m"] = score
            pairs = metrics.match(rows, true, METRES[-1])
            distances = metrics.matched_errors(rows, true, pairs)
            errors[system] = (len(distances), float(distances.sum()))
            joints, known = found.people[system]
            known = np.asarray(known) & annotated
            counts[system] = people_metrics.measure(seen, joints, known, frame.camera, rows, pairs)
            published[system] = _published(joints, known, found.true_present, frame)
        return Record(scores, errors, counts, published, found._replace(systems={}, people={}))

    def rank(self, record: Record) -> float:
        refined = f"{self.name}+"
        system = refined if refined in record.errors else self.name
        return record.scores[system, "hungarian", f"{RANKED_BY} m"].f1

    def summary(self, records: list[Record]) -> dict[str, Any]:
        """By system: mean scores over frames, mean errors in cm, measures of people, and correct sides of joints."""
        # The systems that look at pictures come first, then those that are made of true people.
        first = (self.name, f"{self.name}+")
        names = sorted(records[0].errors, key=lambda name: (name not in first, name.startswith("GT "), name))
        means = mean_scores([r.scores for r in records])
        systems: dict[str, dict[str, Any]] = {name: means[name] for name in names}
        for system, entry in systems.items():
            count, total = (sum(r.errors[system][i] for r in records) for i in range(2))
            entry["error_cm"] = 100 * total / count if count else None
            entry["people"] = people_metrics.summarise([r.people[system] for r in records])
            entry["protocols"] = protocols.summarise([r.protocols[system] for r in records])
        found = [r.found for r in records]
        for system in found[0].own_side:
            won, joints = (np.sum(x, axis=0) for x in zip(*((f.own_side[system], f.side_joints) for f in found)))
            systems[system]["own_side"] = {
                name: {"share": float(w / n) if n else None, "joints": int(n)}
                for name, w, n in zip(skeleton.PAIRS, won, joints)
            }
        summary = {"network": type(self.network).__name__, "frames": len(records), "systems": systems}
        code_errors = [float(f.code_error) for f in found if f.code_error is not None]
        if code_errors:
            summary["code_error"] = finite(np.mean(code_errors))
        summary["joints"] = sum(int(f.true_present.sum()) for f in found)
        summary["joints_that_touch"] = sum(int(f.touching.sum()) for f in found)
        summary["made_of"] = self.made_of()
        if found[0].overflow is not None:
            summary["frames_with_too_many_peaks"] = sum(bool(f.overflow) for f in found)
        return summary

    def made_of(self) -> dict[str, Any]:
        """The parts of the system and the rules that it follows, for its summary."""
        return {
            "predictor": type(self.network).__name__,
            "refiner": self.refiner_weights or None,
            "least_joints": self.least_joints,
            "least_stray": self.least_stray,
            **self.kept._asdict(),
        }

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        entry = summary["systems"][self.name]
        found = summary["systems"].get(f"{self.name}+", entry)["people"]
        shares = {name: side["share"] for name, side in entry.get("own_side", {}).items()}
        known = [share for share in shares.values() if share is not None]
        numbers = {
            **{f"f1_{t}m": entry["hungarian"][f"{t} m"]["f1"] for t in METRES},
            "code_loss": summary.get("code_error"),
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


def _published(joints: Array, known: Array, in_view: Array, frame: Frames) -> protocols.Errors:
    """A system's errors for the people of whom a joint is in view, see `protocols`."""
    there = np.asarray(in_view).any(axis=-1)
    true, present = (np.asarray(x)[there] for x in (frame.joints, frame.present))
    exist = np.asarray(known).any(axis=-1)
    predicted, known = np.asarray(joints)[exist], np.asarray(known)[exist]
    uv = [cameras.project_on_host(frame.camera, np.asarray(xyz, np.float64)) for xyz in (predicted, true)]
    if frame.origin is None:  # pixels count as those of JTA's files, whatever the scale
        pixels, occluded, group, universal = float(frame.camera.fx) / float(cameras.JTA.fx), None, 0, None
    else:
        pixels, occluded = float(frame.origin.zoom), np.asarray(frame.origin.occluded)[there]
        group, universal = int(frame.origin.group), frame.origin.universal
        universal = None if universal is None else np.asarray(universal)[there]
    partner = protocols.match(uv[0], known, uv[1], present, protocols.PIXELS * pixels)
    return protocols.measure(predicted, known, true, present, partner, occluded, group, universal)


def mean_scores(frames: Sequence[Mapping[tuple[str, str, str], metrics.Scores]]) -> dict[str, dict[str, dict]]:
    """The means of frames' scores as nested dicts, by the parts of their keys."""
    means: dict[str, dict[str, dict]] = {}
    for first, second, third in frames[0]:
        mean = metrics.mean_scores([scores[first, second, third] for scores in frames])
        means.setdefault(first, {}).setdefault(second, {})[third] = mean._asdict()
    return means


def targets(frame: Frames, volume: Volume) -> tuple[Float[jax.Array, "P J 3"], Bool[Array, "P J"]]:
    """Continuous voxels of a frame's joints, and which of them are targets: those that lie in the volume."""
    present_PxJ = frame.present & volume.in_view(frame.camera, frame.joints)
    return volume.to_voxels(frame.camera, frame.joints), present_PxJ


def touching(voxels_PxJx3: Float[Array, "P J 3"], present_PxJ: Bool[Array, "P J"]) -> Bool[Array, "P J"]:
    """Which present joints are at most one voxel, in every axis, from another person's joint of their type.

    Two such joints have one peak in the heatmap, or a plateau.
    """
    voxels_PxJx3 = jnp.round(voxels_PxJx3)
    apart_PxPxJ = jnp.abs(voxels_PxJx3[:, None] - voxels_PxJx3[None]).max(axis=-1)
    others_PxPx1 = ~jnp.eye(len(voxels_PxJx3), dtype=bool)[..., None]
    return present_PxJ & ((apart_PxPxJ <= 1) & others_PxPx1 & present_PxJ[None]).any(axis=1)


def true_heatmaps(
    frame: Frames, volume: Volume, sigma: float, max_peaks: int, dtype: DTypeLike = jnp.float32
) -> dict[str, Points]:
    """The points that are read from a frame's true heatmaps, by system: on whole voxels, and sub-voxel.

    No network that predicts heatmaps of this volume can be expected to score higher.
    """
    voxels, present = targets(frame, volume)

    def points(subvoxel):
        options = {"sigma": sigma, "subvoxel": subvoxel, "dtype": dtype}
        volumes = heatmaps.render(voxels, present, volume.shape, **options)
        return find_points(volumes, frame.camera, volume, max_peaks, subvoxel)

    return {GROUND_TRUTH: points(False), SUBVOXEL: points(True)}


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """The result of a jitted function, and the median of its time in five calls, in seconds without compilation."""
    result, times = jax.block_until_ready(function(*args)), []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return result, float(np.median(times))


def _as_rows(points: Points) -> tuple[Array, Array, Array]:
    num_joints, num_peaks = points.scores.shape
    types = jnp.broadcast_to(jnp.arange(num_joints, dtype=jnp.int32)[:, None], (num_joints, num_peaks))
    return points.xyz.reshape(-1, 3), types.reshape(-1), points.scores.reshape(-1) > 0
