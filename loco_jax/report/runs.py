"""The state of a run's folder: finished, under way or stopped, scored or not."""

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
    """What a workdir holds; empty, or None for a number, where a file is missing.

    Attributes:
      name: tells it from the others of a report.
      config: of the training, as nested dictionaries.
      records: lines of the log.
      results: of `--mode=eval`.
      parameters: how many, frozen ones included.
    """

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    results: dict[str, Any]
    parameters: int | None

    @property
    def step(self) -> int:
        """The last step that was logged; 0 before."""
        return max((record["step"] for record in self.records), default=0)

    @property
    def state(self) -> str:
        """In words, how far it came."""
        steps = self.config.get("steps")
        if not self.records:
            return "not begun" if self.config else ""
        if not steps:
            return f"step {self.step:,}"
        return "done" if self.step >= steps else f"{math.floor(100 * self.step / steps)} % done"

    def series(self, name: str) -> Float[np.ndarray, "K 2"]:
        """(step, value) `[K, 2]` where the log has a finite number of that name."""
        logged = [(record["step"], record[name]) for record in self.records if isinstance(record.get(name), Real)]
        points = np.array(logged, float).reshape(-1, 2)
        return points[np.isfinite(points[:, 1])]

    def names(self, *words: str) -> list[str]:
        """The names in the log that contain all the words, in its order."""
        found = dict.fromkeys(name for record in self.records for name in record if all(w in name for w in words))
        return [name for name in found if len(self.series(name))]

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """The time of each part of the loop; {} if the log does not have it."""
        totals = {part: self.series(f"seconds/{part}")[:, 1].sum() for part in observation.PARTS}
        return totals if sum(totals.values()) > 0 else {}

    @property
    def step_seconds(self) -> Float[np.ndarray, " K"]:
        """The mean seconds `[K]` of a step before each log line."""
        rates = self.series("frames_per_second")[:, 1]
        return self.config.get("data", {}).get("batch_size", 0) / rates[rates > 0]

    @functools.cached_property
    def peak_bytes(self) -> tuple[int, str] | None:
        """The greatest use of memory, and of what: "device" or "process"."""
        for name, whose in (("memory/device_peak_bytes", "device"), ("memory/process_peak_bytes", "process")):
            if len(values := self.series(name)):
                return int(values[:, 1].max()), whose
        return None


def read(folders: Sequence[os.PathLike | str]) -> list[Run]:
    """The runs of the given workdirs, each once. Raises RunError for the first that is none or is unreadable."""
    paths = list(dict.fromkeys(_absolute(epath.Path(folder).expanduser()) for folder in folders))
    return [_read_one(path, name) for path, name in zip(paths, _short_names(paths))]


def flat(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """A config's fields by their dotted names."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return fields


def _read_one(path: epath.Path, name: str) -> Run:
    if not path.exists():
        raise RunError(f"{path}: no such folder")
    config = _read_json(path / "config.json")
    results = _read_json(path / "eval" / "results.json")
    log = path / "log.jsonl"
    if config is None and results is None and not log.exists():
        raise RunError(
            f"{path}: no run: want a --workdir of python -m loco_jax.main, which has config.json, log.jsonl or "
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


def _absolute(path: epath.Path) -> epath.Path:
    return path if "://" in str(path) else path.resolve()


def _short_names(paths: Sequence[epath.Path]) -> list[str]:
    """The shortest end of each path that the others do not have."""

    def end(path: epath.Path, count: int) -> str:
        return "/".join(part for part in path.parts[-count:] if part.strip("/")) or str(path)

    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        counts = range(1, len(path.parts) + 1)
        names.append(next((end(path, n) for n in counts if end(path, n) not in {end(o, n) for o in others}), str(path)))
    return names
