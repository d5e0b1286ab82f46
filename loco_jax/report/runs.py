"""A run's folder as an object: its config, log and scores, as far as there are any."""

import dataclasses
import functools
import json
import math
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


class RunError(ValueError):
    """A folder holds no run, or one that cannot be read."""


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

    @property
    def state(self) -> str:
        """The run's progress, in words."""
        steps = self.config.get("steps")
        if not self.records:
            return "not begun" if self.config else ""
        if not steps:
            return f"step {self.step:,}"
        return "done" if self.step >= steps else f"{math.floor(100 * self.step / steps)} % done"

    def series(self, name: str) -> Float[np.ndarray, "K 2"]:
        """The pairs (step, value) where the log has a finite number of that name."""
        logged = [(record["step"], record[name]) for record in self.records if isinstance(record.get(name), Real)]
        points = np.array(logged, float).reshape(-1, 2)
        return points[np.isfinite(points[:, 1])]

    def names(self, *words: str) -> list[str]:
        """The names of numbers in the log that contain all the words, in the log's order."""
        found = dict.fromkeys(name for record in self.records for name in record if all(w in name for w in words))
        return [name for name in found if len(self.series(name))]

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """The time of each part of the loop; {} if the log does not have it."""
        totals = {part: self.series(f"seconds/{part}")[:, 1].sum() for part in observation.PARTS}
        return totals if sum(totals.values()) > 0 else {}

    @property
    def step_seconds(self) -> Float[np.ndarray, " K"]:
        """The mean time of a step before each log line, in seconds."""
        rates = self.series("frames_per_second")[:, 1]
        return self.config.get("data", {}).get("batch_size", 0) / rates[rates > 0]

    @functools.cached_property
    def peak_gib(self) -> tuple[float, str] | None:
        """The greatest use of memory in GiB, and of what: "a device" or "the process"."""
        for name, whose in (("memory/device_peak_bytes", "a device"), ("memory/process_peak_bytes", "the process")):
            if len(values := self.series(name)):
                return values[:, 1].max() / 2**30, whose
        return None


def read(folders: Sequence[os.PathLike | str]) -> list[Run]:
    """The runs in the given workdirs, each once. Raises RunError for a folder without a readable run."""
    given = [epath.Path(folder).expanduser() for folder in folders]
    paths = list(dict.fromkeys(path if "://" in str(path) else path.resolve() for path in given))
    return [_read_one(path, name) for path, name in zip(paths, _short_names(paths))]


def _read_one(path: epath.Path, name: str) -> Run:
    if not path.exists():
        raise RunError(f"{path}: no such folder")
    config = _read_json(path / "config.json")
    results = _read_json(path / "eval" / "results.json")
    log = path / "log.jsonl"
    if config is None and results is None and not log.exists():
        raise RunError(
            f"{path}: no run: want a --workdir of python -m loco_jax.main, with config.json, log.jsonl or "
            "eval/results.json"
        )
    overview = path / "parameters.txt"
    total = re.search(r"^Total: ([\d,]+)", overview.read_text() if overview.exists() else "", re.MULTILINE)
    parameters = int(total[1].replace(",", "")) if total else None
    return Run(name, config or {}, logs.read(log), results or {}, parameters)


def _read_json(path: epath.Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); is it damaged?") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds {type(content).__name__}, not an object; is it damaged?")
    return content


def _short_names(paths: Sequence[epath.Path]) -> list[str]:
    """The shortest end of each path that no other path has."""
    all_ends = [["/".join(path.parts[-n:]) for n in range(1, len(path.parts))] for path in paths]
    return [
        next((end for end in ends if sum(end in others for others in all_ends) == 1), str(path))
        for path, ends in zip(paths, all_ends)
    ]
