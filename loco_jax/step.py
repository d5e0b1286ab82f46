"""One training step: the state, the optimiser, the loss and its gradient, and the stages of training."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict

from loco_jax import experiment, muon, tasks, weights
from loco_jax.runs import checkpoints
from loco_jax.runs import watch as watches
from loco_jax.tasks import Task


@flax.struct.dataclass
class TrainState:
    """The state that a step changes, replicated over the devices; arrays, or their shapes and types.

    Attributes:
      step: number of steps done, int32.
      params: the network's parameters.
      opt_state: the optimiser's state.
      ema: moving average of the parameters, or None.
      sums: sums of the logged scalars since the last log line, and their `count`.
      bad_step: the step at which too many steps in a row had been skipped, or 0.
      watch: the odd steps so far.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    sums: Any
    bad_step: Any
    watch: Any = flax.struct.field(default_factory=watches.start)

    @property
    def best_params(self) -> Any:
        """The parameters to evaluate and release: the average if there is one."""
        return self.params if self.ema is None else self.ema


class Stages:
    """The stages of training: the next one begins when the loss no longer falls (method section 3).

    Attributes:
      now: the present stage, from 0.
    """

    def __init__(self, config: ConfigDict, task: Task):
        self.now, self._last, self._config = 0, task.stages - 1, config.plateau
        self._plateau: dict[str, Any] = {"best": None, "waited": 0}

    @property
    def state(self) -> dict[str, Any]:
        """The stage and its plateau for a checkpoint, as JSON."""
        return {"stage": self.now, "plateau": self._plateau}

    @state.setter
    def state(self, saved: dict[str, Any]) -> None:
        self.now, self._plateau = saved["stage"], saved["plateau"]

    def move_on(self, means: dict[str, float]) -> bool:
        """Whether the next stage begins, given the means of a log line.

        It does after `patience` losses in a row that do not improve the best by `least_gain` of it.
        """
        if self.now == self._last or "loss" not in means:
            return False
        loss, best, waited = means["loss"], self._plateau["best"], self._plateau["waited"]
        better = best is None or loss < best * (1 - self._config.least_gain)
        self._plateau = {"best": loss, "waited": 0} if better else {"best": best, "waited": waited + 1}
        if self._plateau["waited"] < self._config.patience:
            return False
        self.now, self._plateau = self.now + 1, {"best": None, "waited": 0}
        return True


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of `config.optimizer`, with its learning rate over `config.steps`.

    With a budget of time its `update` needs the argument `rate`, see `budget.Budget`.
    """
    c = config.optimizer
    if c.schedule == "constant":
        # Without a warm-up optax would keep its initial value.
        rate = optax.warmup_constant_schedule(0.0 if c.warmup else c.learning_rate, c.learning_rate, c.warmup)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, c.learning_rate, c.warmup, max(config.steps, c.warmup + 1))
    rules = {
        "adam": optax.adam,
        "muon": lambda rate: muon.muon(rate, c.orthogonalise_every, jnp.dtype(c.orthogonalise_dtype)),
    }
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
    if config.budget_minutes:
        return optax.chain(clip, rules[c.name](optax.constant_schedule(1.0)), _scale_by_given_rate())
    return optax.chain(clip, rules[c.name](rate))


def _scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, rate, **_):
        return optax.tree.scale(rate, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def init_state(
    task: Task, optimizer: optax.GradientTransformation, config: ConfigDict, like: Any, pretrained: bool = True
) -> TrainState:
    """The state before the first step; it depends on the config alone. `like` is a batch, or its shapes and types.

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
    _, logged = jax.eval_shape(lambda p, f: task.loss(p, f, jax.random.key(0), 0), params, like)
    sums = {name: jnp.float32(0) for name in ("loss", *logged, "grad_norm", "count")}
    return TrainState(jnp.int32(0), params, optimizer.init(_trained(task, params)), ema, sums, jnp.int32(0))


