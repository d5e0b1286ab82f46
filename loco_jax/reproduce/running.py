"""Runs the rows of the poster's tables: search for a learning rate, training, refiner, scores on the test split.

A row's folder has a run in each of `autoencoder`, `search_RATE`, `run` and `refiner`, where the row needs them. What is
done is not done again. An interrupted run goes on from its last checkpoint.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from loco_jax import evaluate, experiment, tasks, train, weights
from loco_jax.reproduce import experiments, studies
from loco_jax.reproduce.experiments import Row, Settings
from loco_jax.runs import checkpoints, files
from loco_jax.runs import log as logs

DONE = "done.json"
_OVERHEAD = {"demo": 2.0, "full": 10.0, "test": 0.3}  # minutes a part takes beside training; replaced once measured


@dataclasses.dataclass(frozen=True)
class Part:
    """A step of a row.

    Attributes:
      name: of its folder in the row's.
      minutes: of training; 0 for an evaluation.
      do: does it, given a function that says something, and returns facts about it as JSON.
    """

    name: str
    minutes: float
    do: Callable[[Callable[[str], None]], dict[str, Any]]


def parts(row: Row, settings: Settings) -> Iterator[Part]:
    """The parts of a row in order. A later one may read what the ones before it have left."""
    folder, minutes = settings.folder / row.name, settings.budget * row.longer
    if row.needs:
        yield Part("result", 0.0, lambda say: {"found": studies.STUDIES[row.name](settings)})
        return
    config = experiments.config_of(row, settings)

    def training(name: str, config: ConfigDict, minutes: float, rate: float | None = None) -> Part:
        return Part(
            name, minutes, lambda say: _train(experiments.with_budget(config, minutes, rate), folder / name, say)
        )

    if config.task == "loco":
        share = minutes * experiments.AUTOENCODER_SHARE
        yield training("autoencoder", experiments.autoencoder_of(config, settings), share)
        config.vha, minutes = str(folder / "autoencoder"), minutes - share
    rates = {f"search_{rate:.2g}": float(rate) for rate in config.optimizer.learning_rate * np.array(settings.factors)}
    for name, rate in rates.items():
        search = config.copy_and_resolve_references()
        search.eval_every = 0
        yield training(name, search, settings.extra, rate)
    yield Part("run", minutes, lambda say: _train(
        experiments.with_budget(config, minutes, best_rate(folder, rates)), folder / "run", say
    ))  # fmt: skip
    if not row.is_autoencoder:
        refiner = experiments.with_budget(experiments.refiner_of(str(folder / "run"), settings), settings.extra)
        yield Part("refiner", settings.extra, lambda say: _refine(refiner, folder / "refiner", say))
    yield Part("scores", 0.0, lambda say: _score(config, folder, say))


def best_rate(folder: epath.Path, rates: Mapping[str, float]) -> float:
    """The learning rate of the search in a row's folder that scores best on the validation split.

    F1 at all thresholds counts; among runs that find nothing the least loss counts.
    """

    def rank(name: str) -> tuple[float, float]:
        records = logs.read(folder / name / logs.FILE)
        last: dict[str, Any] = {}
        for record in records:
            last |= record
        scores = [value for field, value in last.items() if field.startswith("validation/f1")]
        return float(np.mean(scores)), -last.get("loss", np.inf)

    return rates[max(rates, key=rank)]


def run(rows: Sequence[Row], settings: Settings, say: Callable[[str], None], after: Callable[[], object]) -> None:
    """Does what is missing of the rows, in order. Calls `after` after each part.

    An error of a row ends it, is said, and raised after the other rows are done. Stopped ends all, as in training.
    """
    failed: list[str] = []
    for row in rows:
        try:
            for part in parts(row, settings):
                path = settings.folder / row.name / part.name / DONE
                if path.exists():
                    continue
                say(f"{row.label}: {part.name}, {part.minutes:.3g} minutes of training")
                began = time.monotonic()
                facts = part.do(say)
                done = {"minutes": part.minutes, "wall_minutes": (time.monotonic() - began) / 60, **facts}
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_text(path, json.dumps(done) + "\n")
                after()
        except (ValueError, RuntimeError) as error:
            say(f"{row.label}: {error}")
            failed.append(row.label)
        jax.clear_caches()  # compiled programs of finished rows would fill the memory
    if failed:
        raise ValueError(f"{', '.join(failed)}: failed, see above; the same command tries again")


def plan(rows: Sequence[Row], settings: Settings) -> str:
    """Says what is not done yet, and how long it takes on this machine.

    Compilation, saving and evaluation are expected to take as long as in the parts that are done here.
    """
    measured = [
        done["wall_minutes"] - done["minutes"]
        for path in settings.folder.glob(f"*/*/{DONE}")
        if (done := json.loads(path.read_text()))
    ]
    overhead = float(np.median(measured)) if measured else _OVERHEAD[settings.scale]
    lines, total = [], 0.0
    for row in rows:
        left = [
            part.minutes + overhead
            for part in parts(row, settings)
            if not (settings.folder / row.name / part.name / DONE).exists()
        ]
        if left:
            lines.append(f"{row.label}: {len(left)} parts, about {sum(left):.0f} minutes")
            total += sum(left)
    return "\n".join([*lines, f"In all about {total / 60:.1f} hours"]) if lines else "All rows are done"


def _train(config: ConfigDict, folder: epath.Path, say: Callable[[str], None]) -> dict[str, Any]:
    train.train(config, str(folder), say)
    shapes = tasks.network_shapes(experiment.create_task(config))
    steps = max(record["step"] for record in logs.read(folder / logs.FILE))
    return {
        "frames": steps * config.data.batch_size,
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)),
        "learning_rate": config.optimizer.learning_rate,
    }


def _refine(config: ConfigDict, folder: epath.Path, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        return _train(config, folder, say)
    except weights.WeightsError as error:  # a network that has hardly learnt finds nobody in training scenes
        say(str(error))
        return {"failed": str(error)}


def _score(config: ConfigDict, folder: epath.Path, say: Callable[[str], None]) -> dict[str, Any]:
    refiner = folder / "refiner"
    if "refiner" in config and checkpoints.exist(str(refiner)):
        config.refiner = str(refiner)
    evaluate.evaluate(config, str(folder / "run"), say, given=("refiner",))
    return {}
