"""The one training loop, for any task."""

import collections
import contextlib
import functools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import tensorboardX
from clu import parameter_overview
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import evaluate, experiment, muon, tasks
from loco_jax.cli import progress, signals
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.ops import distributed
from loco_jax.runs import budget as budgets
from loco_jax.runs import checkpoints
from loco_jax.runs import observation as observe
from loco_jax.runs import watch as watches
from loco_jax.tasks import Task
from loco_jax.weights import files as weights

_MOST_AHEAD = 2  # steps that wait for the devices
_LONG_STEP = 1.0  # seconds; after a longer step the next one is not queued, so that a signal ends the run soon
_MOST_WAITING = 0.1  # of the time, for input, until somebody is told
_OUT_OF_TIME, _SIGNALLED = 1, 2  # why a process wants to stop


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved before is intact."""


class Stopped(Exception):
    """A signal ended training before all was done. Everything is saved: the same call goes on from there."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes, replicated over the devices.

    Attributes:
      step: steps done, int32.
      params: the network's parameters.
      opt_state: the optimiser's.
      ema: moving average of the parameters, or None.
      sums: of the logged scalars since the last log line, and their `count`.
      bad_step: the step at which too many in a row had been skipped; 0 while there is none.
      watch: the odd steps so far.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    sums: dict[str, jax.Array]
    bad_step: jax.Array
    watch: watches.Watch = flax.struct.field(default_factory=watches.start)

    @property
    def best_params(self) -> Any:
        """What to evaluate and release: the average where there is one."""
        return self.params if self.ema is None else self.ema


class Plateau:
    """Says when the loss has stopped falling, so that the next stage may begin (method section 3)."""

    def __init__(self, patience: int, least_gain: float):
        self._patience, self._least_gain = patience, least_gain
        self.state = {"best": None, "waited": 0}

    def reached(self, loss: float) -> bool:
        """Whether `patience` losses in a row were not better than the best by `least_gain` of it; then starts over."""
        best = self.state["best"]
        if best is None or loss < best * (1 - self._least_gain):
            self.state = {"best": loss, "waited": 0}
        else:
            self.state = {**self.state, "waited": self.state["waited"] + 1}
        if self.state["waited"] < self._patience:
            return False
        self.state = {"best": None, "waited": 0}
        return True


