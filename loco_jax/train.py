"""The one training loop, for any task."""

import collections
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import evaluate, experiment
from loco_jax.cli import progress, signals
from loco_jax.data import streams
from loco_jax.ops import distributed
from loco_jax.runs import budget, checkpoints, lock, observation
from loco_jax.runs import config as configs
from loco_jax.runs import log as logs
from loco_jax.runs import watch as watches
from loco_jax.runs.ending import Stopped, TrainingError
from loco_jax.step import Stages, compile_drain, compile_step, init_state, make_optimizer, means_of, read_init, step_of

_MOST_AHEAD = 2  # steps that are queued on the devices
_LONG_STEP = 1.0  # seconds; after a longer step the next one is not queued, so that a signal ends the run soon
_MOST_WAITING = 0.1  # share of the time that devices wait for input before a message advises more workers
_OUT_OF_TIME, _SIGNALLED = 1, 2  # reasons of a process to stop


def train(config: ConfigDict, workdir: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains until `config.steps`, `config.budget_minutes` or `config.max_minutes`; returns the summary of the scores.

    It goes on from the newest good checkpoint in `workdir` if there is one. If there are several processes, only the
    first reads and writes there.

    Raises Stopped after a signal, TrainingError if too many steps in a row are not finite, CheckpointError if the
    workdir belongs to another config or to a run under way, ValueError for a config that cannot work, and
    OtherProcessError for an error of another process before the first step.
    """
    training = _Training(config, workdir, distributed.only_first(say))
    with (
        lock.owned(workdir, distributed.only_first(say)),
        checkpoints.SharedCheckpoints(workdir, config.keep_checkpoints) as saved,
    ):
        training.begin(saved)
        return training.run()


class _Training:
    """A training under way, of any task. `begin` loads or makes the state, `run` does the steps."""

    def __init__(self, config: ConfigDict, workdir: str, say: Callable[[str], None]):
        """Checks the config and builds task, optimiser and data, without a lock; writes nothing."""
        self._started, self._split = time.monotonic(), observation.Split("setup")
        self._config, self._workdir, self._say = config, workdir, say
        self._folder = epath.Path(workdir).expanduser()
        configs.check_same(config)
        with distributed.together():
            experiment.check(config)
            self._mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
            self._replicated = NamedSharding(self._mesh, PartitionSpec())
            self._task, self._optimizer = experiment.create_task(config), make_optimizer(config)
            self._step_of_stage, self._stages = step_of(config, self._task, self._optimizer), Stages(config, self._task)
            if distributed.is_first():
                configs.check(workdir, config)
                if not checkpoints.exist(workdir):
                    experiment.check_sources(config, self._task)
                    if config.init:
                        read_init(self._task, config)  # so that bad weights are reported before anything is written
            self._source = streams.training_stream(config, NamedSharding(self._mesh, PartitionSpec("batch")))
            self._frames_like = self._source.like()
            self._budget = budget.Budget(config, self._mesh, self._split, delay=_MOST_AHEAD)

    def begin(self, saved: checkpoints.SharedCheckpoints) -> None:
        """Loads or makes the state, compiles the step, and opens the log."""
        config, task = self._config, self._task
        self._saved = saved
        with distributed.together():
            new = saved.latest is None
            read_weights = new and distributed.is_first()
            self._state = init_state(task, self._optimizer, config, self._frames_like, pretrained=read_weights)
        if not new:
            step, self._state, position = saved.restore(self._state, self._say)
            self._say(f"{self._folder}: going on from step {step}")
        with distributed.together():
            if not new:
                self._source.set_state(position["data"])
                self._stages.state = {name: position[name] for name in self._stages.state}
                self._budget.state = position
            if distributed.is_first():
                configs.claim(self._workdir, config)
                overview = parameter_overview.get_parameter_overview(self._state.params)
                (self._folder / "parameters.txt").write_text(overview + "\n")
        self._state = distributed.put_first(self._state, self._replicated)
        self._step = int(self._state.step)

        self._say(task.describe())
        if self._mesh.size < jax.device_count():
            self._say(
                f"Using {self._mesh.size} of {jax.device_count()} devices, since config.data.batch_size="
                f"{config.data.batch_size}; a multiple of {jax.device_count()} uses all"
            )
        self._compile()
        least_seconds, lines = _cost(self._do_step, config)
        self._is_long = distributed.from_first(lambda: least_seconds > _LONG_STEP)
        # Each process waits for the answers of the others: at once, or while it starts further steps.
        delay = 0 if self._is_long or jax.process_count() == 1 else _MOST_AHEAD
        for line in lines:
            self._say(line)
        self._drain = compile_drain(self._state, self._replicated)
        in_a_row = distributed.in_a_row(self._mesh)
        self._evaluator = evaluate.Evaluator(task, config, in_a_row, config.data.validation_split)
        with distributed.together():
            self._stop = signals.StopRequest(self._say, delay)
            is_first = distributed.is_first()
            self._log = logs.Log(self._folder, self._step, _curves) if is_first else logs.NoLog()
        # A run may have ended between a save and the evaluation after it.
        self._lacks_scores = self._is_evaluated() and not distributed.from_first(lambda: self._log.has_scores)
        self._agree = distributed.Agreement(self._mesh, delay)
        steps = None if config.budget_minutes else config.steps  # with a budget nobody knows how many
        quiet = config.quiet or not distributed.is_first()
        self._bar = progress.bar(steps, "step", quiet, initial=self._step, dynamic_ncols=True)
        self._logged_step, self._waited, self._is_told = self._step, 0.0, False
        self._ahead: collections.deque[jax.Array] = collections.deque()
        self._loss: Any = None

    def run(self) -> dict[str, Any]:
        """Does the steps; see `train`."""
        config, split = self._config, self._split
        summary: dict[str, Any] | None = {}
        why = 0
        with self._stop, self._log, self._bar, jax.transfer_guard("disallow"):
            split.switch("other")
            if self._lacks_scores:  # even out of time, or a run with a short config.max_minutes would never go on
                summary = self._score(_SIGNALLED)
            while not self._is_done() and summary is not None:
                self._advance()
                last = self._is_done()
                if self._step % config.log_every == 0 or last:
                    means = self._write_log()
                    self._check_finite()
                    self._move_on(means)
                with split.part("device"):  # with several processes their devices compare the answers
                    why = self._agree(self._why_stop())
                if last or self._step % config.checkpoint_every == 0 or why:
                    self._save()
                if why and not last:
                    break
                if self._is_evaluated():
                    summary = self._score()
            if summary is None:  # only an evaluation is lost, which the next start repeats
                self._save()
                why = distributed.Agreement(self._mesh)(self._why_stop())
            self._saved.wait()
        if self._is_done() and summary is not None:
            self._say(f"{self._folder}: {self._step} steps done")
            return summary
        out_of_time = f"config.max_minutes={config.max_minutes}"
        cause = self._stop.name or (out_of_time if self._why_stop() else "another process")
        said = (
            f"{self._folder}: stopped by {cause} at step {self._step}, which is saved; the same command goes on from "
            "there"
        )
        if why == _SIGNALLED:
            raise Stopped(said)
        self._say(said)
        return summary or {}

    def _compile(self) -> None:
        """Compiles the step of the present stage."""
        rate = [self._budget.place(0)] if self._config.budget_minutes else []
        step = functools.partial(self._step_of_stage, stage=self._stages.now)
        self._do_step = compile_step(step, self._mesh, self._state, self._frames_like, *rate)

    def _is_done(self) -> bool:
        return self._step >= self._config.steps or self._budget.is_over

    def _is_evaluated(self) -> bool:
        """Whether an evaluation belongs to the present step."""
        every = self._config.eval_every
        return self._is_done() or (self._step > 0 and every > 0 and self._step % every == 0)

    def _why_stop(self) -> int:
        late = 0 < self._config.max_minutes < (time.monotonic() - self._started) / 60
        return _SIGNALLED if self._stop.name else _OUT_OF_TIME if late else 0

    def _advance(self) -> None:
        """Starts the next step, and waits for earlier ones if too many are queued."""
        asked, began = observation.now(), time.monotonic()
        with self._split.part("data"):
            frames = next(self._source)
        if self._loss is not None and self._loss.is_ready():  # otherwise the devices were computing
            self._waited += observation.now() - asked
        with self._split.part("device"):
            self._state, self._loss = self._do_step(self._state, frames, *self._budget.rate(self._step))
            self._step += 1
            # The host may run ahead of the devices, but not far: progress and signals concern the present.
            self._ahead.append(self._loss)
            while len(self._ahead) > (0 if self._is_long else _MOST_AHEAD):
                self._ahead.popleft().block_until_ready()
        self._is_long = time.monotonic() - began > _LONG_STEP
        self._bar.update()
        self._budget.look()

    def _write_log(self) -> dict[str, float]:
        """Writes a log line about the steps since the last one; returns the means of losses in it."""
        config, step = self._config, self._step
        with self._split.part("device"):
            self._state, means, watch = self._drain(self._state)
            means, watch = means_of(means), jax.device_get(watch)
        lap = self._split.lap()
        seconds = observation.training_seconds(lap)
        rate = (step - self._logged_step) * config.data.batch_size / seconds
        share = self._waited / seconds
        self._logged_step, self._waited = step, 0.0
        speed = {"frames_per_second": rate, "input_wait": share, **lap, **observation.memory()}
        counts = {"skipped": int(watch.skipped), **speed, "stage": self._stages.now}
        self._log.write(step, {**means, **counts, **self._budget.take()})
        for odd in watches.odd_steps(watch):
            self._log.write(step, watches.scalars(odd))
        if said := watches.describe(watch):
            self._say(said)
        loss = means.get("loss", math.nan)
        self._bar.set_postfix_str(
            f"{self._budget}loss {loss:.4g}, {rate:.3g} frames/s, {share:.0%} waiting for input", refresh=False
        )
        decodes = config.data.source == "jta" and config.data.pictures
        if share > _MOST_WAITING and decodes and not self._is_told:
            self._is_told = True
            self._say(
                f"step {step}: {share:.0%} of the time the devices wait for pictures; let more processes "
                f"decode them, up to one a core, with --config.data.workers={config.data.workers + 2}"
            )
        return means

    def _move_on(self, means: dict[str, float]) -> None:
        """Begins the next stage if the loss no longer falls."""
        if self._stages.move_on(means):
            number = self._stages.now + 1
            self._say(f"step {self._step}: the loss no longer falls; stage {number} of {self._task.stages} begins")
            with self._split.part("setup"):
                self._compile()
            self._bar.unpause()

    def _check_finite(self) -> None:
        """Raises TrainingError if too many steps in a row were not finite, before any of that is saved."""
        with self._split.part("device"):
            bad_step = int(jax.device_get(self._state.bad_step))
        if bad_step:
            if self._logged_step < self._step:
                self._write_log()
            raise _not_finite(bad_step, self._saved.latest, self._folder, self._config)

    def _save(self) -> None:
        with self._split.part("save"):
            self._check_finite()
            if rates := self._budget.take():  # the log needs the rates of all saved steps
                self._log.write(self._step, rates)
            position = {"data": self._source.get_state(), **self._stages.state, **self._budget.state}
            self._saved.save(self._step, self._state, position)

    def _score(self, least: int = _OUT_OF_TIME) -> dict[str, Any] | None:
        """Evaluates and logs; None if a reason to stop of at least `least` interrupts it."""
        with self._split.part("evaluation"):
            is_new = self._evaluator.example is None
            summary = self._evaluator.run(
                self._state.best_params, self._config.eval_frames, should_stop=lambda: self._why_stop() >= least
            )
        if is_new:  # it was compiled, which the bar does not count
            self._bar.unpause()
        if summary is not None:
            last = self._is_done()
            if last:
                with self._split.part("save"):
                    self._saved.wait()
            scores = {f"validation/{name}": value for name, value in self._task.headline(summary).items()}
            self._log.write(self._step, {**scores, **(self._split.lap() if last else {})})
        return summary


def _curves(records: list[dict[str, Any]]) -> Any:
    from loco_jax.report import drawings  # here, because Matplotlib takes long to import

    return drawings.curves(records)


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


def _cost(step: Any, config: ConfigDict) -> tuple[float, list[str]]:
    """The least seconds of a step on a CPU, 0 on other devices; and lines about its cost."""
    flops, minutes = (step.cost_analysis() or {}).get("flops", 0.0), config.budget_minutes
    on_cpu = jax.default_backend() == "cpu"
    seconds = flops / _matmul_rate() if flops and on_cpu else 0.0
    to_do = f"{minutes:g} minutes of training, or {config.steps:,} steps," if minutes else f"{config.steps:,} steps"
    lines = [f"One step of {config.data.batch_size} frames is {flops / 1e9:,.0f} GFLOP; {to_do} to do."]
    if seconds > _LONG_STEP:  # the time of shorter steps depends little on their arithmetic
        lines.append(f"On this CPU a step takes {seconds:.2g} s or more.")
    if on_cpu and config.scale == "full":
        lines.append(f"The demo scale trains in minutes: --config={config.demo}")
    return seconds, lines


def _matmul_rate() -> float:
    """Operations a second of this machine in a matrix product; the best of four trials."""
    size = 1024
    a = jnp.ones((size, size), jnp.float32)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        (a @ a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