def read_init(task: Task, config: ConfigDict) -> Any:
    """The parameters that `config.init` names; with `config.init_missing` some modules may be missing.

    Raises WeightsError that names the field if the parameters do not fit.
    """
    try:
        experiment.check_weights(task, config.init, "config.init")
        like = tasks.network_shapes(task)
        params = weights.read(config.task, config.init, like, config.init_missing)
        given = traverse_util.flatten_dict(params)
        lacking = {name for name, *rest in traverse_util.flatten_dict(like) if (name, *rest) not in given}
        for name in sorted(lacking.intersection(task.frozen)):
            raise weights.WeightsError(
                f'lacks {name}, which is not trained, so it cannot be new: give weights that have it, or config.init=""'
            )
        return params
    except (weights.WeightsError, checkpoints.CheckpointError) as error:
        named = f"config.init={config.init}: "
        raise weights.WeightsError(named + str(error).removeprefix(named)) from error


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
    most_skipped: int = 0,
    spike: float = 0.0,
) -> tuple[TrainState, Float[jax.Array, ""]]:
    """The state after one more step on a batch, and the loss. Random numbers depend on the seed and the step alone.

    With a budget of time the optimiser needs the learning rate. If loss, gradient or update is not finite, parameters,
    optimiser and average stay as they were; more than `most_skipped` such steps in a row set `bad_step`.
    """
    loss, logged, grads = loss_and_gradient(state, frames, task=task, stage=stage, seed=seed)
    trained = _trained(task, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained, **({} if rate is None else {"rate": rate}))
    trained = optax.apply_updates(trained, updates)
    params = {**state.params, **trained} if task.frozen else trained
    step = state.step + 1
    norm = optax.tree.norm(grads)
    logged = {"loss": loss, **logged, "grad_norm": norm, "count": jnp.float32(1)}
    averages = state.ema
    if ema:
        # A young average forgets faster, or it would remember the random start.
        keep = jnp.minimum(ema, (1 + step) / (10 + step))
        moved = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, _trained(task, averages), trained)
        averages = {**averages, **moved} if task.frozen else moved
    # Not every batch gives all scalars: JTA has no data about the ground.
    sums = {**state.sums, **{name: state.sums[name] + value for name, value in logged.items()}}
    skipped = ~jnp.isfinite(loss + norm + optax.tree.norm(updates))
    new = (params, opt_state, averages, sums)
    old = (state.params, state.opt_state, state.ema, state.sums)
    params, opt_state, averages, sums = jax.tree.map(lambda a, b: jnp.where(skipped, a, b), old, new)
    watch = watches.observe(state.watch, step, loss, skipped, spike, stage)
    state = dataclasses.replace(
        state,
        step=step,
        params=params,
        opt_state=opt_state,
        ema=averages,
        sums=sums,
        bad_step=jnp.where((state.bad_step == 0) & (watch.in_a_row > most_skipped), step, state.bad_step),
        watch=watch,
    )
    return state, loss


def step_of(config: ConfigDict, task: Task, optimizer: optax.GradientTransformation) -> functools.partial:
    """The `train_step` of a config; only the stage is missing."""
    return functools.partial(
        train_step,
        task=task,
        optimizer=optimizer,
        seed=config.seed,
        ema=config.ema,
        most_skipped=config.optimizer.max_skipped,
        spike=config.spike,
    )


def loss_and_gradient(
    state: TrainState, frames: Any, *, task: Task, stage: int, seed: int
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]], Any]:
    """Loss, logged scalars, and gradient of the trained parameters, for the step after `state`."""
    key = jax.random.fold_in(jax.random.key(seed + 1), state.step)

    def loss_of(trained):
        return task.loss({**state.params, **trained} if task.frozen else trained, frames, key, stage)

    (loss, logged), grads = jax.value_and_grad(loss_of, has_aux=True)(_trained(task, state.params))
    return loss, logged, grads


def _trained(task: Task, params: Any) -> Any:
    """The parameters that training changes."""
    return {name: value for name, value in params.items() if name not in task.frozen} if task.frozen else params


def compile_step(
    step: Callable[..., tuple[TrainState, Any]], mesh: Mesh, state: TrainState, frames: Any, *rate: Any
) -> jax.stages.Compiled:
    """A `train_step` for the devices of a mesh, which share a batch. The arguments are examples, or shapes and types.

    It reuses the memory of the state that it is given.
    """
    jitted = jax.jit(step, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):  # tasks may ask which devices share the batch
        return jitted.lower(state, frames, *rate).compile()


def compile_drain(state: TrainState, sharding: NamedSharding) -> jax.stages.Compiled:
    """A function from a state to three results: the state with empty sums, the means of the scalars, and the watch."""

    def drain(state):
        means = {name: total / state.sums["count"] for name, total in state.sums.items() if name != "count"}
        sums, cleared = jax.tree.map(jnp.zeros_like, state.sums), watches.cleared(state.watch)
        return dataclasses.replace(state, sums=sums, watch=cleared), means, state.watch

    return jax.jit(drain, donate_argnums=0, out_shardings=sharding).lower(state).compile()


def means_of(means: dict[str, Float[jax.Array, ""]]) -> dict[str, float]:
    """The means of a drained state as numbers on the host; none if every step was skipped."""
    return {name: float(value) for name, value in jax.device_get(means).items() if math.isfinite(value)}