class Stages:
    """Which of a task's stages training is in: the next begins at a log line where the loss no longer falls."""

    def __init__(self, config: ConfigDict, task: Task):
        self.now, self._count = 0, task.stages
        self._plateau = Plateau(config.plateau.patience, config.plateau.least_gain)

    @property
    def state(self) -> dict[str, Any]:
        """To be saved, as JSON."""
        return {"stage": self.now, "plateau": self._plateau.state}

    @state.setter
    def state(self, saved: dict[str, Any]) -> None:
        self.now, self._plateau.state = saved["stage"], saved["plateau"]

    def move_on(self, means: dict[str, float]) -> bool:
        """Whether the next stage begins, after the means of a log line."""
        if self.now + 1 == self._count or "loss" not in means or not self._plateau.reached(means["loss"]):
            return False
        self.now += 1
        return True


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of `config.optimizer`, its learning rate over `config.steps`.

    With a budget of time its `update` wants the argument `rate` instead, see `budget.Budget`.
    """
    c = config.optimizer
    if c.schedule == "constant":
        # Without a warm-up optax would stay at its initial value.
        rate = optax.warmup_constant_schedule(0.0 if c.warmup else c.learning_rate, c.learning_rate, c.warmup)
    elif c.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0, c.learning_rate, c.warmup, max(config.steps, c.warmup + 1))
    else:
        raise ValueError(f"config.optimizer.schedule={c.schedule!r}; there are constant, cosine")
    rules = {"adam": optax.adam, "muon": functools.partial(_muon, config=c)}
    if c.name not in rules:
        raise ValueError(f"config.optimizer.name={c.name!r}; there are {', '.join(rules)}")
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
    if config.budget_minutes:
        return optax.chain(clip, rules[c.name](optax.constant_schedule(1.0)), _scale_by_given_rate())
    return optax.chain(clip, rules[c.name](rate))


def _scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, rate, **_):
        return optax.tree.scale(rate, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _muon(rate: optax.Schedule, config: ConfigDict) -> optax.GradientTransformation:
    every, dtype = config.orthogonalise_every, config.orthogonalise_dtype
    if every < 1:
        raise ValueError(f"config.optimizer.orthogonalise_every={every} must be at least 1")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"config.optimizer.orthogonalise_dtype={dtype!r}; there are float32, bfloat16")
    return muon.muon(rate, every, jnp.dtype(dtype))


def init_state(
    task: Task, optimizer: optax.GradientTransformation, config: ConfigDict, like: Frames, pretrained: bool = True
) -> TrainState:
    """The state before the first step; the same config gives the same. `like` is a batch, or its shapes.

    Without `pretrained` no files are read for it: enough for a state that a checkpoint will replace.
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
    """The parameters that `config.init` names; with `config.init_missing` perhaps not of all modules.

    Raises WeightsError, naming that field, if they will not do.
    """
    try:
        experiment.check_weights(task, config.init, "config.init")
        like = tasks.network_shapes(task)
        params = weights.read(config.task, config.init, like, config.init_missing)
        given = traverse_util.flatten_dict(params)
        lacking = {name for name, *rest in traverse_util.flatten_dict(like) if (name, *rest) not in given}
        for name in sorted(lacking.intersection(task.frozen)):
            raise weights.WeightsError(
                f'lacks {name}, which is not trained and so cannot be new: give weights that have it, or config.init=""'
            )
        return params
    except (weights.WeightsError, checkpoints.CheckpointError) as error:
        named = f"config.init={config.init}: "
        raise weights.WeightsError(named + str(error).removeprefix(named)) from error


