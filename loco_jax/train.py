"""The one training loop, for any task."""

import collections
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from loco_jax import evaluate, experiment
from loco_jax import step as steps
from loco_jax.cli import progress, signals
from loco_jax.data import datasets
from loco_jax.ops import distributed
from loco_jax.runs import budget, checkpoints, lock, observation
from loco_jax.runs import config as configs
from loco_jax.runs import log as logs
from loco_jax.runs.ending import Diverged, Stopped

_MOST_AHEAD = 2  # steps that are queued on the devices
_LONG_STEP = 1.0  # seconds; after a longer step the next one is not queued, so that a signal ends the run soon
_OUT_OF_TIME, _SIGNALLED = 1, 2  # reasons for a process to stop


def train(config: ConfigDict, workdir: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains until `config.steps`, `config.budget_minutes` or `config.max_minutes`; returns the summary of the scores.

    It goes on from the newest good checkpoint in `workdir` if there is one. If there are several processes, only the
    first reads and writes there.

    Raises Stopped after a signal, Diverged if too many steps in a row are not finite, TrainingError if it cannot go on
    for another reason, CheckpointError if the workdir belongs to another config or to a run under way, ValueError for a
    config that cannot work, and OtherProcessError for an error of another process before the first step.
    """
    training = _Training(config, workdir, distributed.only_first(say))
    with lock.owned(workdir, distributed.only_first(say)), contextlib.ExitStack() as stack:
        saved = None
        with distributed.together():
            if distributed.is_first():
                saved = stack.enter_context(checkpoints.Checkpoints(workdir, config.keep_checkpoints))
        training.begin(saved)
        return training.run()


class _Training:
    """A training of any task. `begin` loads or makes the state, `run` does the steps."""

    def __init__(self, config: ConfigDict, workdir: str, say: Callable[[str], None]):
        """Checks the config and builds task, optimiser and data, without a lock; writes nothing."""
        self._started, self._split = time.monotonic(), observation.Split("setup", config.budget_clock)
        self._config, self._workdir, self._say = config, workdir, say
        self._folder = epath.Path(workdir).expanduser()
        configs.check_same(config)
        with distributed.together():
            experiment.check(config)
            self._setup = steps.Setup(config)
            datasets.of(config).open(config.data.validation_split)  # or errors would come at the first evaluation
            self._task, mesh = self._setup.task, self._setup.mesh
            if distributed.is_first():
                configs.check(workdir, config)
                if not checkpoints.exist(workdir):
                    experiment.check_sources(config, self._task)
                    if config.init:
                        steps.read_init(self._task, config)  # bad weights are reported before anything is written
            self._source = self._setup.source
            self._budget = budget.Budget(config, mesh, self._split, delay=_MOST_AHEAD)
        # Each process waits for the answers of the others: at once, or while it starts further steps.
        alone = jax.process_count() == 1 or jax.default_backend() == "cpu"
        self._delay = 0 if alone else _MOST_AHEAD

    def begin(self, saved: checkpoints.Checkpoints | None) -> None:
        """Loads or makes the state, compiles the step, and opens the log. Only the first process has checkpoints."""
        config, setup, is_first = self._config, self._setup, distributed.is_first()
        self._saved, self._kept = saved, distributed.from_first(lambda: saved and saved.latest)
        new = self._kept is None
        with distributed.together():
            state = steps.init_state(self._task, setup.optimizer, config, pretrained=new and is_first)
        if not new:
            with distributed.together():
                step, state, position = saved.restore(state, say=self._say) if saved else (0, state, {})
            self._kept, position = distributed.gather([(step, position)])[0]
            self._say(f"{self._folder}: going on from step {self._kept}")
        with distributed.together():
            if not new:
                setup.position = self._budget.state = position
            if is_first:
                configs.claim(self._workdir, config)
                overview = parameter_overview.get_parameter_overview(state.params)
                (self._folder / "parameters.txt").write_text(overview + "\n")
        self._state = distributed.put_first(state, setup.replicated)
        self._step = int(self._state.step)

        self._say(self._task.describe())
        if setup.mesh.size < jax.device_count():
            self._say(
                f"Using {setup.mesh.size} of {jax.device_count()} devices, since config.data.batch_size="
                f"{config.data.batch_size}; a multiple of {jax.device_count()} uses all"
            )
        if jax.default_backend() == "cpu" and config.scale == "full":
            self._say(f"The demo scale trains in minutes: --config={config.demo}")
        self._do_step = setup.compile(self._state)
        in_a_row = distributed.in_a_row(setup.mesh)
        self._evaluator = evaluate.Evaluator(self._task, config, in_a_row, config.data.validation_split)
        with distributed.together():
            self._stop = signals.StopRequest(self._say, self._delay)
            self._log = logs.Log(self._folder, self._step, _curves) if is_first else logs.NoLog()
        # A run may have ended between a save and the evaluation after it.
        self._has_scored = False
        self._lacks_scores = self._is_evaluated() and not distributed.from_first(lambda: self._log.has_scores)
        self._agree = distributed.Agreement(setup.mesh, self._delay)
        total = None if config.budget_minutes else config.steps  # with a budget nobody knows how many
        self._bar = progress.bar(total, "step", config.quiet or not is_first, initial=self._step, dynamic_ncols=True)
        self._logged_step, self._waited = self._step, 0.0
        self._ahead: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._is_long: bool | None = None  # of the last step; None before the first
        self._loss: Any = None

    def run(self) -> dict[str, Any]:
        """Does the steps; see `train`."""
        config, split = self._config, self._split
        summary: dict[str, Any] | None = {}
        why = 0
        with self._stop, self._log, self._bar, jax.transfer_guard("disallow"):
            split.switch("other")
            if self._lacks_scores:  # even if out of time, or a run with a short config.max_minutes would never go on
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
                why = distributed.Agreement(self._setup.mesh)(self._why_stop())
            self._wait_for_saves()
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

    def _is_done(self) -> bool:
        return self._step >= self._config.steps or self._budget.used >= 1

    def _is_evaluated(self) -> bool:
        """Whether an evaluation belongs to the present step."""
        every = self._config.eval_every
        return self._is_done() or (self._step > 0 and every > 0 and self._step % every == 0)

    def _why_stop(self) -> int:
        late = 0 < self._config.max_minutes < (time.monotonic() - self._started) / 60
        return _SIGNALLED if self._stop.name else _OUT_OF_TIME if late else 0

    def _advance(self) -> None:
        """Starts the next step, and waits for earlier ones if too many are queued."""
        asked = self._split.now()
        with self._split.part("data"):
            frames = next(self._source)
        if self._loss is not None and self._loss.is_ready():  # otherwise the devices were computing
            self._waited += self._split.now() - asked
        began = time.monotonic()
        with self._split.part("device"):
            self._state, scalars = self._do_step(self._state, frames, *self._budget.rate(self._step))
            self._step, self._loss = self._step + 1, scalars["loss"]
            self._ahead.append((self._step, scalars))
            # The host may run ahead of the devices, but not far: progress and signals concern the present.
            self._wait(_MOST_AHEAD if self._is_long is False else 0)
        seconds = time.monotonic() - began
        if self._is_long is None and seconds > _LONG_STEP:
            self._say(f"The first step took {seconds:.2g} s")
        self._is_long = seconds > _LONG_STEP
        self._bar.update()
        self._budget.look()

    def _wait(self, ahead: int = 0) -> None:
        """Waits until at most so many steps are queued, and sees the scalars of the others."""
        while len(self._ahead) > ahead:
            self._setup.see(*self._ahead.popleft())

    def _write_log(self) -> dict[str, float]:
        """Writes a log line about the steps since the last one; returns the means of losses in it."""
        config, step, watch = self._config, self._step, self._setup.watch
        with self._split.part("device"):
            self._wait()
        means, odd = watch.take()
        lap = self._split.lap()
        seconds = sum(lap[f"seconds/{part}"] for part in observation.TRAINING) or 1e-3  # the resolution of some clocks
        rate = (step - self._logged_step) * config.data.batch_size / seconds
        share = self._waited / seconds
        self._logged_step, self._waited = step, 0.0
        speed = {"frames_per_second": rate, "input_wait": share, **lap, **observation.memory()}
        counts = {"skipped": watch.state["skipped"], **speed, "stage": self._setup.stages.now}
        self._log.write(step, {**means, **counts, **self._budget.take()})
        for numbers in odd:
            self._log.write(step, numbers)
        if odd:
            self._say(watch.describe(odd))
        loss = means.get("loss", math.nan)
        self._bar.set_postfix_str(
            f"{self._budget}loss {loss:.4g}, {rate:.3g} frames/s, {share:.0%} waiting for input", refresh=False
        )
        return means

    def _move_on(self, means: dict[str, float]) -> None:
        """Begins the next stage if the present one is over."""
        stages = self._setup.stages
        if why := stages.move_on(means, self._budget.used):
            self._say(f"step {self._step}: stage {stages.now} of {self._task.stages} ends, since {why}")
            with self._split.part("setup"):
                self._do_step = self._setup.compile(self._state)
            self._bar.unpause()

    def _check_finite(self) -> None:
        """Raises Diverged if too many steps in a row were not finite, before any of that is saved."""
        with self._split.part("device"):
            self._wait()
        if bad_step := self._setup.watch.bad_step:
            if self._logged_step < self._step:
                self._write_log()
            most, kept = self._config.optimizer.max_skipped, self._kept
            intact = "nothing was saved before" if kept is None else f"the checkpoint of step {kept} is intact"
            before = f" and the {most} before it (config.optimizer.max_skipped)" if most else ""
            raise Diverged(
                f"{self._folder}: loss, gradient or update was not finite at step {bad_step}{before}; {intact}. "
                f"--mode=replay --step={bad_step - most} shows the first of them. Start anew in another --workdir, "
                "with a lower config.optimizer.learning_rate or config.optimizer.clip_norm, or in float32."
            )

    def _save(self) -> None:
        with self._split.part("save"):
            self._check_finite()
            if rates := self._budget.take():  # the log needs the rates of all saved steps
                self._log.write(self._step, rates)
            self._kept = self._step
            if self._saved:
                self._saved.save(self._step, self._state, {**self._setup.position, **self._budget.state})

    def _wait_for_saves(self) -> None:
        with distributed.together():
            if self._saved:
                self._saved.wait()

    def _score(self, least: int = _OUT_OF_TIME) -> dict[str, Any] | None:
        """Evaluates and logs; None if a reason to stop of at least `least` interrupts it."""
        with self._split.part("evaluation"):
            params = self._state.params if self._state.ema is None else self._state.ema
            summary = self._evaluator.run(
                params, self._config.eval_frames, should_stop=lambda: self._why_stop() >= least
            )
        if not self._has_scored:  # the bar does not count compiling
            self._bar.unpause()
            self._has_scored = True
        if summary is not None:
            last = self._is_done()
            if last:
                with self._split.part("save"):
                    self._wait_for_saves()
            scores = {f"validation/{name}": value for name, value in self._task.headline(summary).items()}
            self._log.write(self._step, {**scores, **(self._split.lap() if last else {})})
        return summary


def _curves(records: list[dict[str, Any]]) -> Any:
    from loco_jax.report import figure, runs  # here, because Matplotlib takes long to import

    return figure.draw_runs([runs.Run("training", {}, records, {}, None)])
