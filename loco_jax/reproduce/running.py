"""Runs the rows of the poster's tables: search for a learning rate, training, refiner, scores on the test split.

A row's folder has a run in each of `autoencoder`, `search_RATE`, `run` and `refiner`, where the row needs them, and
the folders `scores` and that of its study, see `studies`. What is done is not done again. An interrupted run goes on
from its last checkpoint.
"""

import collections
import dataclasses
import datetime
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from loco_jax import evaluate, experiment, tasks, train
from loco_jax.benchmark import measure
from loco_jax.models import compact
from loco_jax.reproduce import experiments, studies
from loco_jax.reproduce.experiments import Row, Settings
from loco_jax.runs import checkpoints, files
from loco_jax.runs import log as logs
from loco_jax.runs.ending import Diverged, Stopped
from loco_jax.tasks import Task
from loco_jax.tasks.loco import LocoTask
from loco_jax.weights import NobodyFound

DONE = "done.json"
SCORES = "scores"
SETTINGS = "settings.json"
_OWN_FIELDS = ("quiet", "data.dir", "data.workers")  # which may differ between machines
_BESIDE = {"demo": 2.0, "full": 10.0, "test": 0.3}  # minutes a part takes beside training; replaced once measured

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Part:
    """A step of a row.

    Attributes:
      folder: of its results.
      minutes: of training; 0 for an evaluation.
      beside: further minutes that it is expected to take, if nothing like it is measured yet.
      do: does it, given a function that says something, and returns facts about it as JSON.
      needs: folders of the parts that it is made of. It is done again after one of them.
    """

    folder: epath.Path
    minutes: float
    beside: float
    do: Callable[[Say], dict[str, Any]]
    needs: Sequence[epath.Path] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        """What takes as long as this part beside training, in all rows."""
        return _kind(self.folder)

    @property
    def made_of(self) -> dict[str, str | None]:
        """When the parts that it needs were finished, see `finished`."""
        return finished(self.needs)

    @property
    def is_done(self) -> bool:
        return facts(self.folder).get("made_of") == self.made_of


def facts(folder: epath.Path) -> dict[str, Any]:
    """What is known of the part in `folder`; {} if it is not done."""
    path = folder / DONE
    return json.loads(path.read_text()) if path.exists() else {}


def finished(folders: Sequence[epath.Path]) -> dict[str, str | None]:
    """When the parts in these folders were finished, by row and part; None for one that is not done."""
    return {f"{folder.parent.name}/{folder.name}": facts(folder).get("finished") for folder in folders}


def claim(settings: Settings) -> None:
    """Writes the settings into the folder of all rows, at the first start.

    Raises ValueError that names the settings in which the results there differ.
    """
    check(settings)
    files.write_text(settings.folder / SETTINGS, json.dumps(_of_workdir(settings), indent=2) + "\n")


def check(settings: Settings) -> None:
    """Raises ValueError if the folder of all rows has results of other settings, see `claim`."""
    path = settings.folder / SETTINGS
    if path.exists() and any((settings.folder / row.name).exists() for row in experiments.ROWS):
        theirs = {"speed": 1.0, **json.loads(path.read_text())}
        check_same(settings.folder, theirs, _of_workdir(settings), "--workdir")


