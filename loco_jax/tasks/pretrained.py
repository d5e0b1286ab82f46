"""Parameters of pretrained networks, for the start of a run or for an evaluation."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from loco_jax import weights
from loco_jax.models.refiner import Refiner
from loco_jax.runs.checkpoints import CheckpointError
from loco_jax.weights import WeightsError

_REMEDIES = {
    "vha": "Train one with --config=configs/vha2.py (the same level, variant and scale)",
    "spoil.predictor": 'Train one with --config=configs/loco2.py, or give "" for none',
    "refiner": 'Train one with --config=configs/refiner.py, or give "released-refiner", or "" for none',
    "predictor.trunk_weights": "For trunk=inception convert torchvision's with python -m loco_jax.torch_weights "
    "--kind=inception, for trunk=compact train one with --config=configs/trunk.py",
}


@contextlib.contextmanager
def naming(field: str, source: str) -> Iterator[None]:
    """Adds `config.field` and the way to get such weights to errors about the weights `source`."""
    try:
        yield
    except (WeightsError, CheckpointError) as error:
        text = str(error) if f"config.{field}=" in str(error) else f"config.{field}={source}: {error}"
        remedy = f"{_REMEDIES[field]}; then give --config.{field}= its run or file."
        raise WeightsError(f"{text}\n{remedy}") from error


def read(field: str, kind: str, source: str, init: Callable[[PRNGKeyArray], Any]) -> Any:
    """Trained parameters of a kind, see `weights.read`, shaped as those of `init`. Errors name `config.field`."""
    with naming(field, source):
        return jax.tree.map(jnp.asarray, weights.read(kind, source, jax.eval_shape(init, jax.random.key(0))))


def init_refiner(key: PRNGKeyArray) -> Any:
    """New parameters of a refiner."""
    return Refiner().init(key, jnp.zeros((1, 39), jnp.float32))


def split_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A code predictor's variables as parts of a LoCO's parameters: `predictor` is trained, `batch_stats` is not."""
    statistics = {"batch_stats": variables["batch_stats"]} if "batch_stats" in variables else {}
    return {"predictor": {"params": variables["params"]}, **statistics}


def join_variables(params: Mapping[str, Any]) -> dict[str, Any]:
    """A code predictor's variables: the inverse of `split_variables`."""
    statistics = {"batch_stats": params["batch_stats"]} if "batch_stats" in params else {}
    return {**params["predictor"], **statistics}


def with_trunk(params: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The code predictor's parts of a LoCO's parameters with those of a trained trunk in place."""
    trained = params["predictor"]["params"]
    with naming("predictor.trunk_weights", source):
        if "batch_stats" not in params:
            taken = jax.tree.map(jnp.asarray, weights.read("trunk", source, without_head(params["predictor"])))
            return {"predictor": {"params": {**trained, **taken["params"]}}}
        statistics = params["batch_stats"]
        like = {"params": trained["trunk"], "batch_stats": statistics["trunk"]}
        taken = jax.tree.map(jnp.asarray, weights.read("inception", source, like))
    return {
        "predictor": {"params": {**trained, "trunk": taken["params"]}},
        "batch_stats": {**statistics, "trunk": taken["batch_stats"]},
    }


def without_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A compact predictor's variables without those of the head, which makes codes of features."""
    return {"params": {name: value for name, value in variables["params"].items() if name != "head"}}
