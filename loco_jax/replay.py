"""One step of a run once more, to be looked at: the same batch, keys and parameters, and nothing of the run changed."""

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from loco_jax import experiment, report, train
from loco_jax.cli import progress
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.ops import distributed
from loco_jax.report import tables
from loco_jax.runs import budget as budgets
from loco_jax.runs import checkpoints
from loco_jax.runs import observation as observe
from loco_jax.runs import watch as watches
from loco_jax.tasks import Task

_KINDS = ("batch", "gradient", "parameters")
_MOST_ROWS = 6  # of a kind in the table; the file has all


def replay(config: ConfigDict, workdir: str, number: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """What step `number` of the run in `workdir` computed, from 1.

    The steps between the newest good checkpoint before it and the step itself are done again, so that the parameters
    are those of the run: on the same machine bit for bit, where its kernels are deterministic. Fields that only
    training reads are taken from the run.

    Writes `replay/step_N.json` and pictures of the first `config.pictures` frames of the batch, if the task draws any.
    Returns what the file says: loss, what is logged with it, norms of gradient and update, and of every array of
    parameters, gradient and batch how many numbers are not finite, and the greatest magnitude of the others.

    Raises CheckpointError if there is no run of this config, ValueError for a step that cannot be or several processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=replay is for one process: start it alone, wherever the run was")
    if number < 1:
        raise ValueError(f"--step={number}: --mode=replay needs the number of a step, from 1")
    config = checkpoints.as_trained(workdir, config)
    checkpoints.check(workdir, config)
    if number > config.steps:
        raise ValueError(f"--step={number}: this run has config.steps={config.steps}")
    experiment.check(config)
    mesh = distributed.make_mesh(config.data.batch_size, config.mesh.rows)
    task, optimizer = experiment.create_task(config), train.make_optimizer(config)
    source = streams.training_stream(config, NamedSharding(mesh, PartitionSpec("batch")))
    rate_of = _rates(config, workdir, number, mesh)
    state, stage, do_step = _go_to(number - 1, config, workdir, mesh, task, optimizer, source, rate_of, say)
    frames = next(source)
    with jax.set_mesh(mesh):
        look = functools.partial(_look, task=task, optimizer=optimizer, stage=stage, seed=config.seed)
        scalars, arrays = jax.device_get(jax.jit(look)(state, frames, *rate_of(number)))
    params = jax.tree.map(jnp.copy, state.params)  # the step reuses the state's memory
    after, loss = do_step(state, frames, *rate_of(number))
    numbers = {name: float(value) for name, value in scalars.items()}
    numbers["loss"] = float(loss)  # the run's own: compiled with other things it may round otherwise
    found = {
        "step": number,
        "stage": stage,
        "skipped": bool(after.watch.in_a_row > 0),
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "arrays": {
            name: {"not_finite": int(bad), "greatest": float(greatest)} for name, (bad, greatest) in arrays.items()
        },
    }
    folder = epath.Path(workdir).expanduser() / "replay"
    checkpoints.write_text(folder / f"step_{number}.json", json.dumps(found, indent=2) + "\n")
    say(_in_words(found))
    _draw(task, params, frames, number, config, folder, say)
    say(f"All numbers, and pictures where the task draws some: {folder}")
    return found


def _rates(config: ConfigDict, workdir: str, number: int, mesh: Mesh) -> Callable[[int], tuple[jax.Array, ...]]:
    """What each step needs besides: with a budget of time the learning rate that it had, which the log says."""
    if not config.budget_minutes:
        return lambda step: ()
    log, place = epath.Path(workdir).expanduser() / "log.jsonl", NamedSharding(mesh, PartitionSpec())
    rates = budgets.logged_rates(observe.read_log(log))
    missing = [step for step in range(1, number + 1) if step not in rates]
    if missing:
        raise ValueError(
            f"--step={number}: {log} does not say the learning rate of step {missing[0]}, which time decided; it has "
            f"{len(rates)} steps"
        )
    return lambda step: (jax.device_put(np.float32(rates[step]), place),)


def _go_to(
    last: int,
    config: ConfigDict,
    workdir: str,
    mesh: Mesh,
    task: Task,
    optimizer: optax.GradientTransformation,
    source: streams.CrowdStream | streams.JtaStream,
    rate_of: Callable[[int], tuple[jax.Array, ...]],
    say: Callable[[str], None],
) -> tuple[train.TrainState, int, jax.stages.Compiled]:
    """The run's state after step `last`, its stage of training, and the next step; the source goes there too."""
    replicated, stages = NamedSharding(mesh, PartitionSpec()), train.Stages(config, task)
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        before = [step for step in saved.steps if step <= last]
        state = train.init_state(task, optimizer, config, source.like(), pretrained=not before)
        if before:
            _, state, position = saved.restore(state, last, say, newer={"watch": watches.start()})
            source.set_state(position["data"])
            stages.state = {name: position[name] for name in stages.state}
    state = jax.device_put(state, replicated)
    first = int(state.step)
    begin = f"the checkpoint of step {first}" if first else "the beginning: no checkpoint is older"
    say(f"{workdir}: step {last + 1}, from {begin}; {last - first} steps to do again")
    step_fn = train.step_of(config, task, optimizer)

    def compile_stage():
        step_now = functools.partial(step_fn, stage=stages.now)
        return train.compile_step(step_now, mesh, state, source.like(), *rate_of(last + 1))

    do_step = compile_stage()
    drain = train.compile_drain(state, replicated)
    with progress.bar(last, "step", config.quiet, initial=first) as bar:
        for step in range(first + 1, last + 1):
            state, _ = do_step(state, next(source), *rate_of(step))
            bar.update()
            if step % config.log_every == 0:  # where stages change in training
                state, means, _ = drain(state)
                if stages.move_on(train.means_of(means)):
                    do_step = compile_stage()
    return state, stages.now, do_step


def _look(
    state: train.TrainState,
    frames: Frames,
    rate: jax.Array | None = None,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    stage: int,
    seed: int,
) -> tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
    """Scalars of a step, and for each array how many numbers are not finite and the greatest of the others."""
    loss, logged, grads = train.loss_and_gradient(state, frames, task=task, stage=stage, seed=seed)
    trained, given = {name: state.params[name] for name in grads}, {} if rate is None else {"rate": rate}
    updates, _ = optimizer.update(grads, state.opt_state, trained, **given)
    scalars = {"loss": loss, **logged, "grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    trees = zip(_KINDS, (frames._asdict(), grads, state.params))
    leaves = jax.tree_util.tree_leaves_with_path(dict(trees))
    arrays = {}
    for path, x in leaves:
        finite = jnp.isfinite(x)
        greatest = jnp.max(jnp.where(finite, jnp.abs(x.astype(jnp.float32)), 0), initial=0)
        arrays[jax.tree_util.keystr(path, simple=True, separator="/")] = jnp.sum(~finite, dtype=jnp.int32), greatest
    return scalars, arrays


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


def _draw(
    task: Task,
    params: Any,
    frames: Frames,
    number: int,
    config: ConfigDict,
    folder: epath.Path,
    say: Callable[[str], None],
) -> None:
    """Pictures of what the parameters before the step find in its batch."""
    params, frames = jax.device_put(jax.device_get((params, frames)), jax.local_devices()[0])
    predict = jax.jit(functools.partial(task.predict, thorough=False))
    predicted, frames = jax.device_get((predict(params, frames, jax.random.key(0)), frames))
    for index in range(min(config.pictures, len(frames.present))):
        try:
            figure = report.picture(task, predicted, frames, index, f"step {number}, frame {index}")
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:  # where the batch is not finite
            say(f"Frame {index} cannot be drawn: {error}")
            continue
        with (folder / f"step_{number}_frame_{index}.png").open("wb") as file:
            figure.savefig(file, format="png")
