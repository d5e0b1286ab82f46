"""Training and scoring of LoCO: from a picture, through a predicted code, to people (method sections 4 to 6)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, PRNGKeyArray, UInt8

from loco_jax import ops
from loco_jax.data.frames import Frames
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models import compact, vha
from loco_jax.pose import reading
from loco_jax.pose.association import People
from loco_jax.pose.people import Points, find_people, in_metres
from loco_jax.tasks import count, pretrained, sides, teaching, trunk
from loco_jax.tasks.people import Found, PeopleTask, Record, timed, touching, true_heatmaps
from loco_jax.tasks.vha import VhaTask

PICTURE = "picture"  # in place of a refiner: the poses that the compact predictor reads at people's places


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocoTask(PeopleTask):
    """The network learns to predict codes from pictures. The trained autoencoder that defines the codes is frozen.

    `refiner_weights` may be `PICTURE` for the poses that the network itself reads.

    Attributes:
      vha: the autoencoder, its volume and its targets.
      code_weight: weight of the code's mean squared error, the published loss.
      heatmap_weight: weight of the cross-entropy of the heatmaps that the autoencoder makes of the predicted code.
      vha_weights: where the autoencoder's parameters come from.
      trunk_weights: where the trunk's parameters come from: ImageNet weights for the published trunk, a run of the task
        trunk for the compact one; "" for new ones.
      side_weight: weight of telling right from left in the heatmaps, see `sides.error`.
      teaching_weight: weight of the other losses of the compact predictor's features, see `teaching.losses`.
    """

    vha: VhaTask
    code_weight: float
    heatmap_weight: float
    vha_weights: str
    trunk_weights: str = ""
    side_weight: float = 0.0
    teaching_weight: float = 0.0

    frozen = ("vha", "batch_stats")

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
        """Whether an evaluation reads a refiner's parameters."""
        return self.refiner_weights not in ("", PICTURE)

    def describe(self) -> str:
        height, width = self.vha.volume.image_size
        code = vha.code_shape(self.vha.volume.shape, self.vha.network.level)
        return (
            f"{type(self.network).__name__}({self.network.level}): {count(self.shapes()['predictor']):,} parameters; "
            f"pictures of {height} x {width} to a code of {' x '.join(map(str, code))}. {self.vha.describe()}"
        )

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The mean squared error of the code (method section 4), and the errors of the heatmaps that it decodes to."""
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
            errors["heatmap_error"] = self.vha.entropy(params["vha"], decoded, *targets)
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
        code, features = self.look(params, image[None], camera.as_batch())
        return code[0], features

    def refine(self, params: Any, found: People, features: compact.Features | None, camera: Camera) -> People | None:
        """All people with the poses that the refiner makes or the network reads; None if nothing corrects them."""
        if "refiner" in params or self.refiner_weights != PICTURE:
            return super().refine(params, found, features, camera)
        places = reading.places(found, camera, self.vha.volume.image_size)
        variables = pretrained.join_variables(params)
        numbers = ops.apply(self.network, variables, features, places[None], method="read_poses")[0]
        return reading.settle(found, reading.unpack(numbers).offsets)

    def points_of_code(self, params: Any, code: Float[jax.Array, "h w d"], camera: Camera, subvoxel: bool) -> Points:
        """The points of the heatmaps that the autoencoder makes of a code."""
        v = self.vha
        size = v.volume.shape[:2]
        found = ops.decode_peaks(v.network, params["vha"], code, size, subvoxel, max_peaks=v.max_peaks)
        return in_metres(found, camera, v.volume)

    def people_of_picture(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture, corrected as `refiner_weights` says, before suppression."""
        code, features = self.look_at(params, image, camera)
        found = find_people(self.points_of_code(params, code, camera, subvoxel=True))
        corrected = self.correct(params, found, features, camera)
        return found if corrected is None else corrected

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """Finds the people in pictures; if `thorough`, also those that true codes and true heatmaps give."""
        del key
        true_code = f"{self.vha.name}, true code"

        def one(frame):
            target = self.vha.encode(params["vha"], frame._replace(image=None)).astype(jnp.float32)
            code, features = self.look_at(params, frame.image, frame.camera)
            codes = {self.name: code, true_code: target} if thorough else {self.name: code}
            clouds = {
                name: self.points_of_code(params, code, frame.camera, self.vha.subvoxel) for name, code in codes.items()
            }
            points = clouds.pop(self.name)
            if thorough:
                options = {"sigma": self.vha.sigmas[-1], "max_peaks": self.vha.max_peaks}
                clouds |= true_heatmaps(frame, self.vha.volume, dtype=self.vha.network.dtype, **options)
            found = find_people(points)
            corrected = self.correct(params, found, features, frame.camera)
            systems, groups = self.results(points, found, corrected, frame.camera, clouds)
            voxels, present = self.vha.targets(frame)
            overflow = (points.count > self.vha.max_peaks).any()
            code_error = jnp.mean(jnp.square(code - target))
            decoder = self.vha.network, params["vha"], self.vha.volume
            own_side = {name: sides.own_side(*decoder, code, voxels, present) for name, code in codes.items()}
            side_joints = 2 * sides.far_apart(voxels, present, sides.MEASURED).sum(axis=0, dtype=jnp.int32)
            near = touching(voxels, present)
            return Found(systems, groups, present, near, overflow, code_error, own_side, side_joints)

        return lax.map(one, frames)

    def summary(self, records: list[Record]) -> dict[str, Any]:
        """As of any `PeopleTask`, with the level of the code."""
        summary = super().summary(records)
        return {"network": summary["network"], "level": self.vha.network.level, **summary}

    def made_of(self) -> dict[str, Any]:
        made = super().made_of()
        return {"predictor": made["predictor"], "autoencoder": self.vha.name, **made}

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds of the stages from a picture to people, measured on the first frame of a batch."""
        frame = jax.tree.map(lambda x: x[0], frames)
        find = jax.jit(functools.partial(self.points_of_code, subvoxel=self.vha.subvoxel))
        look = jax.jit(self.look_at)
        (code, features), seconds = timed(look, params, frame.image, frame.camera)
        stages = {"picture to code": seconds}
        points, stages["code to points"] = timed(find, params, code, frame.camera)
        found, stages["points to people"] = timed(jax.jit(find_people), points)
        better, seconds = timed(jax.jit(self.refine), params, found, features, frame.camera)
        if better is not None:
            stages["refinement"] = seconds
        return stages
