"""One training step: the state, the optimiser, the loss and its gradient, and the stages of training."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from loco_jax import experiment, muon, tasks, weights
from loco_jax.data import datasets
from loco_jax.ops import distributed
from loco_jax.runs.watch import Watch
from loco_jax.tasks import Task, pretrained


@flax.struct.dataclass
class TrainState:
    """The state that a step changes, replicated over the devices; arrays, or their shapes and types.

    Attributes:
      step: number of steps done, int32.
      params: the network's parameters.
      opt_state: the optimiser's state.
      ema: moving average of the parameters, or None.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any


class Stages:
    """The stages of training: the next one begins when the loss no longer falls (method section 3).

    With a budget of time, stage k of n ends at the latest when k/n of the budget is used. Only log lines end stages.

    Attributes:
      state: the stage, from 0, its best loss, and how many losses have not improved on it; JSON.
    """

    def __init__(self, config: ConfigDict, task: Task):
        self._config, self._last = config.plateau, task.stages - 1
        self.state: dict[str, Any] = {"stage": 0, "best": None, "waited": 0}

    @property
    def now(self) -> int:
        """The present stage."""
        return self.state["stage"]

    def move_on(self, means: dict[str, float], used: float) -> str:
        """Why the next stage begins, given the means of a log line and the used share of the budget; "" if it does not.

        The loss no longer falls after `patience` losses in a row that do not improve the best by `least_gain` of it.
        When the budget is used up, no stage begins.
        """
        s, loss = self.state, means.get("loss")
        if self.now == self._last or used >= 1:
            return ""
        if loss is not None:
            better = s["best"] is None or loss < s["best"] * (1 - self._config.least_gain)
            s.update({"best": loss, "waited": 0} if better else {"waited": s["waited"] + 1})
        is_flat = s["waited"] >= self._config.patience
        if not is_flat and used * (self._last + 1) < self.now + 1:
            return ""
        self.state = {"stage": self.now + 1, "best": None, "waited": 0}
        return "the loss no longer falls" if is_flat else "its share of the budget is used"


