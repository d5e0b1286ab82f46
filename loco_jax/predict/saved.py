"""Reads the JSON of predict again: people of frames, as `loco_jax.pose.tracking` takes them."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loco_jax.geometry import skeleton
from loco_jax.pose.tracking import Tracked
from loco_jax.predict.files import OUR_KEYS


def read(path: os.PathLike | str) -> list[Tracked]:
    """The frames of a video's JSON, or the one of a picture at time 0, with the identities in the file.

    Raises ValueError, which names the file, if predict did not write it, or an older version of predict did.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if "axes" not in content:  # which only older versions wrote
            return _frames(content)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:  # JSON errors are ValueErrors
        raise ValueError(f"{path}: is not JSON that predict wrote ({type(error).__name__}: {error})") from error
    raise ValueError(f"{path}: was written by an older version of predict; run predict again")


def _frames(content: Mapping[str, Any]) -> list[Tracked]:
    for key in OUR_KEYS:
        content[key]
    frames = content["frames"] if "frames" in content else [{"time": 0.0, "people": content["people"]}]
    return [_frame(frame["time"], frame["people"]) for frame in frames]


def _frame(time: float, people: Sequence[Mapping[str, Any]]) -> Tracked:
    ids = [person["id"] for person in people]
    if not all(isinstance(number, int) and number > 0 for number in ids) or len(set(ids)) < len(ids):
        raise ValueError("the ids of a frame must be distinct integers from 1")
    shape = len(people), skeleton.NUM_JOINTS
    joints, scores = np.full((*shape, 3), np.nan), np.zeros(shape)
    for row, person in enumerate(people):
        for j, name in enumerate(skeleton.JOINTS):
            joint = person["joints"][name]
            scores[row, j] = joint["score"]
            joints[row, j] = np.nan if joint["xyz"] is None else joint["xyz"]
    return Tracked(float(time), joints, scores, np.array(ids, int))