def _of_workdir(settings: Settings) -> dict[str, Any]:
    return {**as_json(settings), "speed": settings.speed}


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings that results depend on, as they are read back from JSON."""
    shared = {f"config.{name}": value for name, value in settings.shared.items() if name not in _OWN_FIELDS}
    ours = {"scale": settings.scale, "budget": settings.budget, "factors": settings.factors, **shared}
    return json.loads(json.dumps(ours, default=str))


def check_same(path: epath.Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], flag: str) -> None:
    """Raises ValueError that names the settings in which the results in `path`, given by `flag`, differ from ours."""
    different = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if different:
        listed = "; ".join(f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now" for name in different)
        raise ValueError(
            f"{path}: holds results of other settings: {listed}. Give the same settings to go on with them, or another "
            f"{flag} to start anew."
        )


def parts(row: Row, settings: Settings) -> Iterator[Part]:
    """The parts of a row in order. A later one may read what the ones before it have left.

    A row's networks are trained for the budget times `Row.longer`, in minutes of a machine of speed 1. An autoencoder
    gets a third of that, in a LoCO and as a row. Each row trains its own, so rows do not wait for each other.
    """
    folder = settings.folder / row.name
    if row.config:
        yield from _parts_of_system(row, settings, folder)
    if study := studies.OF_ROW.get(row.name):
        needs = [folder / "run"] if row.config else []

        def do(say: Say) -> dict[str, Any]:
            return {"found": study.measure(row, settings, folder / study.name, finished(needs))}

        yield Part(folder / study.name, 0.0, study.minutes[settings.scale], do, needs)


def _parts_of_system(row: Row, settings: Settings, folder: epath.Path) -> Iterator[Part]:
    minutes, beside = settings.budget * row.longer, _BESIDE[settings.scale]
    config = experiments.config_of(row, settings)

    def training(
        name: str, config: ConfigDict, minutes: float, rate: Callable[[], float] | None = None, **options: Any
    ) -> Part:
        here = minutes / settings.speed

        def do(say: Say) -> dict[str, Any]:
            budgeted = experiments.with_budget(config, here, rate and rate())
            return _train(budgeted, folder / name, say, **options) | {"speed": settings.speed}

        return Part(folder / name, here, beside, do)

    share = minutes * experiments.AUTOENCODER_SHARE
    if row.is_autoencoder:
        yield training("run", config, share)
    else:
        if config.task == "loco":
            yield training("autoencoder", experiments.autoencoder_of(config, settings), share)
            config.vha, minutes = str(folder / "autoencoder"), minutes - share
        default = config.optimizer.learning_rate
        rates = {f"search_{rate:.2g}": float(rate) for rate in default * np.array(settings.factors)}
        for name, rate in rates.items():
            yield training(name, experiments.search_of(config, rate), settings.extra, forgiven=Diverged)
        yield training("run", config, minutes, lambda: best_rate(folder, rates))
        refiner = experiments.refiner_of(str(folder / "run"), settings)
        yield training("refiner", refiner, settings.extra, forgiven=NobodyFound)
    needs = [folder / name for name in ("run", "refiner")]
    yield Part(folder / SCORES, 0.0, beside, lambda say: _score(config, folder, say), needs)


def best_rate(folder: epath.Path, rates: Mapping[str, float]) -> float:
    """The learning rate of the search in a row's folder that scores best on the validation split.

    F1 at all thresholds counts; among runs that find nothing the least loss counts. Raises ValueError if all diverged.
    """

    def rank(name: str) -> tuple[float, float]:
        last: dict[str, Any] = {}
        for record in logs.read(folder / name / logs.FILE):
            last |= record
        scores = [value for field, value in last.items() if field.startswith("validation/f1")]
        f1, loss = float(np.mean(scores or [-1.0])), last.get("loss", math.inf)
        return f1 if math.isfinite(f1) else -1.0, -loss if math.isfinite(loss) else -math.inf

    good = [name for name in rates if "failed" not in facts(folder / name)]
    if not good:
        raise ValueError(f"{folder}: training diverged at all learning rates of the search: {', '.join(rates)}")
    return rates[max(good, key=rank)]


def run(rows: Sequence[Row], settings: Settings, say: Say, after: Callable[[], object]) -> None:
    """Does what is missing of the rows, in order. Calls `after` after each row.

    An error ends its row, is said, and is raised as a ValueError after the other rows are done. A signal ends all:
    then it raises Stopped.
    """
    failed: list[str] = []

    def train(row):
        for part in parts(row, settings):
            if not part.is_done:
                say(f"{row.label}: {part.name}" + (f", {part.minutes:.3g} minutes of training" if part.minutes else ""))
                _do(part, say)

    for row in rows:
        try:
            for work in (functools.partial(train, row), after):
                try:
                    work()
                except (ValueError, RuntimeError, OSError) as error:
                    say(f"{row.label}: {error}")
                    failed.append(row.label)
        except KeyboardInterrupt as error:  # outside training, which raises Stopped itself
            raise Stopped(
                f"{settings.folder}: stopped; the same command goes on after the parts that are done"
            ) from error
        jax.clear_caches()  # compiled programs of finished rows would fill the memory
    if failed:
        raise ValueError(f"{', '.join(dict.fromkeys(failed))}: failed, see above; the same command tries again")


def plan(rows: Sequence[Row], settings: Settings) -> str:
    """Says what is not done yet, and how long each part takes on this machine.

    Compilation, saving and evaluation are expected to take as long as in the parts of that kind that are done here.
    """
    measured = collections.defaultdict(list)
    for path in settings.folder.glob(f"*/*/{DONE}"):
        done = facts(path.parent)
        # After an interruption the wall time is that of the last start.
        measured[_kind(path.parent)].append(max(0.0, done["wall_minutes"] - done["minutes"]))
    lines, total = [], 0.0
    for row in rows:
        left = [part for part in parts(row, settings) if not part.is_done]
        times = [part.minutes + float(np.median(measured[part.kind] or [part.beside])) for part in left]
        if left:
            named = ", ".join(f"{part.name} {minutes:.2g}" for part, minutes in zip(left, times))
            lines.append(f"{row.label}: about {sum(times):.0f} minutes ({named})")
            total += sum(times)
    return "\n".join([*lines, f"In all about {total / 60:.1f} hours"]) if lines else "All rows are done"


def _kind(folder: epath.Path) -> str:
    return folder.name.split("_")[0]


def _do(part: Part, say: Say) -> None:
    began, made_of = time.monotonic(), part.made_of  # a part that is done anew meanwhile makes this one stale
    found = part.do(say)
    done = {
        "minutes": part.minutes,
        "wall_minutes": (time.monotonic() - began) / 60,
        "finished": datetime.datetime.now().isoformat(timespec="microseconds"),
        "machine": measure.machine(),
        "made_of": made_of,
        **found,
    }
    files.write_text(part.folder / DONE, json.dumps(done) + "\n")


def _train(
    config: ConfigDict, folder: epath.Path, say: Say, forgiven: type[Exception] | tuple[()] = ()
) -> dict[str, Any]:
    """Trains, and returns measured facts about it. A `forgiven` error is said, and recorded in place of them."""
    try:
        train.train(config, str(folder), say)
    except forgiven as error:
        say(str(error))
        return {"failed": str(error)}
    task = experiment.create_task(config)
    last: dict[str, Any] = {}
    for record in logs.read(folder / logs.FILE):
        last |= record
    return {
        "minutes": last["budget_used"] * config.budget_minutes,
        "frames": last["step"] * config.data.batch_size,
        "parameters": _count(task),
        "learning_rate": config.optimizer.learning_rate,
    }


def _count(task: Task) -> int:
    """The number of a task's parameters, without those of readouts that a LoCO does not train."""
    shapes = tasks.network_shapes(task)
    if isinstance(task, LocoTask) and not task.teaching_weight:
        for name in compact.READOUTS:
            shapes["predictor"]["params"].pop(name, None)
    return tasks.count(shapes)


def _score(config: ConfigDict, folder: epath.Path, say: Say) -> dict[str, Any]:
    refiner = folder / "refiner"
    if "refiner" in config and checkpoints.exist(str(refiner)):
        config.refiner = str(refiner)
    evaluate.evaluate(config, str(folder / "run"), say)
    return {}