def train_step(
    state: TrainState,
    frames: Frames,
    rate: jax.Array | None = None,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    stage: int,
    seed: int,
    ema: float,
    most_skipped: int = 0,
    spike: float = 0.0,
) -> tuple[TrainState, jax.Array]:
    """The state after one more step, on a batch, and its loss. Randomness comes from the seed and the step alone.

    With a budget of time the optimiser needs the learning rate.

    Where loss, gradient or update is not finite, parameters, optimiser and average stay as they were. More than
    `most_skipped` such steps in a row make `bad_step`.
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
        # The young average forgets faster, or it would remember the random start.
        keep = jnp.minimum(ema, (1 + step) / (10 + step))
        moved = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, _trained(task, averages), trained)
        averages = {**averages, **moved} if task.frozen else moved
    # Not every batch gives all of them: JTA's tell nothing of the ground.
    sums = {**state.sums, **{name: state.sums[name] + value for name, value in logged.items()}}
    skipped = ~jnp.isfinite(loss + norm + optax.tree.norm(updates))
    new = (params, opt_state, averages, sums)
    old = (state.params, state.opt_state, state.ema, state.sums)
    params, opt_state, averages, sums = jax.tree.map(lambda a, b: jnp.where(skipped, a, b), old, new)
    watch = watches.observe(state.watch, step, loss, skipped, spike, stage)
    state = state.replace(
        step=step,
        params=params,
        opt_state=opt_state,
        ema=averages,
        sums=sums,
        bad_step=jnp.where((state.bad_step == 0) & (watch.in_a_row > most_skipped), step, state.bad_step),
        watch=watch,
    )
    return state, loss


def loss_and_gradient(
    state: TrainState, frames: Frames, *, task: Task, stage: int, seed: int
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """Of the step after `state`: the loss, what is logged with it, and the gradient of what is trained."""
    key = jax.random.fold_in(jax.random.key(seed + 1), state.step)

    def loss_of(trained):
        return task.loss({**state.params, **trained} if task.frozen else trained, frames, key, stage)

    (loss, logged), grads = jax.value_and_grad(loss_of, has_aux=True)(_trained(task, state.params))
    return loss, logged, grads


def compile_step(
    step: Callable[..., tuple[TrainState, jax.Array]], mesh: Mesh, state: TrainState, frames: Frames, *rate: jax.Array
) -> jax.stages.Compiled:
    """A `train_step` for the devices of a mesh that share a batch; its arguments are examples, or shapes."""
    jitted = jax.jit(step, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):  # a task may want to know who shares the batch
        return jitted.lower(state, frames, *rate).compile()


def _trained(task: Task, params: Any) -> Any:
    """Those parameters that training changes."""
    return {name: value for name, value in params.items() if name not in task.frozen} if task.frozen else params


def train(config: ConfigDict, workdir: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains until `config.steps`, `config.budget_minutes` or `config.max_minutes`; returns the last scores' summary.

    Goes on from the newest good checkpoint in `workdir` if there is one. Of several processes the first alone reads and
    writes there. Raises Stopped after a signal, TrainingError if too many steps in a row are not finite,
    CheckpointError if the workdir belongs to another config or to a run under way, ValueError for a config that makes
    no sense, OtherProcessError for what another process raises before the first step.
    """
    started, split = time.monotonic(), observe.Split("setup")
    say = distributed.only_first(say)
    folder = epath.Path(workdir).expanduser()
    checkpoints.check_same(config)
    with distributed.together():
        experiment.check(config)
        mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
        replicated, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
        task, optimizer = experiment.create_task(config), make_optimizer(config)
        step_fn, stages = step_of(config, task, optimizer), Stages(config, task)
        if distributed.is_first():
            checkpoints.check(workdir, config)
            if not checkpoints.exist(workdir):
                experiment.check_sources(config, task)
                if config.init:
                    read_init(task, config)  # once more below: what will not do is told before anything is written
        source = streams.training_stream(config, sharded)
        frames_like = source.like()
        budget = budgets.Budget(config, mesh, split, delay=_MOST_AHEAD)

    with (
        checkpoints.owned(workdir, say),
        checkpoints.SharedCheckpoints(workdir, config.keep_checkpoints) as saved,
    ):
        with distributed.together():
            new = saved.latest is None
            state = init_state(task, optimizer, config, frames_like, pretrained=new and distributed.is_first())
        if not new:
            step, state, position = saved.restore(state, say, newer={"watch": watches.start()})
            say(f"{folder}: going on from step {step}")
        with distributed.together():
            if not new:
                source.set_state(position["data"])
                stages.state = {name: position[name] for name in stages.state}
                budget.state = position
            if distributed.is_first():
                checkpoints.claim(workdir, config)
                overview = parameter_overview.get_parameter_overview(state.params)
                (folder / "parameters.txt").write_text(overview + "\n")
        state = distributed.put_first(state, replicated)
        step = int(state.step)

        say(task.describe())
        if mesh.size < jax.device_count():
            say(
                f"Using {mesh.size} of {jax.device_count()} devices, since config.data.batch_size="
                f"{config.data.batch_size}; a multiple of {jax.device_count()} uses all"
            )

        def compile_stage() -> jax.stages.Compiled:
            rate = [budget.place(0)] if config.budget_minutes else []
            return compile_step(functools.partial(step_fn, stage=stages.now), mesh, state, frames_like, *rate)

        def is_done() -> bool:
            return step >= config.steps or budget.is_over

        def is_evaluated() -> bool:
            return is_done() or (step > 0 and config.eval_every > 0 and step % config.eval_every == 0)

        do_step = compile_stage()
        least_seconds = _least_seconds(do_step)
        is_long = distributed.from_first(lambda: least_seconds > _LONG_STEP)
        # Of several processes each waits for the others' answers, at once or while it starts further steps.
        delay = 0 if is_long or jax.process_count() == 1 else _MOST_AHEAD
        for line in _cost(do_step, config, least_seconds):
            say(line)
        drain = compile_drain(state, replicated)
        evaluator = evaluate.Evaluator(task, config, distributed.in_a_row(mesh), config.data.validation_split)
        with distributed.together():
            stop, log = _StopSignal(say, delay), _Log(folder, step) if distributed.is_first() else _NoLog()
        # Of a run that ended between a save and the evaluation after it.
        behind = is_evaluated() and not distributed.from_first(lambda: log.has_scores)
        agree = distributed.Agreement(mesh, delay)
        quiet = config.quiet or not distributed.is_first()
        steps = None if config.budget_minutes else config.steps  # how many there will be, time will tell
        bar = progress.bar(steps, "step", quiet, initial=step, dynamic_ncols=True)
        logged_step, ahead, loss = step, collections.deque(), None
        waited, told = 0.0, False

        def why_stop() -> int:
            late = 0 < config.max_minutes < (time.monotonic() - started) / 60
            return _SIGNALLED if stop.name else _OUT_OF_TIME if late else 0

        def write_log() -> dict[str, float]:
            """A log line of the steps since the last; what of it are means of losses."""
            nonlocal state, logged_step, waited, told
            with split.part("device"):
                state, means, watch = drain(state)
                means, watch = means_of(means), jax.device_get(watch)
            lap = split.lap()
            seconds = observe.training_seconds(lap)
            rate = (step - logged_step) * config.data.batch_size / seconds
            share = waited / seconds
            logged_step, waited = step, 0.0
            speed = {"frames_per_second": rate, "input_wait": share, **lap, **observe.memory()}
            log.write(step, {**means, "skipped": int(watch.skipped), **speed, "stage": stages.now, **budget.take()})
            for odd in watches.odd_steps(watch):
                log.write(step, watches.scalars(odd))
            if said := watches.describe(watch):
                say(said)
            bar.set_postfix_str(
                f"{budget}loss {means.get('loss', math.nan):.4g}, {rate:.3g} frames/s, {share:.0%} waiting for input",
                refresh=False,
            )
            if share > _MOST_WAITING and config.data.source == "jta" and config.data.pictures and not told:
                told = True
                say(
                    f"step {step}: {share:.0%} of the time the devices wait for pictures; let more processes "
                    f"decode them, up to one a core, with --config.data.workers={config.data.workers + 2}"
                )
            return means

        def check_finite() -> None:
            if bad_step := int(jax.device_get(state.bad_step)):
                if logged_step < step:
                    write_log()
                raise _not_finite(bad_step, saved.latest, folder, config)

        def save() -> None:
            with split.part("device"):
                check_finite()
            if rates := budget.take():  # of steps since the last log line; none of a saved step may be missing
                log.write(step, rates)
            saved.save(step, state, {"data": source.get_state(), **stages.state, **budget.state})

        def score(least: int = _OUT_OF_TIME) -> dict[str, Any] | None:
            with split.part("evaluation"):
                should_stop = lambda: why_stop() >= least  # noqa: E731
                is_new = evaluator.example is None
                summary = evaluator.run(state.best_params, config.eval_frames, should_stop=should_stop)
            if is_new:  # and had to be compiled
                bar.unpause()
            if summary is not None:
                last = is_done()
                if last:
                    with split.part("save"):
                        saved.wait()
                scores = {f"validation/{name}": value for name, value in task.headline(summary).items()}
                log.write(step, {**scores, **(split.lap() if last else {})})
            return summary

        summary, why = {}, 0
        with stop, log, bar, jax.transfer_guard("disallow"):
            split.switch("other")
            if behind:  # whatever the time: or a short config.max_minutes would never get any further
                summary = score(_SIGNALLED)
            while not is_done() and summary is not None:
                asked, began = observe.now(), time.monotonic()
                with split.part("data"):
                    frames = next(source)
                if loss is not None and loss.is_ready():  # else the devices had work to do meanwhile
                    waited += observe.now() - asked
                with split.part("device"):
                    state, loss = do_step(state, frames, *budget.rate(step))
                    step += 1
                    # The host may run ahead of the devices, but not far: progress and signals concern the present.
                    ahead.append(loss)
                    while len(ahead) > (0 if is_long else _MOST_AHEAD):
                        ahead.popleft().block_until_ready()
                is_long = time.monotonic() - began > _LONG_STEP
                bar.update()
                budget.look()
                last = is_done()
                if step % config.log_every == 0 or last:
                    means = write_log()
                    with split.part("device"):
                        check_finite()
                    if stages.move_on(means):
                        say(f"step {step}: the loss no longer falls; stage {stages.now + 1} of {task.stages} begins")
                        with split.part("setup"):
                            do_step = compile_stage()
                        bar.unpause()
                with split.part("device"):  # of several processes, whose devices compare the answers
                    why = agree(why_stop())
                if last or step % config.checkpoint_every == 0 or why:
                    with split.part("save"):
                        save()
                if why and not last:
                    break
                if is_evaluated():
                    summary = score()
            if summary is None:  # nothing but an evaluation is lost, and the next start makes it
                save()
                why = distributed.Agreement(mesh)(why_stop())
            saved.wait()
        if is_done() and summary is not None:
            say(f"{folder}: {step} steps done")
            return summary
        cause = stop.name or (f"config.max_minutes={config.max_minutes}" if why_stop() else "another process")
        said = f"{folder}: stopped by {cause} at step {step}, which is saved; the same command goes on from there"
        if why == _SIGNALLED:
            raise Stopped(said)
        say(said)
    return summary or {}


