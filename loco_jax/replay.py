"""Repeats one step of a run with the same batch, keys and parameters, to inspect it. The run does not change."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from loco_jax import experiment, report
from loco_jax import step as steps
from loco_jax.cli import progress
from loco_jax.data.frames import Frames
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

    The numbers are the step's scalars, and for every array of parameters, gradient and batch the count of numbers that
    are not finite, and the greatest magnitude of the others. They are written to `replay/step_N.json`, with pictures of
    the first `config.pictures` frames beside it.

    Raises CheckpointError if there is no run of this config, ValueError for a step that the run does not have.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=replay is for one process: start it alone, wherever the run was")
    config = configs.as_trained(workdir, config)
    configs.check(workdir, config)
    if not 1 <= number <= config.steps:
        raise ValueError(f"--step={number}: --mode=replay needs the number of a step, from 1 to {config.steps}")
    experiment.check(config)
    setup, folder = steps.Setup(config), epath.Path(workdir).expanduser()
    # With a budget of time, rates and stages depended on the time used.
    records = log.read(folder / log.FILE)
    rates = budget.logged_rates(records)
    used = {record["step"]: record.get("budget_used", 0.0) for record in records if "stage" in record}
    missing = [step for step in range(1, number + 1) if config.budget_minutes and step not in rates]
    if missing:
        raise ValueError(f"--step={number}: {folder / log.FILE} lacks the learning rate of step {missing[0]}")

    def rate_of(step: int) -> list[jax.Array]:
        """The further argument of a step, if the run has a budget of time."""
        return [jax.device_put(np.float32(rates[step]), setup.replicated)] if rates else []

    state = _begin(setup, config, workdir, number, say)
    do_step, first = setup.compile(state), int(state.step)
    with progress.bar(number - 1, "step", config.quiet, initial=first) as bar:
        for done in range(first + 1, number):
            state, scalars = do_step(state, next(setup.source), *rate_of(done))
            setup.see(done, scalars)
            bar.update()
            is_logged = done % config.log_every == 0 or done in used  # also a last step, before more were wanted
            if is_logged and setup.stages.move_on(setup.watch.take()[0], used.get(done, 0.0)):
                do_step = setup.compile(state)

    frames = next(setup.source)
    with jax.set_mesh(setup.mesh):
        arrays = jax.device_get(jax.jit(functools.partial(_look, setup=setup, seed=config.seed))(state, frames))
    params = jax.device_get(state.params)  # the step reuses the state's memory
    found = jax.device_get(do_step(state, frames, *rate_of(number))[1])
    skipped = bool(found.pop("skipped"))
    result = {
        "step": number,
        "stage": setup.stages.now,
        "skipped": skipped,
        **{name: float(x) if math.isfinite(x) else None for name, x in found.items()},
        "arrays": {name: {"not_finite": int(bad), "greatest": float(most)} for name, (bad, most) in arrays.items()},
    }
    folder = folder / "replay"
    files.write_text(folder / f"step_{number}.json", json.dumps(result, indent=2) + "\n")
    say(_in_words(result))
    _draw(setup.task, params, jax.device_get(frames), config.pictures, folder / f"step_{number}", say)
    say(f"All numbers, and pictures: {folder}")
    return result


def _begin(
    setup: steps.Setup, config: ConfigDict, workdir: str, number: int, say: Callable[[str], None]
) -> steps.TrainState:
    """The state of the newest good checkpoint before step `number`, or before the first step."""
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        is_saved = any(step < number for step in saved.steps)
        state = steps.init_state(setup.task, setup.optimizer, config, pretrained=not is_saved)
        if is_saved:
            _, state, setup.position = saved.restore(state, number - 1, say)
    first = int(state.step)
    begin = f"the checkpoint of step {first}" if first else "the beginning: no checkpoint is older"
    say(f"{workdir}: step {number}, from {begin}; {number - 1 - first} steps to do again")
    return jax.device_put(state, setup.replicated)


def _look(
    state: steps.TrainState, frames: Frames, *, setup: steps.Setup, seed: int
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """For each array of a step the count of numbers that are not finite, and the greatest other one."""
    _, _, grads = steps.loss_and_gradient(state, frames, task=setup.task, stage=setup.stages.now, seed=seed)
    arrays = {}
    leaves = jax.tree_util.tree_leaves_with_path(dict(zip(_KINDS, (frames._asdict(), grads, state.params))))
    for path, x in leaves:
        finite = jnp.isfinite(x)
        greatest = jnp.max(jnp.where(finite, jnp.abs(x.astype(jnp.float32)), 0), initial=0)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        arrays[name] = jnp.sum(~finite, dtype=jnp.int32), greatest
    return arrays


def _draw(task: Any, params: Any, frames: Frames, count: int, name: epath.Path, say: Callable[[str], None]) -> None:
    """Draws the predictions for the first frames of the batch by the parameters before the step."""
    params, frames = jax.device_put((params, frames), jax.local_devices()[0])
    predict = jax.jit(functools.partial(task.predict, thorough=False))
    predicted, frames = jax.device_get((predict(params, frames, jax.random.key(0)), frames))
    for index in range(min(count, len(frames.present))):
        try:
            figure = report.picture(task, predicted, frames, index, f"{name.name}, frame {index}")
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:  # the batch may not be finite
            say(f"Frame {index} cannot be drawn: {error}")
            continue
        with name.with_name(f"{name.name}_frame_{index}.png").open("wb") as file:
            figure.savefig(file, format="png")


def _in_words(found: dict[str, Any]) -> str:
    lines = [f"Step {found['step']}, stage {found['stage'] + 1}" + ", which was skipped" * found["skipped"]]
    for name, value in found.items():
        if name not in ("step", "stage", "skipped", "arrays"):
            lines.append(f"{name}: {'not finite' if value is None else f'{value:.6g}'}")
    rows = []
    for kind in _KINDS:
        of_kind = [(name, x) for name, x in found["arrays"].items() if name.split("/")[0] == kind]
        of_kind.sort(key=lambda item: (-item[1]["not_finite"], -item[1]["greatest"]))
        rows += [[name, f"{x['not_finite']:,}", f"{x['greatest']:.4g}"] for name, x in of_kind[:_MOST_ROWS]]
    return "\n".join([*lines, "", tables.table(["array", "numbers not finite", "greatest magnitude"], rows)])
