"""The time and memory that a run uses. The log has these numbers beside the losses, see `NAMES`."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator

import jax

PARTS = {
    "setup": "before the first step, and where a stage begins: reading checkpoints, compiling",
    "data": "waiting for the next batch; the devices may still compute earlier steps",
    "device": "starting steps and waiting for them",
    "save": "waiting for saves; the writing itself goes on in the background",
    "evaluation": "scoring validation frames, including compilation for it",
    "other": "the rest of the loop: logging, progress, signals",
}
# These numbers differ between any two runs. A line with a loss has them for the time since the line with a loss before
# it. The line of the last evaluation has them for the time since the last loss.
NAMES = {
    "frames_per_second": "training frames in a second, without the time of evaluation and setup",
    "input_wait": "share of the training time in which the devices waited for a batch",
    **{f"seconds/{part}": f"seconds {meaning}" for part, meaning in PARTS.items()},
    "memory/device_bytes": "memory in use on the fullest device of this process, if the device reports it",
    "memory/device_peak_bytes": "the most that was ever in use there",
    "memory/process_peak_bytes": "the most main memory this process ever used, if devices report none, as on CPUs",
}
TRAINING = ("data", "device", "save", "other")  # the parts that count as training
STEPS = ("data", "device", "other")  # the parts that a budget of time counts

now = time.monotonic


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> float:
    """Seconds of work of all threads of this process, divided by the number of `cores`."""
    return time.process_time() / cores()


CLOCKS = {"wall": lambda: now(), "processor": lambda: processor()}  # looked up late, because tests replace them


class Split:
    """Splits the time of a loop into PARTS, which add up to the clock's time. It never waits for a device.

    The clock "wall" is the usual one. That of "processor" does not count other work on the machine, see `processor`.
    Raises ValueError for other clocks than "wall" and "processor".
    """

    def __init__(self, part: str, clock: str = "wall"):
        if clock not in CLOCKS:
            raise ValueError(f"config.budget_clock={clock!r}; there are {', '.join(CLOCKS)}")
        self.now = CLOCKS[clock]
        self._part, self._since = part, self.now()
        self._seconds, self._at_lap = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)

    def switch(self, part: str) -> str:
        """Counts the time from now on for `part`; returns the part before."""
        moment, before = self.now(), self._part
        self._seconds[before] += moment - self._since
        self._part, self._since = part, moment
        return before

    @contextlib.contextmanager
    def part(self, part: str) -> Iterator[None]:
        """While entered, counts the time for `part`; afterwards for the part before."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    def lap(self) -> dict[str, float]:
        """Seconds of every part since the last lap or the beginning, by their names in the log."""
        self.switch(self._part)
        before, self._at_lap = self._at_lap, dict(self._seconds)
        return {f"seconds/{part}": seconds - before[part] for part, seconds in self._seconds.items()}

    def spent(self, parts: Iterable[str]) -> float:
        """Seconds of these parts since the beginning."""
        self.switch(self._part)
        return sum(self._seconds[part] for part in parts)


def memory() -> dict[str, int]:
    """The memory in NAMES that the devices of this process report, or else that of the process."""
    stats = [stats for stats in (device.memory_stats() for device in jax.local_devices()) if stats]
    if not stats:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"memory/process_peak_bytes": peak if sys.platform == "darwin" else 1024 * peak}
    fields = {"memory/device_bytes": "bytes_in_use", "memory/device_peak_bytes": "peak_bytes_in_use"}
    return {name: max(some[field] for some in stats) for name, field in fields.items() if field in stats[0]}
