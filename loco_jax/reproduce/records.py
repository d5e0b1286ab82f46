"""What the page of tables is made of: scores, trainings, curves and studies of the rows, as JSON.

The file lies beside the page. So one page can have rows of several machines, and of workdirs that are gone.
"""

import dataclasses
import json
from typing import Any, NamedTuple

from etils import epath

from loco_jax.reproduce import experiments, running
from loco_jax.reproduce.experiments import Row, Settings
from loco_jax.runs import files
from loco_jax.runs import log as logs

FILE = "poster.json"
_RESULTS = ("data", "frames", "level", "scores", "code_error", "seconds_a_frame")  # kept of an evaluation
_MATCHINGS = ("nearest", "hungarian")
_DETECTOR = ("ap50", "pck")


@dataclasses.dataclass(frozen=True)
class Done:
    """What is known of a row.

    Attributes:
      row: its definition.
      results: of its evaluation, as far as the page needs them; {} if the row trains nothing.
      trainings: facts of the trainings that belong to the system, in order, see `running`: without the search and the
        refiner. Minutes are those that a machine of speed 1 would take.
      curve: minutes of training, and F1 at 0.8 m on validation frames. A LoCO's curve begins when its autoencoder is
        trained.
      detector: the last validation scores of a detector and of the poses in its crops, if the row has them.
      study: what the row's study has `found`, and on which `machine`; {} if it is not done or the row has none.
    """

    row: Row
    results: dict[str, Any]
    trainings: list[dict[str, Any]]
    curve: list[list[float]]
    detector: dict[str, float]
    study: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def minutes(self) -> float:
        """Measured minutes of training, in those of a machine of speed 1."""
        return sum(training["minutes"] for training in self.trainings)

    @property
    def cells(self) -> list[str]:
        """Minutes, frames and parameters for tables. Frames are those of each training."""
        frames = " + ".join(f"{training['frames']:,}" for training in self.trainings)
        return [f"{self.minutes:.3g}", frames, f"{self.trainings[-1]['parameters']:,}"]


class Known(NamedTuple):
    """What the page is made of.

    Attributes:
      rows: all rows that are done, by name.
      note: a remark on the numbers, which the file's `note` has; "" for none.
    """

    rows: dict[str, Done]
    note: str


def update(settings: Settings, path: epath.Path) -> Known:
    """Adds what is done in the workdir to the file; returns all that is known.

    Raises ValueError if the file is damaged or has results of other settings.
    """
    rows = {row.name: record for row in experiments.ROWS if (record := _of_row(row, settings))}
    ours = running.as_json(settings)
    known: dict[str, Any] = {"settings": ours, "rows": {}}
    try:
        known = json.loads(path.read_text()) if path.exists() else known
        theirs = dict(known["settings"]) if known["rows"] else ours
        known["rows"] = {**known["rows"], **rows}
        done = {row.name: Done(row, **known["rows"][row.name]) for row in experiments.ROWS if row.name in known["rows"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: is damaged ({error}); remove it, or give another --output") from error
    running.check_same(path, theirs, ours, "--output")
    files.write_text(path, json.dumps({**known, "settings": ours}, indent=1, allow_nan=False) + "\n")
    return Known(done, str(known.get("note", "")))


def _of_row(row: Row, settings: Settings) -> dict[str, Any]:
    """The record of a row whose training and scores are done, or of one that trains nothing; {} before."""
    finished = {part.name: running.facts(part.folder) for part in running.parts(row, settings) if part.is_done}
    study = next(({"machine": f["machine"], "found": f["found"]} for f in finished.values() if "found" in f), {})
    if running.SCORES in finished:
        return {**_of_run(settings.folder / row.name), "study": study}
    empty: dict[str, Any] = {"results": {}, "trainings": [], "curve": [], "detector": {}}
    return {**empty, "study": study} if study and not row.config else {}


def _of_run(folder: epath.Path) -> dict[str, Any]:
    """What training and scoring have left in a row's folder."""
    results = json.loads((folder / "run" / "eval" / "results.json").read_text())
    trainings = [facts for name in ("autoencoder", "run") if (facts := running.facts(folder / name))]
    trainings = [{**facts, "minutes": facts["minutes"] * facts.get("speed", 1.0)} for facts in trainings]
    kept = {name: results[name] for name in _RESULTS if name in results}
    if "systems" in results:
        kept["systems"] = {
            name: {matching: system[matching] for matching in _MATCHINGS} for name, system in results["systems"].items()
        }
    log = logs.read(folder / "run" / logs.FILE)
    last: dict[str, Any] = {}
    for record in log:
        last |= record
    detector = {name: last[f"validation/{name}"] for name in _DETECTOR if f"validation/{name}" in last}
    return {"results": kept, "trainings": trainings, "curve": curve(trainings, log), "detector": detector}


def curve(trainings: list[dict[str, Any]], log: list[dict[str, Any]]) -> list[list[float]]:
    """Minutes of training and F1 at 0.8 m on validation frames, from the trainings of a row and the last one's log."""
    *before, last = (training["minutes"] for training in trainings)
    used, points = 0.0, []
    for record in log:
        used = record.get("budget_used", used)
        if "validation/f1_0.8m" in record:
            points.append([sum(before) + used * last, record["validation/f1_0.8m"]])
    return points
