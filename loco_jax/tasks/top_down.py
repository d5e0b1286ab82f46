"""Training and scoring of a top-down system: boxes of people, then the pose in each, as in the poster's baseline.

All its networks are trained together. Crops in training are those of true people, with jittered boxes.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Bool, Float, PRNGKeyArray, UInt8

from loco_jax import ops
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import top_down
from loco_jax.models.top_down import CROP, HEATMAP, STRIDE
from loco_jax.pose import boxes, lifting, reading
from loco_jax.pose.association import People
from loco_jax.pose.boxes import Boxes
from loco_jax.pose.people import Points
from loco_jax.tasks import count, people, pretrained, teaching, trunk
from loco_jax.tasks.people import PeopleTask

_HIPS = np.array(skeleton.PAIRS["hips"], np.int32)
_CROPS = 12  # of a picture in training
_SPREAD = 1.0  # cells of a crop's heatmaps, of the Gaussians at joints
_CENTRE, _HEATMAPS = 0.2, 2.0  # weights of entropies; those of errors in units are 1
# Units of errors. The Huber loss is quadratic below one unit and linear above.
_BOX = np.array([0.2, 0.2, 0.1, 0.1], np.float32)  # cells, and logarithms of sides: a tenth of them
_OFFSET = 0.3  # metres
_PLACE = np.array([0.03, 0.03, 0.1], np.float32)  # crops, and the distance's logarithm: a tenth of it


class Seen(NamedTuple):
    """True people in pictures.

    Attributes:
      pixels: of joints; 0 for those that are not known.
      known: which joints are targets.
      boxes: around those, see `boxes.around`.
      there: who has any.
    """

    pixels: Float[Array, "*batch P J 2"]
    known: Bool[Array, "*batch P J"]
    boxes: Float[Array, "*batch P 4"]
    there: Bool[Array, "*batch P"]


class Poses(NamedTuple):
    """The networks' results for boxes.

    Attributes:
      squares: around the boxes; the crops.
      heatmaps: logits of the joints' heatmaps.
      joints: places in the crops.
      there: logits that the joint is in the picture.
      offsets: metres from the mid-hip, in axes whose z is the ray to it.
      root: the mid-hip's place in the crops.
      distance: the logarithm of its distance in metres.
    """

    squares: Float[Array, "N 4"]
    heatmaps: Float[Array, "N 16 16 J"]
    joints: Float[Array, "N J 2"]
    there: Float[Array, "N J"]
    offsets: Float[Array, "N J 3"]
    root: Float[Array, "N 2"]
    distance: Float[Array, "N"]


class Found(NamedTuple):
    """The results for a batch of pictures, and the true people that detector and crops are compared with.

    Attributes:
      people: see `people.Found`.
      boxes: of the detector.
      true: the true people.
      pixels: of the joints that are found in true boxes.
    """

    people: people.Found
    boxes: Boxes
    true: Seen
    pixels: Float[Array, "B P J 2"]


class Record(NamedTuple):
    """One frame's scores.

    Attributes:
      people: see `people.Record`.
      scores, hits: of the detector's boxes, and which of them find a true one.
      true: how many true boxes there are.
      right, counted: how many joints in true boxes are right, of how many, see `boxes.correct`.
    """

    people: people.Record
    scores: Float[np.ndarray, "N"]
    hits: Bool[np.ndarray, "N"]
    true: int
    right: int
    counted: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopDownTask(PeopleTask):
    """The networks learn to find people's boxes, the 2D joints in them, the pose, and where the person is.

    Attributes:
      network: `models.top_down.TopDown`.
      volume: targets are the joints in it, and true heatmaps are made of it.
      sigma: of the Gaussians of the true heatmaps in voxels.
      max_peaks: how many people are looked for, and how many joints of a type the true heatmaps give.
    """

    network: Any
    volume: Volume
    sigma: float
    max_peaks: int

    @property
    def name(self) -> str:
        return "Top-down"

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters."""
        return pretrained.split_variables(trunk.init(self.network, self.volume, key))

    def describe(self) -> str:
        height, width = self.volume.image_size
        return f"TopDown: {count(self.shapes()):,} parameters; pictures of {height} x {width}, crops of {CROP} x {CROP}"

    # ---- Stages

    def boxes_of_picture(
        self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera, number: int
    ) -> Boxes:
        """The best boxes in a picture, at most `number`."""
        numbers_HxWx5 = self._detect(params, image[None], camera.as_batch())[0]
        heat = nn.sigmoid(numbers_HxWx5[..., 0])
        return boxes.find(heat, numbers_HxWx5[..., 1:], STRIDE, number)

    def _detect(self, params, image, camera):
        """A detector's numbers `[B, H, W, 5]` at the cells of the pictures."""
        features = self._apply(params, image, camera, method="features")
        rows, columns = (-(-size // STRIDE) for size in self.volume.image_size)
        return self._apply(params, features, method="detect")[:, :rows, :columns]

    def poses_in_boxes(
        self, params: Any, crops: Float[Array, "N 64 64 3"], seen: Float[Array, "N 4"], squares: Float[Array, "N 4"]
    ) -> Poses:
        """The poses of the people in crops.

        Args:
          crops: of `squares`, see `boxes.crops`.
          seen: the boxes, see `lifting.seen_from`.
          squares: around the boxes, see `boxes.squares`.
        """
        pose = self._apply(params, crops, method="look")
        joints = top_down.places(pose.heatmaps)
        # Lifting learns from the 2D joints as they are found, and does not change them.
        known = lax.stop_gradient((joints, nn.sigmoid(pose.there)))
        offsets = self._apply(params, *known, method="lift")
        numbers = self._apply(params, pose, *known, seen, method="place")
        root = known[0][:, _HIPS].mean(axis=1) + numbers[:, :2]
        distance = lifting.ordinary_distance(seen) + numbers[:, 2]
        return Poses(squares, pose.heatmaps, joints, pose.there, offsets, root, distance)

    def people_in_boxes(
        self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera, found: Boxes
    ) -> People:
        """The people in a picture's boxes, one in each whose score is above 0.

        A joint's score is the probability that it is in the picture. Below one half the joint is a hole, except for the
        head, without which there is no person. See `with_box_scores`.
        """
        squares = boxes.squares(found.boxes)
        crops, seen = boxes.crops(image, squares, CROP), lifting.seen_from(found.boxes, camera)
        poses = self.poses_in_boxes(params, crops, seen, squares)
        root = boxes.from_crop(poses.root[:, None], squares)[:, 0]
        joints = lifting.compose(poses.offsets, root, jnp.exp(poses.distance), camera)
        surely = nn.sigmoid(poses.there)
        known = ((surely > 0.5).at[:, 0].set(True)) & (found.scores > 0)[:, None]
        scores = jnp.where(known, surely, 0.0)
        strays = jnp.zeros(known.T.shape, bool)
        return People(jnp.where(known[..., None], joints, 0.0), scores, strays)

    def people_of_picture(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture, refined if there is a refiner, before suppression."""
        found = self.boxes_of_picture(params, image, camera, self.max_peaks)
        group = self.people_in_boxes(params, image, camera, found)
        better = self.correct(params, group, None, camera)
        return with_box_scores(group if better is None else better, found)

    def people_to_refine(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture. A box's score says nothing of which joints are holes, so it does not count."""
        found = self.boxes_of_picture(params, image, camera, self.max_peaks)
        return self.people_in_boxes(params, image, camera, found)

    def _apply(self, params: Any, *arguments: Any, method: str) -> Any:
        return ops.apply(self.network, pretrained.join_variables(params), *arguments, method=method)

    # ---- Training

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The sum of the errors of the detector and of the networks on crops of some people in each picture."""
        assert frames.image is not None
        true = see(frames, self.volume)
        errors = _detector_errors(self._detect(params, frames.image, frames.camera), true)
        choose_key, jitter_key = jax.random.split(key)
        chosen = _choose(true.there, choose_key)

        def of_chosen(x):
            return jax.vmap(lambda x, i: x[i])(x, chosen)

        noise = jax.random.normal(jitter_key, (*chosen.shape, 4), jnp.float32)
        about = boxes.jittered(of_chosen(true.boxes), noise)
        squares = boxes.squares(about)
        crops = jax.vmap(functools.partial(boxes.crops, size=CROP))(frames.image, squares)
        camera = frames.camera.expanded()
        seen = lifting.seen_from(about, camera)
        flat = [x.reshape(-1, *x.shape[2:]) for x in (crops, seen, squares)]
        poses = self.poses_in_boxes(params, *flat)
        joints, present = of_chosen(frames.joints), of_chosen(frames.present)
        root = cameras.project(camera, joints[:, :, _HIPS].mean(axis=2))
        joints, present, root, pixels, known = (
            x.reshape(-1, *x.shape[2:]) for x in (joints, present, root, of_chosen(true.pixels), of_chosen(true.known))
        )
        errors |= _joint_errors(poses, pixels, known)
        errors |= _pose_errors(poses, joints, root, known.any(axis=-1) & present.all(axis=-1))
        return functools.reduce(operator.add, errors.values()), errors

    # ---- Scores

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """Finds the people in pictures. If `thorough`, also what the true heatmaps would give."""
        del key

        def one(frame):
            found = self.boxes_of_picture(params, frame.image, frame.camera, self.max_peaks)
            seen = self.people_in_boxes(params, frame.image, frame.camera, found)
            better = self.correct(params, seen, None, frame.camera)
            group, better = with_box_scores(seen, found), None if better is None else with_box_scores(better, found)
            points = Points(jnp.swapaxes(group.joints, 0, 1), group.scores.T, None)
            known = people.true_heatmaps(frame, self.volume, self.sigma, self.max_peaks) if thorough else {}
            systems, groups = self.results(points, group, better, frame.camera, known)
            true = jax.tree.map(lambda x: x[0], see(jax.tree.map(lambda x: x[None], frame), self.volume))
            voxels, present = people.targets(frame, self.volume)
            squares = boxes.squares(true.boxes)
            crops = boxes.crops(frame.image, squares, CROP)
            joints = top_down.places(self._apply(params, crops, method="look").heatmaps)
            scored = people.Found(systems, groups, present, people.touching(voxels, present))
            return Found(scored, found, true, boxes.from_crop(joints, squares))

        return lax.map(one, frames)

    def score(self, predicted: Any, frames: Frames) -> list[Any]:
        """A record for each frame, of a `Found`. Arguments are NumPy arrays."""
        records = super().score(predicted.people, frames)
        own = predicted.boxes, predicted.true, predicted.pixels
        return [self._score_boxes(r, *jax.tree.map(lambda x, i=i: x[i], own)) for i, r in enumerate(records)]

    def _score_boxes(self, record: people.Record, found: Any, true: Any, pixels: Any) -> Record:
        exist = found.scores > 0
        hits = boxes.hits(found.boxes[exist], found.scores[exist], true.boxes[true.there])
        right, counted = boxes.correct(pixels, true.pixels, true.known)
        return Record(record, found.scores[exist], hits, int(true.there.sum()), int(right.sum()), int(counted.sum()))

    def rank(self, record: Any) -> float:
        return super().rank(record.people)

    def summary(self, records: list[Any]) -> dict[str, Any]:
        """See `PeopleTask.summary`; and the detector's average precision and the joints right in true boxes."""
        counted = sum(r.counted for r in records)
        scores, hits = (np.concatenate([getattr(r, name) for r in records]) for name in ("scores", "hits"))
        return {
            **super().summary([r.people for r in records]),
            "boxes": sum(r.true for r in records),
            "boxes_named": len(scores),
            "ap50": boxes.average_precision(scores, hits, sum(r.true for r in records)),
            "pck": sum(r.right for r in records) / counted if counted else None,
            "pck_joints": counted,
        }

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        own = {name: summary[name] for name in ("ap50", "pck") if summary[name] is not None}
        return {**super().headline(summary), **own}

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds of the stages from a picture to people, measured on the first frame of a batch."""
        frame = jax.tree.map(lambda x: x[0], frames)
        picture = params, frame.image, frame.camera
        find = jax.jit(functools.partial(self.boxes_of_picture, number=self.max_peaks))
        found, boxes_seconds = people.timed(find, *picture)
        _, people_seconds = people.timed(jax.jit(self.people_in_boxes), *picture, found)
        return {"picture to boxes": boxes_seconds, "boxes to people": people_seconds}


def with_box_scores(people: People, found: Boxes) -> People:
    """The people in boxes, each joint's score multiplied by that of its box."""
    return people._replace(scores=people.scores * found.scores[:, None])


def see(frames: Frames, volume: Volume) -> Seen:
    """The true people in a batch of pictures."""
    camera = frames.camera.expanded(2)
    known = frames.present & volume.in_view(camera, frames.joints)
    pixels = jnp.where(known[..., None], cameras.project(camera, frames.joints), 0.0)
    return Seen(pixels, known, boxes.around(pixels, known), jnp.any(known, axis=-1))


def _choose(there_BxP: Array, key: PRNGKeyArray) -> jax.Array:
    """Indices `[B, N]` of some of the people who are there, at random; of others if those are too few."""
    order = jax.random.uniform(key, there_BxP.shape, jnp.float32) + there_BxP
    return lax.top_k(order, min(_CROPS, there_BxP.shape[1]))[1]


def _detector_errors(numbers_BxHxWx5, true: Seen) -> dict[str, jax.Array]:
    """The entropy of the middles a true person, and the mean error of the boxes in cells near a middle."""

    def wanted(boxes_Px4, there_P):
        target = boxes.targets(boxes_Px4, there_P, numbers_BxHxWx5.shape[1:3], STRIDE)
        return target.heat, boxes.encode(boxes_Px4[target.owner], STRIDE)

    heat, numbers = lax.stop_gradient(jax.vmap(wanted)(true.boxes, true.there))
    entropy = optax.sigmoid_binary_cross_entropy(numbers_BxHxWx5[..., 0], heat)
    error = jnp.mean(optax.huber_loss((numbers_BxHxWx5[..., 1:] - numbers) / _BOX), axis=-1)
    return {
        "centre_error": _CENTRE * jnp.sum(entropy) / jnp.maximum(true.there.sum(dtype=jnp.int32), 1),
        "box_error": _mean(error, heat > 0.5),
    }


def _joint_errors(poses: Poses, pixels_NxJx2, known_NxJ) -> dict[str, jax.Array]:
    """Errors of the joints in crops: heatmaps and places of those in the crop, and which are in the picture."""
    places = lax.stop_gradient(boxes.to_crop(pixels_NxJx2, poses.squares))
    inside = known_NxJ & ((places >= 0) & (places <= 1)).all(axis=-1)
    cells = (jnp.arange(HEATMAP, dtype=jnp.float32) + 0.5) / HEATMAP

    def gaussian(axis):
        away = (jnp.where(inside, places[..., axis], 0.5)[..., None] - cells) * HEATMAP
        return nn.softmax(-jnp.square(away / _SPREAD), axis=-1)

    target = jnp.moveaxis(gaussian(1)[..., :, None] * gaussian(0)[..., None, :], 1, -1)
    entropy = -jnp.sum(target * nn.log_softmax(poses.heatmaps, axis=(1, 2)), axis=(1, 2))
    seen = optax.sigmoid_binary_cross_entropy(poses.there, known_NxJ.astype(jnp.float32))
    somebody = jnp.broadcast_to(known_NxJ.any(axis=-1, keepdims=True), known_NxJ.shape)
    return {
        "heatmap_error": _HEATMAPS * _mean(entropy, inside),
        "seen_error": _mean(seen, somebody),
    }


def _pose_errors(poses: Poses, joints_NxJx3, root_Nx2, whole_N) -> dict[str, jax.Array]:
    """Errors of offsets, and of the mid-hip's place and distance, of people with all joints before the camera."""
    true: reading.Pose = teaching.true_poses(joints_NxJx3)
    whole_N = whole_N & jnp.isfinite(root_Nx2).all(axis=-1)
    root = boxes.to_crop(jnp.where(whole_N[:, None], root_Nx2, 0.0)[:, None], poses.squares)[:, 0]
    offsets = jnp.mean(optax.huber_loss((poses.offsets - true.offsets) / _OFFSET), axis=(-2, -1))
    away = jnp.concatenate([poses.root - root, (poses.distance - true.distance)[:, None]], axis=-1)
    place = jnp.mean(optax.huber_loss(away / _PLACE), axis=-1)
    return {"offset_error": _mean(offsets, whole_N), "place_error": _mean(place, whole_N)}


def _mean(error, where):
    return jnp.sum(error, where=where) / jnp.maximum(where.sum(dtype=jnp.int32), 1)
