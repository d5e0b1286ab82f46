"""Weights by strangers, and configs in them; see support/strangers.py."""

import copy
import json
import math
import os
import pickle
import struct
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loco_jax import experiment, weights
from loco_jax.configs import loco2
from loco_jax.predict import predictor
from tests.support.strangers import (
    ODD,
    about,
    damaged,
    damages,
    fuzz,
    read_or_refused,
    safetensors_of,
    tensor,
)

LIKE = {"a": {"kernel": np.zeros((2, 3), np.float32)}, "b": np.zeros(3, np.float32)}
GOOD = {**about(), "a/kernel": tensor([2, 3], 0, 24), "b": tensor([3], 24, 36)}


def load_and_fit(path):
    params = weights.read("vha", str(path), LIKE)
    assert params["a"]["kernel"].shape == (2, 3) and params["b"].dtype == np.float32
    return params


@fuzz(250)
@given(damages)
def test_damaged_weights(folder, damage):
    path = folder / "w.safetensors"
    path.write_bytes(damaged(safetensors_of(GOOD, bytes(36)), damage))
    read_or_refused(load_and_fit, path, weights.WeightsError)


DTYPES = ("BOOL", "U8", "I8", "U16", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "I64", "F64", "C64", "X")


@fuzz(250)
@given(
    st.dictionaries(
        st.sampled_from(["a", "a/kernel", "a/kernel/x", "b", "", "/", "b/", "é\n", "/".join("c" * 3000)]),
        st.builds(
            tensor,
            st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**62, 2**64 - 1]), max_size=3) | st.just([1] * 80),
            st.just(0),
            st.sampled_from([0, 1, 2, 3, 4, 8, 12, 16, 24]),
            st.sampled_from(["F32", *DTYPES]),
        ),
        max_size=3,
    ),
    st.sampled_from([about(), {}, {"__metadata__": {"loco_jax": "[" * 9000}}, {"__metadata__": {"loco_jax": "5"}}]),
)
@example({"a": tensor([1], 0, 4), "a/kernel": tensor([1], 4, 8)}, about())
def test_headers_of_weights(folder, tensors, metadata):
    path = folder / "w.safetensors"
    path.write_bytes(safetensors_of({**metadata, **tensors}, bytes(24)))
    read_or_refused(load_and_fit, path, weights.WeightsError)


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_weights(tmp_path, dtype):
    """Floats of 16 and 64 bits are read as float32; what is no float does not become a network."""
    size = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8, "F64": 8, "C64": 8}.get(dtype, 2)
    path, data = tmp_path / "w.safetensors", bytes(9 * size)
    tensors = {"a/kernel": tensor([2, 3], 0, 6 * size, dtype), "b": tensor([3], 6 * size, 9 * size, dtype)}
    path.write_bytes(safetensors_of({**about(), **tensors}, data))
    read = read_or_refused(load_and_fit, path, weights.WeightsError)
    assert (read is not None) == (dtype in ("F16", "BF16", "F64"))


def test_a_header_that_claims_an_exabyte_takes_no_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + safetensors_of(GOOD, bytes(36))[8:])
    start = time.perf_counter()
    assert read_or_refused(weights.load, path, weights.WeightsError) is None
    assert time.perf_counter() - start < 5


def test_weights_that_would_run_code_do_not(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
        for source in (tmp_path / name, tmp_path / name):
            assert read_or_refused(weights.load, source, weights.WeightsError) is None
            assert (
                read_or_refused(lambda path: predictor.load_predictor(str(path)), source, weights.WeightsError) is None
            )
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert (tmp_path / "ran").exists()  # so it would have


# ---- Configs that come with weights


CONFIG = json.loads(loco2.get_config("variant=patch,trunk=compact,scale=demo").to_json())
FIELDS = [(a,) for a in CONFIG] + [(a, b) for a in CONFIG if isinstance(CONFIG[a], dict) for b in CONFIG[a]]
TASK = experiment.create_task(loco2.get_config("variant=patch,trunk=compact,scale=demo"))


def changed(changes) -> dict:
    config = copy.deepcopy(CONFIG)
    for field, value in changes.items():
        part = config[field[0]] if len(field) == 2 else config
        if isinstance(part, dict):
            part[field[-1]] = copy.deepcopy(value)
    return config


@fuzz(250)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.sampled_from([*ODD, [10**9, 10**9], [1], [0, 1], "a" * 5000, {"keys": 1}, {"a.b": 1}, 10**6]),
        min_size=1,
        max_size=2,
    )
)
def test_configs_of_strangers(folder, changes):
    """What is not refused makes a network of ordinary size."""
    path = folder / "w.safetensors"
    path.write_bytes(safetensors_of(about(kind="loco", config=changed(changes))))
    read_or_refused(lambda path: experiment.check_weights(TASK, str(path), "--weights"), path, weights.WeightsError)
    task = read_or_refused(
        lambda path: experiment.people_task_of(path, weights.config_of(str(path))), path, weights.WeightsError
    )
    if task is not None:
        of = getattr(task, "vha", task)  # others than LoCO have no autoencoder
        assert math.prod(of.volume.shape) < 2**28 and of.max_peaks < 5000
        assert max(of.network.width, 64 * of.network.blocks) < 5000


@pytest.mark.parametrize("content", [5, [1], {"a.b": 1}, {"model": 5}, {}, {"task": ["loco"]}])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_what_is_no_config(tmp_path, content, form):
    path = tmp_path / "w.safetensors"
    if form == "file":
        path.write_bytes(safetensors_of(about(kind="loco", config=content)))
    else:
        path.mkdir()
        (path / "config.json").write_text(json.dumps(content))
    assert read_or_refused(lambda path: predictor.load_predictor(str(path)), path, weights.WeightsError) is None


@pytest.mark.parametrize(
    "camera", [5, [1, 2, 3], ["a"] * 4, [1e-300, 1, 240, 135], [1e300, 1, 240, 135], [9, 9, 1e9, 1]]
)
def test_cameras_that_weights_cannot_have(tmp_path, camera):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_of(about(kind="loco", config=CONFIG, camera=camera)))
    assert read_or_refused(lambda path: predictor.load_predictor(str(path)), path, weights.WeightsError) is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    assert read_or_refused(weights.load, tmp_path / "p", weights.WeightsError) is None
