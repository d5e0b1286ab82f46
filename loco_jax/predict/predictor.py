"""A trained LoCO as a function from pictures to people."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from loco_jax import experiment, weights
from loco_jax.geometry.camera import Camera
from loco_jax.tasks.loco import LocoTask

_BATCH = 8  # pictures at once, except on a CPU


class Predictor:
    """A trained LoCO, ready for pictures of any size. Each new size is compiled once.

    Attributes:
      batch: the number of pictures of one size that `find` should get at once.
      threads: the number of calls of `find` that should run at the same time.
      min_score: the least score of a person.
      checksum: of the parameters, CRC-32.
      camera: the camera of the training pictures.
      image_size: the height and width of the training pictures.
      description: the weights and the network, in a line.
    """

    def __init__(self, task: LocoTask, params: Any, camera: Camera, description: str):
        self.camera, self.image_size = camera, task.vha.volume.image_size
        self.description = description
        self.min_score = task.kept.min_score
        self.checksum = functools.reduce(_add_to_checksum, jax.tree.leaves(params), 0)
        # A CPU gains from two pictures at the same time, because not all of the network uses several cores.
        self.batch, self.threads = (1, 2) if jax.default_backend() == "cpu" else (_BATCH, 1)
        self._task, self._params = task, jax.device_put(params)
        self._find = functools.lru_cache(self._compile)

    def find(
        self, images: UInt8[np.ndarray, "B height width 3"], cameras: Sequence[Camera]
    ) -> list[tuple[Float[np.ndarray, "_ 14 3"], Float[np.ndarray, "_ 14"]]]:
        """The people in several pictures of one size, the best first: joints in metres, and their scores.

        Joints are in coordinates of the pictures' `cameras`, whose focal lengths should be those of the training. A
        joint with score 0 was not found. Refinement has added it, or it lies at 0.
        """
        # Each number of pictures is compiled, so there are only one and a whole batch.
        missing = -len(images) % self.batch if len(images) > 1 else 0
        images = np.concatenate([images, *[images[-1:]] * missing])
        rows = [*cameras, *[cameras[-1]] * missing]
        camera = Camera(*(np.array(values, np.float32) for values in zip(*rows)))
        found = self._find(images.shape[1:3])(self._params, images, camera)
        joints, scores = jax.device_get((found.joints, found.scores))
        return [(j[s[:, 0] > 0], s[s[:, 0] > 0]) for j, s in zip(joints, scores)][: len(cameras)]

    def _compile(self, size: tuple[int, int]) -> Callable[..., Any]:
        volume = dataclasses.replace(self._task.vha.volume, image_size=size)
        task = dataclasses.replace(self._task, vha=dataclasses.replace(self._task.vha, volume=volume))

        return jax.jit(jax.vmap(task.named_people, in_axes=(None, 0, 0)))


def _add_to_checksum(checksum: int, array: Any) -> int:
    return zlib.crc32(np.asarray(array).tobytes(), checksum)


def load_predictor(source: str = weights.RELEASED, min_score: float | None = None) -> Predictor:
    """A trained LoCO from a run's folder or a file of weights, or the "released" LoCO.

    `min_score` is the least score of a person. None takes it from the weights' config. Raises WeightsError or
    CheckpointError if there are no weights, and ValueError for an impossible score.
    """
    task, params, config, camera = experiment.load(source)
    if not isinstance(task, LocoTask):
        raise weights.WeightsError(
            f"{weights.path_of(source)}: holds a run of the task {config.task}, not loco: predict supports only LoCO; "
            "--mode=eval of loco_jax.main scores other tasks"
        )
    if min_score is not None:
        task = dataclasses.replace(task, kept=task.kept._replace(min_score=min_score).check("min_score"))
    if source == weights.RELEASED:
        name = "the released weights, not suitable for photographs yet"
    else:
        name = f"the weights of {weights.path_of(source)}"
    return Predictor(task, params, camera, f"{name}: {task.describe()}")