def step_of(config: ConfigDict, task: Task, optimizer: optax.GradientTransformation) -> functools.partial:
    """The `train_step` of a config; it lacks the stage. Raises ValueError for limits that make no sense."""
    if config.optimizer.max_skipped < 0:
        raise ValueError(f"config.optimizer.max_skipped={config.optimizer.max_skipped} must be at least 0")
    if not (config.spike == 0 or config.spike > 1):
        raise ValueError(f"config.spike={config.spike} must be above 1, or 0 to log no spikes")
    return functools.partial(
        train_step,
        task=task,
        optimizer=optimizer,
        seed=config.seed,
        ema=config.ema,
        most_skipped=config.optimizer.max_skipped,
        spike=config.spike,
    )


def compile_drain(state: TrainState, sharding: NamedSharding) -> jax.stages.Compiled:
    """A function that takes out of a state what is to be logged: the state without, means of scalars, the watch."""

    def drain(state):
        means = {name: total / state.sums["count"] for name, total in state.sums.items() if name != "count"}
        sums, watch = jax.tree.map(jnp.zeros_like, state.sums), watches.cleared(state.watch)
        return state.replace(sums=sums, watch=watch), means, state.watch

    return jax.jit(drain, donate_argnums=0, out_shardings=sharding).lower(state).compile()


