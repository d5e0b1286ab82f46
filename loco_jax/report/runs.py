"""A run's folder as an object: its config, log and scores, as far as there are any."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from loco_jax.runs import log as logs
from loco_jax.runs import observation


@dataclasses.dataclass(frozen=True)
class Run:
    """The content of a workdir. Where a file is missing, its attribute is empty, and `parameters` is None.

    Attributes:
      name: a name that no other run of the report has.
      config: the config of the training, as nested dictionaries.
      records: the lines of the log.
      results: the results of `--mode=eval`.
      parameters: the number of parameters, with frozen ones.
    """

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    results: dict[str, Any]
    parameters: int | None

    @property
    def step(self) -> int:
        """The last step that was logged, or 0."""
        return max((record["step"] for record in self.records), default=0)

    def series(self, name: str) -> Float[np.ndarray, "K 2"]:
        """The pairs (step, value) where the log has a finite number of that name."""
        logged = [(record["step"], record[name]) for record in self.records if isinstance(record.get(name), Real)]
        points = np.array(logged, float).reshape(-1, 2)
        return points[np.isfinite(points[:, 1])]

    def names(self, part: str) -> list[str]:
        """The names of numbers in the log that contain `part`, in the log's order."""
        found = dict.fromkeys(name for record in self.records for name in record if part in name)
        return [name for name in found if len(self.series(name))]

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """The time of each part of the loop; {} if the log does not have it."""
        totals = {part: self.series(f"seconds/{part}")[:, 1].sum() for part in observation.PARTS}
        return totals if sum(totals.values()) > 0 else {}


def read(folders: Sequence[os.PathLike | str]) -> list[Run]:
    """The runs in the given workdirs, each once. Raises ValueError for a folder without a readable run."""
    given = [epath.Path(folder).expanduser() for folder in folders]
    paths = list(dict.fromkeys(path if "://" in str(path) else path.resolve() for path in given))
    names = [path.name for path in paths]
    return [_read_one(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names)]


def _read_one(path: epath.Path, name: str) -> Run:
    if not path.exists():
        raise ValueError(f"{path}: no such folder")
    config = _read_json(path / "config.json")
    results = _read_json(path / "eval" / "results.json")
    log = path / "log.jsonl"
    if config is None and results is None and not log.exists():
        raise ValueError(f"{path}: is not a run; name a --workdir of python -m loco_jax.main")
    overview = path / "parameters.txt"
    total = re.search(r"^Total: ([\d,]+)", overview.read_text() if overview.exists() else "", re.MULTILINE)
    parameters = int(total[1].replace(",", "")) if total else None
    return Run(name, config or {}, logs.read(log), results or {}, parameters)


def _read_json(path: epath.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); is it damaged?") from error
