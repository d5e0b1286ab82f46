"""Where a run's time goes and how much memory it takes: what `log.jsonl` and TensorBoard say beside the losses.

`NAMES` is the place where those names are explained.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

PARTS = {
    "setup": "before the first step, and where a stage begins: reading checkpoints, compiling",
    "data": "until the next batch is there; the devices may have earlier steps to do meanwhile",
    "device": "starting steps and waiting for them",
    "save": "held up by saving; the writing itself goes on in the background",
    "evaluation": "scoring validation frames, compiling for it included",
    "other": "the loop's own: logging, progress, signals",
}
# What no two runs have alike. A line has them for the time since the line with a loss before it; the last evaluation's
# line for the time since the last loss. A run that goes on counts on from its checkpoint.
NAMES = {
    "frames_per_second": "frames trained on in a second, evaluation and setup left out",
    "input_wait": "share of training in which the devices had nothing to do for want of a batch",
    **{f"seconds/{part}": f"seconds {meaning}" for part, meaning in PARTS.items()},
    "memory/device_bytes": "in use on the fullest of this process's devices, where they can tell",
    "memory/device_peak_bytes": "the most that was ever in use there",
    "memory/process_peak_bytes": "the most main memory this process ever had; where devices cannot tell, as on CPUs",
}
TRAINING = ("data", "device", "save", "other")  # the parts that steps are made of
STEPS = ("data", "device", "other")  # what of them a budget of time counts

now = time.monotonic  # one clock for all of it


class Split:
    """Which part of a loop the time goes to. At any moment it is one of PARTS, so that they add up to the wall time.

    Asks the clock and nothing else: no device is waited for.
    """

    def __init__(self, part: str):
        self._part, self._since = part, now()
        self._seconds, self._laps = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)

    def switch(self, part: str) -> str:
        """From now on time is this part's; returns whose it was."""
        moment, before = now(), self._part
        self._seconds[before] += moment - self._since
        self._part, self._since = part, moment
        return before

    @contextlib.contextmanager
    def part(self, part: str) -> Iterator[None]:
        """While entered, time is this part's; then it is again whose it was before."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    def lap(self) -> dict[str, float]:
        """Seconds of every part since the last lap, or the beginning, by their names in the log."""
        self.switch(self._part)
        lap, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        self._laps = {part: seconds + lap[part] for part, seconds in self._laps.items()}
        return {f"seconds/{part}": seconds for part, seconds in lap.items()}

    def spent(self, parts: Iterable[str]) -> float:
        """Seconds of these parts since the beginning, over all laps."""
        self.switch(self._part)
        return sum(self._laps[part] + self._seconds[part] for part in parts)


def training_seconds(lap: Mapping[str, float]) -> float:
    """What of a lap, or of a line of the log, was training: all but setup and evaluation."""
    return sum(lap.get(f"seconds/{part}", 0.0) for part in TRAINING)


def memory() -> dict[str, int]:
    """What NAMES has of memory, as far as the backend of this process's devices can tell."""
    all_stats = [stats for stats in (device.memory_stats() for device in jax.local_devices()) if stats]
    if not all_stats:
        return {"memory/process_peak_bytes": _process_peak()}
    fields = {"memory/device_bytes": "bytes_in_use", "memory/device_peak_bytes": "peak_bytes_in_use"}
    found = {name: [stats[field] for stats in all_stats if field in stats] for name, field in fields.items()}
    return {name: max(values) for name, values in found.items() if values}


def _process_peak() -> int:
    """Peak resident memory in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one, if that was larger
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(peak.split()[1])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def read_log(path: epath.Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, in order; none if there is no file. Lines that were cut off are left out."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # being written when the machine went down
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