class Setup:
    """What the steps of a config need.

    Attributes:
      mesh: the devices that share a batch.
      replicated: the sharding of the state.
      task, optimizer: those of the config.
      stages, watch: where the training is, and its losses.
    """

    def __init__(self, config: ConfigDict):
        self._config = config
        self.mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.task, self.optimizer = experiment.create_task(config), make_optimizer(config)
        self.stages, self.watch = Stages(config, self.task), Watch(config.spike, config.optimizer.max_skipped)

    @functools.cached_property
    def source(self) -> datasets.Stream:
        """The batches of training."""
        return datasets.of(self._config).training_stream(NamedSharding(self.mesh, PartitionSpec("batch")))

    @property
    def position(self) -> dict[str, Any]:
        """The positions of data, stages and losses for a checkpoint, as JSON."""
        return copy.deepcopy({"data": self.source.get_state(), "stages": self.stages.state, "watch": self.watch.state})

    @position.setter
    def position(self, saved: dict[str, Any]) -> None:
        self.source.set_state(saved["data"])
        # Older runs have the stage elsewhere, and their losses in the state.
        self.stages.state = saved["stages"] if "stages" in saved else {"stage": saved["stage"], **saved["plateau"]}
        self.watch.state |= saved.get("watch", {})

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
        """The step of the present stage, for states like this one. With a budget of time it takes a rate."""
        step = functools.partial(step_of(self._config, self.task, self.optimizer), stage=self.stages.now)
        rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=self.replicated)
        rates = [rate] if self._config.budget_minutes else []
        return compile_step(step, self.mesh, state, self.source.like(), *rates)

    def see(self, step: int, scalars: dict[str, Any]) -> None:
        """Waits for a step and remembers its scalars."""
        numbers = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self.watch.see(step, numbers, self.stages.now)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of `config.optimizer`, with its learning rate over `config.steps`.

    With a budget of time the rate is 1, see `budget.Budget`.
    """
    c = config.optimizer
    if config.budget_minutes:
        rate = optax.constant_schedule(1.0)
    elif c.schedule == "constant":
        # Without a warm-up optax would keep its initial value.
        rate = optax.warmup_constant_schedule(0.0 if c.warmup else c.learning_rate, c.learning_rate, c.warmup)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, c.learning_rate, c.warmup, max(config.steps, c.warmup + 1))
    rules = {
        "adam": optax.adam,
        "muon": lambda rate: muon.muon(rate, jnp.dtype(c.orthogonalise_dtype)),
    }
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
    return optax.chain(clip, rules[c.name](rate))


def init_state(
    task: Task, optimizer: optax.GradientTransformation, config: ConfigDict, pretrained: bool = True
) -> TrainState:
    """The state before the first step; it depends on the config alone.

    Without `pretrained` no files of weights are read. That suffices for a state that a checkpoint replaces.
    """
    params = task.init(jax.random.key(config.seed))
    if pretrained:
        if config.init:
            given = jax.tree.map(jnp.asarray, read_init(task, config))
            flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(given)
            params = traverse_util.unflatten_dict(flat)
        params = task.pretrained(params, initialised=bool(config.init))
    ema = jax.tree.map(jnp.copy, params) if config.ema else None
    return TrainState(jnp.int32(0), params, optimizer.init(_trained(task, params)), ema)


def read_init(task: Task, config: ConfigDict) -> Any:
    """The parameters that `config.init` names; with `config.init_missing` some modules may be missing.

    Raises WeightsError that names the field if the parameters do not fit.
    """
    with pretrained.naming("init", config.init):
        experiment.check_weights(task, config.init, "config.init")
        like = tasks.network_shapes(task)
        params = weights.read(config.task, config.init, like, config.init_missing)
        given = traverse_util.flatten_dict(params)
        lacking = {name for name, *rest in traverse_util.flatten_dict(like) if (name, *rest) not in given}
        for name in sorted(lacking.intersection(task.frozen)):
            raise weights.WeightsError(f"lacks {name}, which is not trained, so it cannot be new")
        return params


def train_step(
    state: TrainState,
    frames: Any,
    rate: Float[jax.Array, ""] | None = None,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    stage: int,
    seed: int,
    ema: float,
) -> tuple[TrainState, dict[str, Shaped[jax.Array, ""]]]:
    """The state after one more step on a batch, and scalars: the loss, those that the task logs, and norms.

    Random numbers depend on the seed and the step alone. With a budget of time updates are multiplied by `rate`.
    If loss, gradient or update is not finite, the step is skipped: parameters, optimiser and average do not change.
    The scalar `skipped` says so.
    """
    loss, logged, grads = loss_and_gradient(state, frames, task=task, stage=stage, seed=seed)
    trained = _trained(task, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    updates = updates if rate is None else optax.tree.scale(rate, updates)
    trained = optax.apply_updates(trained, updates)
    step, averages = state.step + 1, state.ema
    if ema:
        # The average forgets faster at first, or it would remember the random start.
        keep = jnp.minimum(ema, (1 + step) / (10 + step))
        moved = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, _trained(task, averages), trained)
        averages = {**averages, **moved}
    scalars = {"loss": loss, **logged, "grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    skipped = ~jnp.isfinite(loss + scalars["grad_norm"] + scalars["update_norm"])
    old, new = (state.params, state.opt_state, state.ema), ({**state.params, **trained}, opt_state, averages)
    kept = jax.tree.map(lambda a, b: jnp.where(skipped, a, b), old, new)
    return TrainState(step, *kept), {**scalars, "skipped": skipped}


def step_of(config: ConfigDict, task: Task, optimizer: optax.GradientTransformation) -> functools.partial:
    """The `train_step` of a config; only the stage is missing."""
    return functools.partial(train_step, task=task, optimizer=optimizer, seed=config.seed, ema=config.ema)


def loss_and_gradient(
    state: TrainState, frames: Any, *, task: Task, stage: int, seed: int
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]], Any]:
    """Loss, logged scalars, and gradient of the trained parameters, for the step after `state`."""
    key = jax.random.fold_in(jax.random.key(seed + 1), state.step)

    def loss_of(trained):
        return task.loss({**state.params, **trained}, frames, key, stage)

    (loss, logged), grads = jax.value_and_grad(loss_of, has_aux=True)(_trained(task, state.params))
    return loss, logged, grads


def _trained(task: Task, params: Any) -> Any:
    """The parameters that training changes."""
    return {name: value for name, value in params.items() if name not in task.frozen}


def compile_step(
    step: Callable[..., tuple[TrainState, Any]], mesh: Mesh, state: TrainState, frames: Any, *rate: Any
) -> jax.stages.Compiled:
    """A `train_step` for the devices of a mesh, which share a batch. The arguments are examples, or shapes and types.

    It reuses the memory of the state that it is given.
    """
    jitted = jax.jit(step, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):  # tasks may ask which devices share the batch
        return jitted.lower(state, frames, *rate).compile()
