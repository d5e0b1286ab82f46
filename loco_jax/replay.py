"""Repeats one step of a run with the same batch, keys and parameters, to inspect it. The run does not change."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import experiment, report
from loco_jax import step as steps
from loco_jax.cli import progress
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.ops import distributed
from loco_jax.report import tables
from loco_jax.runs import budget, checkpoints, files, log
from loco_jax.runs import config as configs

_KINDS = ("batch", "gradient", "parameters")
_MOST_ROWS = 6  # rows of a kind in the table; the file has all


def replay(config: ConfigDict, workdir: str, number: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Repeats step `number`, from 1, of the run in `workdir`, and returns its numbers.

    It starts from the newest good checkpoint before that step and repeats the steps between, so that the parameters are
    those of the run. On the same machine they are equal bit for bit, if its kernels are deterministic. Fields that only
    training reads are taken from the run.

    The numbers are the loss and the scalars that are logged with it, the norms of gradient and update, and for every
    array of parameters, gradient and batch the count of numbers that are not finite, and the greatest magnitude of the
    others. They are written to `replay/step_N.json`, with pictures of the first `config.pictures` frames beside it.

    Raises CheckpointError if there is no run of this config, ValueError for a step that the run does not have, or if
    there are several processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=replay is for one process: start it alone, wherever the run was")
    if number < 1:
        raise ValueError(f"--step={number}: --mode=replay needs the number of a step, from 1")
    config = configs.as_trained(workdir, config)
    configs.check(workdir, config)
    if number > config.steps:
        raise ValueError(f"--step={number}: this run has config.steps={config.steps}")
    experiment.check(config)
    run = _Run(config, workdir, number)
    run.go_to(number - 1, say)
    found = run.look_at(number)
    folder = epath.Path(workdir).expanduser() / "replay"
    files.write_text(folder / f"step_{number}.json", json.dumps(found, indent=2) + "\n")
    say(_in_words(found))
    run.draw(number, folder, say)
    say(f"All numbers, and pictures: {folder}")
    return found


class _Run:
    """A run whose steps up to `number` are repeated."""

    def __init__(self, config: ConfigDict, workdir: str, number: int):
        self._config, self._workdir = config, workdir
        self._mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
        self._task, self._optimizer = experiment.create_task(config), steps.make_optimizer(config)
        self._step_of_stage = steps.step_of(config, self._task, self._optimizer)
        self._stages = steps.Stages(config, self._task)
        self._source = streams.training_stream(config, NamedSharding(self._mesh, PartitionSpec("batch")))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._rates = self._read_rates(number) if config.budget_minutes else None

    def _read_rates(self, number: int) -> dict[int, float]:
        """The learning rates of the steps up to `number`, which depended on time, from the log."""
        path = epath.Path(self._workdir).expanduser() / log.FILE
        rates = budget.logged_rates(log.read(path))
        missing = [step for step in range(1, number + 1) if step not in rates]
        if missing:
            raise ValueError(
                f"--step={number}: {path} lacks the learning rate of step {missing[0]}, which depended on time; it "
                f"has {len(rates)} steps"
            )
        return rates

    def _rate_of(self, step: int) -> tuple[jax.Array, ...]:
        """The further arguments of a step: its learning rate if the run has a budget of time."""
        return () if self._rates is None else (jax.device_put(np.float32(self._rates[step]), self._replicated),)

    def go_to(self, last: int, say: Callable[[str], None]) -> None:
        """Loads the newest good checkpoint up to step `last`, and repeats the steps after it up to `last`."""
        config = self._config
        with checkpoints.Checkpoints(self._workdir, read_only=True) as saved:
            before = [step for step in saved.steps if step <= last]
            state = steps.init_state(self._task, self._optimizer, config, self._source.like(), pretrained=not before)
            if before:
                _, state, position = saved.restore(state, last, say)
                self._source.set_state(position["data"])
                self._stages.state = {name: position[name] for name in self._stages.state}
        self._state = jax.device_put(state, self._replicated)
        first = int(self._state.step)
        begin = f"the checkpoint of step {first}" if first else "the beginning: no checkpoint is older"
        say(f"{self._workdir}: step {last + 1}, from {begin}; {last - first} steps to do again")
        self._compile(last + 1)
        drain = steps.compile_drain(self._state, self._replicated)
        with progress.bar(last, "step", config.quiet, initial=first) as bar:
            for step in range(first + 1, last + 1):
                self._state, _ = self._do_step(self._state, next(self._source), *self._rate_of(step))
                bar.update()
                if step % config.log_every == 0:  # here the stage may change
                    self._state, means, _ = drain(self._state)
                    if self._stages.move_on(steps.means_of(means)):
                        self._compile(last + 1)

    def _compile(self, number: int) -> None:
        """Compiles the step of the present stage, for arguments shaped like those of step `number`."""
        step = functools.partial(self._step_of_stage, stage=self._stages.now)
        self._do_step = steps.compile_step(step, self._mesh, self._state, self._source.like(), *self._rate_of(number))

    def look_at(self, number: int) -> dict[str, Any]:
        """The numbers of step `number`, the next one; see `replay`."""
        self._frames, stage, rate = next(self._source), self._stages.now, self._rate_of(number)
        with jax.set_mesh(self._mesh):
            look = functools.partial(self._look, stage=stage, seed=self._config.seed)
            scalars, arrays = jax.device_get(jax.jit(look)(self._state, self._frames, *rate))
        self._params = jax.tree.map(jnp.copy, self._state.params)  # the step reuses the state's memory
        after, loss = self._do_step(self._state, self._frames, *rate)
        numbers = {name: float(value) for name, value in scalars.items()}
        numbers["loss"] = float(loss)  # the run's own: compiled together with other code it may round differently
        return {
            "step": number,
            "stage": stage,
            "skipped": bool(after.watch.in_a_row > 0),
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "arrays": {
                name: {"not_finite": int(bad), "greatest": float(greatest)} for name, (bad, greatest) in arrays.items()
            },
        }

    def _look(
        self, state: steps.TrainState, frames: Frames, rate: jax.Array | None = None, *, stage: int, seed: int
    ) -> tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
        """Scalars of a step; for each array the count of numbers that are not finite, and the greatest other one."""
        loss, logged, grads = steps.loss_and_gradient(state, frames, task=self._task, stage=stage, seed=seed)
        trained, given = {name: state.params[name] for name in grads}, {} if rate is None else {"rate": rate}
        updates, _ = self._optimizer.update(grads, state.opt_state, trained, **given)
        norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        arrays = {}
        leaves = jax.tree_util.tree_leaves_with_path(dict(zip(_KINDS, (frames._asdict(), grads, state.params))))
        for path, x in leaves:
            finite = jnp.isfinite(x)
            greatest = jnp.max(jnp.where(finite, jnp.abs(x.astype(jnp.float32)), 0), initial=0)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            arrays[name] = jnp.sum(~finite, dtype=jnp.int32), greatest
        return {"loss": loss, **logged, **norms}, arrays

    def draw(self, number: int, folder: epath.Path, say: Callable[[str], None]) -> None:
        """Draws the predictions for the batch by the parameters before the step."""
        params, frames = jax.device_put(jax.device_get((self._params, self._frames)), jax.local_devices()[0])
        predict = jax.jit(functools.partial(self._task.predict, thorough=False))
        predicted, frames = jax.device_get((predict(params, frames, jax.random.key(0)), frames))
        for index in range(min(self._config.pictures, len(frames.present))):
            try:
                figure = report.picture(self._task, predicted, frames, index, f"step {number}, frame {index}")
            except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:  # the batch may not be finite
                say(f"Frame {index} cannot be drawn: {error}")
                continue
            with (folder / f"step_{number}_frame_{index}.png").open("wb") as file:
                figure.savefig(file, format="png")


def _in_words(found: dict[str, Any]) -> str:
    lines = [f"Step {found['step']}, stage {found['stage'] + 1}" + ", which was skipped" * found["skipped"]]
    for name, value in found.items():
        if name not in ("step", "stage", "skipped", "arrays"):
            lines.append(f"{name}: {'not finite' if value is None else f'{value:.6g}'}")
    rows, left_out = [], 0
    for kind in _KINDS:
        of_kind = [(name, x) for name, x in found["arrays"].items() if name.split("/")[0] == kind]
        of_kind.sort(key=lambda item: (-item[1]["not_finite"], -item[1]["greatest"]))
        left_out += len(of_kind[_MOST_ROWS:])
        rows += [[name, f"{x['not_finite']:,}", f"{x['greatest']:.4g}"] for name, x in of_kind[:_MOST_ROWS]]
    lines += ["", tables.table(["array", "numbers not finite", "greatest magnitude"], rows)]
    return "\n".join(lines) + (f"\nand {left_out} arrays more" if left_out else "")
