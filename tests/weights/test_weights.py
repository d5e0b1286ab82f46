"""Files of weights: what goes in comes out, and what is none of ours is refused in words."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from loco_jax import experiment, weights
from loco_jax.tasks import pretrained

PARAMS = {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.float32([1, 2, 3])},
    "n": np.int32(7),
}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "folder" / "w.safetensors"
    weights.save(path, PARAMS, {"kind": "vha", "level": 2})
    params, about = weights.load(path)
    assert about == {"kind": "vha", "level": 2}
    np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])
    np.testing.assert_array_equal(params["a"]["bias"], PARAMS["a"]["bias"])
    assert params["n"] == 7 and params["n"].dtype == np.int32
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # nothing half-written beside it


def test_half_precision_halves_the_file_and_keeps_three_digits(tmp_path):
    values = {"x": np.random.default_rng(0).normal(size=100_000).astype(np.float32)}
    for name, dtype in (("full", None), ("half", np.float16)):
        weights.save(tmp_path / name, values, {"kind": "vha"}, dtype=dtype)
    assert (tmp_path / "half").stat().st_size < 0.51 * (tmp_path / "full").stat().st_size
    params, _ = weights.load(tmp_path / "half")
    assert params["x"].dtype == np.float32
    np.testing.assert_allclose(params["x"], values["x"], rtol=1e-3, atol=1e-6)


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    values = {"x": np.float32([1e5, 1.0]), "y": np.float32([np.inf, 0.1])}
    weights.save(tmp_path / "w", values, {"kind": "vha"}, dtype=np.float16)
    params, _ = weights.load(tmp_path / "w")
    np.testing.assert_array_equal(params["x"], values["x"])
    np.testing.assert_array_equal(params["y"], np.float32([np.inf, np.float16(0.1)]))


def test_device_arrays_go_in_too(tmp_path):
    weights.save(tmp_path / "w", {"x": jnp.ones((2, 2)).T}, {"kind": "vha"})
    np.testing.assert_array_equal(weights.load(tmp_path / "w")[0]["x"], np.ones((2, 2)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(weights.WeightsError, match="nothing.safetensors: no such file"):
        weights.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\xff" * 64])
def test_garbage_is_named(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(weights.WeightsError, match="w: cannot be read as weights"):
        weights.load(tmp_path / "w")


def test_a_truncated_file_is_named(tmp_path):
    weights.save(tmp_path / "w", PARAMS, {"kind": "vha"})
    whole = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(whole[:-4])
    with pytest.raises(weights.WeightsError, match="w: cannot be read as weights"):
        weights.load(tmp_path / "w")


def test_another_projects_file_is_told_apart(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "w")
    with pytest.raises(weights.WeightsError, match="torch_weights"):
        weights.load(tmp_path / "w")


def test_a_pytorch_file_is_to_be_converted(tmp_path):
    (tmp_path / "inception.pth").write_bytes(b"PK\x03\x04 and so on, not ours")
    with pytest.raises(
        weights.WeightsError, match="inception.pth: is a PyTorch file; convert it first: .*torch_weights"
    ):
        weights.load(tmp_path / "inception.pth")


def test_check_fit_names_every_difference():
    like = {"a": {"kernel": np.zeros((2, 4)), "scale": np.zeros(3)}, "n": np.int32(0)}
    with pytest.raises(weights.WeightsError) as error:
        weights.check_fit(PARAMS, like, "somewhere")
    text = str(error.value)
    assert text.startswith("somewhere: not the weights of this network")
    for line in ("missing a/scale", "unexpected a/bias", "a/kernel has shape (2, 3), not (2, 4)"):
        assert line in text
    weights.check_fit(PARAMS, PARAMS, "itself")


def test_read_takes_a_part_of_a_whole_system(tmp_path):
    weights.save(tmp_path / "w", {"vha": {"x": np.ones(3)}, "refiner": {"y": np.zeros(2)}}, {"kind": "loco"})
    read = weights.read("vha", str(tmp_path / "w"), {"x": np.zeros(3)})
    np.testing.assert_array_equal(read["x"], np.ones(3))
    with pytest.raises(weights.WeightsError, match="missing z"):
        weights.read("refiner", str(tmp_path / "w"), {"z": np.zeros(2)})


def test_read_refuses_another_kind(tmp_path):
    weights.save(tmp_path / "w", {"x": np.ones(3)}, {"kind": "inception"})
    with pytest.raises(weights.WeightsError, match="kind 'inception', not vha"):
        weights.read("vha", str(tmp_path / "w"), {"x": np.zeros(3)})


def test_read_says_what_a_folder_is_not(tmp_path):
    with pytest.raises(weights.WeightsError, match="not the folder of a run"):
        weights.read("vha", str(tmp_path), {"x": np.zeros(3)})
    (tmp_path / "config.json").write_text(json.dumps({"task": "refiner", "ema": 0}))
    with pytest.raises(weights.WeightsError, match="task refiner, not vha"):
        weights.read("vha", str(tmp_path), {"x": np.zeros(3)})
    with pytest.raises(weights.WeightsError, match="no weights given"):
        weights.read("vha", "", {"x": np.zeros(3)})


def test_configs_of_earlier_versions(tmp_path):
    """What sections lack is what networks did then; fields that are gone are left out if their value is the default."""
    config = {"model": {"width": 8, "pad_channels": False}, "optimizer": {"orthogonalise_every": 2}, "predictor": {}}
    weights.save(tmp_path / "w", {"x": np.ones(3)}, {"kind": "vha", "config": config})
    found = weights.config_of(str(tmp_path / "w"))
    assert found.model.to_dict() == {"width": 8} and found.predictor.to_dict() == {"side_weight": 0.0}
    assert found.optimizer.to_dict() == {"orthogonalise_every": 2}
    weights.save(tmp_path / "w", {"x": np.ones(3)}, {"kind": "vha", "config": {"seed": 3}})
    assert "model" not in weights.config_of(str(tmp_path / "w"))


def test_released_weights_are_those_of_the_present_networks():
    task, params, config, camera = experiment.load("released")
    assert (config.task, task.name, camera.fx) == ("loco", "LoCO(2)", 289.5)
    assert set(params) == {"predictor", "vha"}
    like = jax.eval_shape(pretrained.init_refiner, jax.random.key(0))
    weights.read("refiner", "released-refiner", like)


def test_released_weights_go_by_name():
    assert weights.path_of("released-refiner").exists()
    with pytest.raises(weights.WeightsError, match="no such released weights; there are released, released-refiner"):
        weights.path_of("released-none")
    with pytest.raises(weights.WeightsError, match="holds no refiner, because its run used none"):
        weights.read("refiner", "released", {})
    assert weights.path_of("released_by_me/w") == weights.path_of("./released_by_me/w")  # a file of one's own