def means_of(means: dict[str, jax.Array]) -> dict[str, float]:
    """Of a drained state, on the host; none where every step was skipped."""
    return {name: float(value) for name, value in jax.device_get(means).items() if math.isfinite(value)}


def _not_finite(bad_step: int, kept: int | None, folder: epath.Path, config: ConfigDict) -> TrainingError:
    most = config.optimizer.max_skipped
    intact = "nothing was saved before" if kept is None else f"the checkpoint of step {kept} is intact"
    before = f" and the {most} before it (config.optimizer.max_skipped)" if most else ""
    return TrainingError(
        f"{folder}: loss, gradient or update was not finite at step {bad_step}{before}; {intact}. "
        f"--mode=replay --step={bad_step - most} shows the first of them. "
        "Start anew in another --workdir, with a lower config.optimizer.learning_rate or "
        "config.optimizer.clip_norm, or in float32."
    )


def _cost(step: jax.stages.Compiled, config: ConfigDict, seconds: float) -> list[str]:
    """What a step costs, in words; on a CPU, where it takes long, with the way out."""
    flops = (step.cost_analysis() or {}).get("flops", 0.0)
    minutes = config.budget_minutes
    to_do = f"{minutes:g} minutes of training, or {config.steps:,} steps," if minutes else f"{config.steps:,} steps"
    lines = [f"One step of {config.data.batch_size} frames is {flops / 1e9:,.0f} GFLOP; {to_do} to do."]
    if seconds > _LONG_STEP:  # the time of shorter ones has little to do with their arithmetic
        lines.append(f"On this CPU a step takes {seconds:.2g} s or more.")
    if jax.default_backend() == "cpu" and config.scale == "full":
        lines.append(f"The demo scale trains in minutes: --config={config.demo}")
    return lines


