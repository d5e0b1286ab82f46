"""Training and scoring of the Volumetric Heatmap Autoencoders (method section 3)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, PRNGKeyArray

from loco_jax import ops
from loco_jax.data.frames import Frames, only_annotated
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.volume import Volume
from loco_jax.models import patch_vha, vha
from loco_jax.pose import metrics, peaks
from loco_jax.tasks import Task, count, each_joint, finite
from loco_jax.tasks.people import MATCHINGS, METRES, mean_scores, targets, timed

THRESHOLDS = (0, 1, 2)  # voxels
NOISES = (0.0, 0.05, 0.1, 0.2)  # parts of the code's standard deviation


class Found(NamedTuple):
    """Results of reading decoded heatmaps, of a batch or of one frame.

    Attributes:
      code: without noise.
      peaks: whole voxels `[B, N, J, K, ...]`, for N levels of noise on the code.
      points: metres, the positions of the peaks without noise; sub-voxel ones if the heatmaps are.
      true_voxels: rounded voxels of the true joints.
      true_present: which of those are targets.
    """

    code: Float[Array, "*batch h w d"]
    peaks: peaks.Peaks
    points: Float[Array, "*batch J K 3"]
    true_voxels: Float[Array, "*batch P J 3"]
    true_present: Bool[Array, "*batch P J"]


class Record(NamedTuple):
    """One frame's scores.

    Attributes:
      scores: by (matching, noise, threshold), in words. Those in metres are of `Found.points`.
      bands: of the joints found within 2 voxels, see `metrics.bands`.
      code_std, code_mean: of the frame's code.
      overflow: whether there were more peaks than `max_peaks`.
    """

    scores: dict[tuple[str, str, str], metrics.Scores]
    bands: Float[np.ndarray, "3 bands"]
    code_mean: float
    code_std: float
    overflow: bool


@dataclasses.dataclass(frozen=True)
class VhaTask(Task):
    """The autoencoder learns to encode heatmaps of joints and to decode them again.

    Attributes:
      volume: the voxel grid.
      network: `VHA` or `PatchVHA`.
      sigmas: of the target's Gaussians in voxels, one for each stage of training.
      subvoxel: whether Gaussians are centred on the joints, or on the nearest voxels as published.
      code_noise: in training, each frame's code gets Gaussian noise. Its deviation is a random share of the code's, up
        to this one.
      max_peaks: K.
    """

    volume: Volume
    network: Any
    sigmas: tuple[float, ...]
    subvoxel: bool
    code_noise: float
    max_peaks: int

    @property
    def stages(self) -> int:  # type: ignore[override]
        return len(self.sigmas)

    @property
    def name(self) -> str:
        return f"{type(self.network).__name__}({self.network.level})"

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters. A small grid suffices, as their shapes do not depend on it."""
        cells = 2 ** (self.network.level + 1)
        heatmaps_1xJxHxWxD = jnp.zeros((1, skeleton.NUM_JOINTS, cells, cells, self.volume.depth_bins), jnp.float32)
        return jax.jit(self.network.init)(key, heatmaps_1xJxHxWxD)

    def describe(self) -> str:
        code = vha.code_shape(self.volume.shape, self.network.level)
        ratio = skeleton.NUM_JOINTS * np.prod(self.volume.shape) / np.prod(code)
        return (
            f"{self.name}: {count(self.shapes()):,} parameters; heatmaps "
            f"{skeleton.NUM_JOINTS} x {_by(self.volume.shape)} to a code of {_by(code)}, {ratio:,.0f} times smaller"
        )

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The error of a batch's heatmaps: the published mean squared error, or for a PatchVHA `entropy`.

        Heatmaps of joints that the data set lacks have no error.
        """
        voxels_BxPxJx3, present_BxPxJ = jax.vmap(self.targets)(frames)
        code = self.encode_targets(params, voxels_BxPxJx3, present_BxPxJ, stage)
        noisy = self._add_noise(code, key)
        if isinstance(self.network, patch_vha.PatchVHA):
            features = ops.apply(self.network, params, noisy, method="decode_features")
            annotated = None if frames.origin is None else frames.origin.annotated
            loss = self.entropy(params, features, voxels_BxPxJx3, present_BxPxJ, stage, annotated)
            # Noise is relative to the code, so this term must hold the code's mean square near one.
            scale = jnp.square(jnp.mean(jnp.square(code.astype(jnp.float32))) - 1)
            return loss + 0.1 * scale, _code_statistics(code)
        target = ops.render(self.network, voxels_BxPxJx3, present_BxPxJ, **self._options(stage)).astype(jnp.float32)
        found = ops.apply(self.network, params, noisy, target.shape[2:4], method="decode")
        error = only_annotated(jnp.square(found.astype(jnp.float32) - target), frames)
        return jnp.mean(error), _code_statistics(code)

    def encode_targets(
        self,
        params: Any,
        voxels_BxPxJx3: Float[jax.Array, "B P J 3"],
        present_BxPxJ: Bool[Array, "B P J"],
        stage: int = -1,
    ) -> Float[jax.Array, "B h w d"]:
        """Codes of the true heatmaps of a batch's `targets`."""
        return ops.encode_joints(self.network, params, voxels_BxPxJx3, present_BxPxJ, **self._options(stage))

    def _options(self, stage: int) -> dict[str, Any]:
        return {"shape": self.volume.shape, "sigma": self.sigmas[stage], "subvoxel": self.subvoxel}

    def entropy(
        self,
        params: Any,
        x: Float[jax.Array, "B d h w C"],
        voxels_BxPxJx3: Float[jax.Array, "B P J 3"],
        present_BxPxJ: Bool[Array, "B P J"],
        stage: int = -1,
        annotated: Bool[Array, "B J"] | None = None,
    ) -> Float[jax.Array, ""]:
        """Cross-entropy with the true heatmaps, a true joint; `x` is the result of `PatchVHA.decode_features`.

        Heatmaps of joint types that are not `annotated` do not count.
        """
        options = {**self._options(stage), "annotated": annotated}
        entropy = ops.sum_entropy(self.network, params, x, voxels_BxPxJx3, present_BxPxJ, **options)
        return each_joint(entropy, present_BxPxJ)

    def _add_noise(self, code_Bxhxwxd, key):
        if not self.code_noise:
            return code_Bxhxwxd
        part_key, noise_key = jax.random.split(key)
        part = self.code_noise * jax.random.uniform(part_key, (code_Bxhxwxd.shape[0],), jnp.float32)
        return _with_noise(code_Bxhxwxd, part, noise_key)

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """Encodes, decodes and finds peaks; if `thorough`, also with noise on the code. One frame after the other."""
        noises = NOISES if thorough else NOISES[:1]

        def one(args):
            frame, key = args
            voxels, present = self.targets(frame)
            code = self.encode(params, frame)[None].astype(jnp.float32)
            options: dict[str, Any] = {"max_peaks": self.max_peaks, "offsets": self.subvoxel}
            find = functools.partial(ops.decode_peaks_and_offsets, self.network, params, **options)

            def back(noise):
                return find(_with_noise(code, noise[None], key)[0], self.volume.shape[:2])

            tops, offsets = lax.map(back, jnp.float32(noises))
            voxels_JxKx3 = tops.voxels[0] if offsets is None else tops.voxels[0] + offsets[0]
            points = self.volume.to_camera(frame.camera, voxels_JxKx3)
            return Found(code[0], tops, points, jnp.round(voxels), present)

        return lax.map(one, (frames, jax.random.split(key, frames.present.shape[0])))

    def encode(self, params: Any, frame: Frames) -> Float[jax.Array, "h w d"]:
        """The code of a frame's true heatmaps: the target of the Code Predictor (method section 4)."""
        voxels_PxJx3, present_PxJ = self.targets(frame)
        return self.encode_targets(params, voxels_PxJx3[None], present_PxJ[None])[0]

    def targets(self, frame: Frames) -> tuple[Float[jax.Array, "P J 3"], Bool[Array, "P J"]]:
        """Continuous voxels of a frame's joints, and which of them are targets."""
        return targets(frame, self.volume)

    def score_frame(self, found: Found, frame: Frames) -> Record:
        true = metrics.people_rows(found.true_voxels, found.true_present)
        true_points = metrics.people_rows(frame.joints, found.true_present)
        rows = [metrics.peak_rows(*found_rows) for found_rows in zip(found.peaks.voxels, found.peaks.scores)]
        points = metrics.peak_rows(found.points, found.peaks.scores[0])
        if frame.origin is not None:  # joints that the data set lacks are not scored
            types = np.flatnonzero(frame.origin.annotated)
            points, *rows = (x[np.isin(x[:, 0], types)] for x in (points, *rows))
        scores = {}
        for matching in MATCHINGS:
            for noise, of_noise in zip(NOISES, rows):
                for voxels in THRESHOLDS:
                    score = metrics.joint_scores(of_noise, true, voxels, matching)
                    scores[matching, f"noise {noise:g}", f"{voxels} vx"] = score
            for metres in METRES:
                score = metrics.joint_scores(points, true_points, metres, matching)
                scores[matching, "noise 0", f"{metres} m"] = score
        pairs = metrics.match(rows[0], true, THRESHOLDS[-1])
        bands = metrics.bands(points, true_points, pairs, band_edges(self.volume))
        overflow = bool((found.peaks.count[0] > found.peaks.scores.shape[-1]).any())
        return Record(scores, bands, float(found.code.mean()), float(found.code.std()), overflow)

    def summary(self, records: list[Record]) -> dict[str, Any]:
        """Means over frames of scores and of the code's statistics; errors in cm and recall by distance."""
        edges, bands = band_edges(self.volume), np.sum([r.bands for r in records], axis=0)
        _, total_found, total_error = bands.sum(axis=1)
        return {
            "network": self.name,
            "level": self.network.level,
            "subvoxel": self.subvoxel,
            "frames": len(records),
            "scores": mean_scores([r.scores for r in records]),
            "error_cm": finite(100 * total_error / total_found) if total_found else None,
            "by_distance": [
                {
                    "metres": [low, high],
                    "joints": int(true),
                    "recall": found / true if true else None,
                    "error_cm": 100 * error / found if found else None,
                }
                for low, high, (true, found, error) in zip(edges, edges[1:], bands.T.tolist())
            ],
            "code": {
                "mean": float(np.mean([r.code_mean for r in records])),
                "std": float(np.mean([r.code_std for r in records])),
            },
            "frames_with_too_many_peaks": sum(r.overflow for r in records),
        }

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds from the joints of a batch's first frame to their code, and from the code to peaks."""
        frame = jax.tree.map(lambda x: x[0], frames._replace(image=None))
        find = functools.partial(ops.decode_peaks, self.network, size=self.volume.shape[:2], max_peaks=self.max_peaks)
        code, encode = timed(jax.jit(self.encode), params, frame)
        _, decode = timed(jax.jit(find), params, code.astype(jnp.float32))
        return {"encode": encode, "decode": decode}

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        clean = summary["scores"]["hungarian"]["noise 0"]
        return {f"f1_{t}vx": clean[f"{t} vx"]["f1"] for t in THRESHOLDS}


def band_edges(volume: Volume) -> list[float]:
    """Metres that separate the bands of distance: those of `metrics.BAND_EDGES` within the volume."""
    return [e for e in metrics.BAND_EDGES if e < volume.max_distance] + [volume.max_distance]


def _with_noise(code_Bxhxwxd, part_B, key):
    """Adds Gaussian noise, its deviation a part of each frame's. No gradient: a larger code must not reduce it."""
    deviation = lax.stop_gradient(jnp.std(code_Bxhxwxd.astype(jnp.float32), axis=(1, 2, 3)))
    noise = jax.random.normal(key, code_Bxhxwxd.shape, jnp.float32) * (part_B * deviation)[:, None, None, None]
    return code_Bxhxwxd + noise.astype(code_Bxhxwxd.dtype)


def _code_statistics(code):
    code = code.astype(jnp.float32)
    return {"code_mean": jnp.mean(code), "code_std": jnp.mean(jnp.std(code, axis=(1, 2, 3)))}


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