def _least_seconds(step: jax.stages.Compiled) -> float:
    """What a step takes at least, by its arithmetic, on a CPU; 0 elsewhere."""
    flops = (step.cost_analysis() or {}).get("flops", 0.0)
    return flops / _matmul_rate() if flops and jax.default_backend() == "cpu" else 0.0


def _matmul_rate() -> float:
    """Operations a second of this machine's matrix product, the best of three."""
    size = 1024
    a = jnp.ones((size, size), jnp.float32)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        (a @ a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


class _StopSignal:
    """While entered, SIGTERM and SIGINT ask to stop instead of killing; a second SIGINT kills.

    The first is acknowledged at once, also while a step is waited for; so many steps may be started after it.

    A second SIGTERM does nothing, then or afterwards: launchers send some twice, and that would change the status.
    """

    def __init__(self, say: Callable[[str], None], more: int):
        self.name = ""
        self._steps = f"the steps under way and at most {more} more are" if more else "the step under way is"
        self._say, self._is_told = say, False
        self._old, self._listening = {}, contextlib.ExitStack()

    def __enter__(self) -> "_StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.getsignal(number)
                signal.signal(number, self._ask)
            self._listening.enter_context(signals.listening(self._acknowledge))
        return self

    def __exit__(self, *_) -> None:
        self._listening.close()
        for number, old in self._old.items():
            if number == signal.SIGINT or not self.name:
                signal.signal(number, old)

    def _acknowledge(self, number: int) -> None:
        if number in self._old and not self._is_told:
            self._is_told = True
            self._say(f"{signal.Signals(number).name}: {self._steps} finished and saved, then this ends")

    def _ask(self, number, _) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, self._old[number])


class _NoLog(contextlib.nullcontext):
    """The log of those processes that write none."""

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        pass


class _Log:
    """Scalars of a run: `log.jsonl`, one line a log step, and TensorBoard curves beside it.

    Lines of steps after `step`, where the run goes on, are dropped: those steps come again. `has_scores`: whether there
    are validation scores of that step itself.
    """

    def __init__(self, folder: epath.Path, step: int):
        self._path, self.has_scores = folder / "log.jsonl", False
        with self._writing():
            if self._path.exists():
                kept = [record for record in observe.read_log(self._path) if record["step"] <= step]
                checkpoints.write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
                here = (name for record in kept if record["step"] == step for name in record)
                self.has_scores = any(name.startswith("validation/") for name in here)
            self._curves = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        """Closes the curves, and draws them, `curves.png`."""
        try:
            with self._writing():
                self._curves.close()
                if kind is None:
                    from loco_jax.report import drawings as draw  # matplotlib, which many commands do without

                    with (self._path.parent / "curves.png").open("wb") as file:
                        draw.curves(observe.read_log(self._path)).savefig(file, format="png")
        except TrainingError:
            if kind is None:  # else what went wrong first is told
                raise

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Lists go into the log alone."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        with self._writing():
            if "://" in str(self._path):  # buckets cannot append
                self._path.write_text((self._path.read_text() if self._path.exists() else "") + line)
            else:
                with self._path.open("a") as file:
                    file.write(line)
            for name, value in scalars.items():
                if not isinstance(value, list):
                    self._curves.add_scalar(name, value, step)
            self._curves.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self._path.parent}: the log cannot be written ({error.strerror or error}). If the disk is full, "
                "make room: the same command goes on from the newest checkpoint."
            ) from error
