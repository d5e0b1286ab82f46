"""Times, peak memory and results of several implementations of a function, as rows of a Markdown table."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.metadata
import importlib.util
import pathlib
import platform
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from loco_jax.report.tables import duration
from loco_jax.runs import observation

_WIDTHS = {
    "function": 28, "implementation": 35, "median": 8, "least to most": 20, "runs": 4, "frames/s": 8, "ratio": 6,
    "memory": 8, "result": 6,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One of several implementations of a function."""

    name: str
    run: Callable[[], Any] | None = None  # does the work, waits until it is done, returns what it made
    result: Callable[[Any], Any] = jax.device_get  # turns that into NumPy arrays in a form that all share
    tolerance: float | None = None  # how far the result may be from the first's, relative to the greatest; None: any
    frames: int = 1  # in a run
    program: Callable[[], jax.stages.Compiled] | None = None  # gives the memory where runs do not show it
    missing: str = ""  # why it cannot run here; "" if it can


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurements of an implementation."""

    function: str
    implementation: str
    seconds: tuple[float, ...] = ()  # of each run in the order of the rounds
    ratio: float | None = None  # the median of its time divided by the first one's in the same round
    peak_bytes: int | None = None  # memory beyond what was in use before; None where it is not known
    difference: float | None = None  # from the first one's result, relative to the greatest value
    equal: bool | None = None  # whether the difference is within the tolerance; None if results were not compared
    frames: int = 1  # in a run
    note: str = ""  # why it is missing or what went wrong

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def of_jax(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Implementation:
    """`jax.jit(function)(*args)`, with its arguments on the device beforehand."""
    jitted, args = jax.jit(function), jax.device_put(args)

    def run():
        return jax.block_until_ready(jitted(*args))

    return Implementation(name, run, program=lambda: jitted.lower(*args).compile(), **options)


def measure(name: str, ways: Sequence[Implementation], repeats: int, most_seconds: float) -> list[Row]:
    """Measures the implementations of a function, ours first, and returns a row for each.

    After one run each to warm up, they run in turns (A B C A B C), so that other load on the machine affects all alike.
    A slow one gets fewer rounds, within `most_seconds`.
    """
    gc.collect()
    notes = {way.name: way.missing for way in ways}
    times: dict[str, list[float]] = {}
    memory: dict[str, list[int]] = {way.name: [] for way in ways}
    differences: dict[str, float] = {}
    reference = None
    for way in (way for way in ways if way.run):
        try:
            made, *_ = _timed(way, trim=True)
            if way.tolerance is not None:
                result = way.result(made)
                if reference is not None:
                    differences[way.name] = difference(result, reference)
                reference = result if reference is None else reference
            times[way.name] = []
        except (RuntimeError, MemoryError, TypeError) as error:  # for example JAX or PyTorch has no memory left
            notes[way.name] = failure(error)
    for turn in range(repeats):
        for way in (way for way in ways if way.name in times):
            done = times[way.name]
            if not done or sum(done) * (1 + 1 / len(done)) <= most_seconds:
                _, seconds, used = _timed(way, trim=turn == 0)
                done.append(seconds)
                memory[way.name] += [] if used is None else [used]
    first = next(iter(times), "")
    on_cpu = jax.default_backend() == "cpu"

    def row(way: Implementation) -> Row:
        if way.name not in times:
            return Row(name, way.name, note=notes[way.name])
        off = differences.get(way.name)
        return Row(
            name,
            way.name,
            seconds=tuple(times[way.name]),
            ratio=None if way.name == first else ratio(times[way.name], times[first]),
            peak_bytes=max(memory[way.name], default=None) if on_cpu else _planned(way),
            difference=off,
            equal=None if off is None or way.tolerance is None else off <= way.tolerance,
            frames=way.frames,
        )

    return [row(way) for way in ways]


def failure(error: Exception) -> str:
    """The note of a row whose implementation raised an error."""
    return f"failed: {(str(error).splitlines() or [type(error).__name__])[0][:80]}"


def difference(a: Any, b: Any) -> float:
    """The greatest difference between two trees of arrays, relative to the greatest value; inf if shapes differ."""
    mine, other = jax.tree.leaves(a), jax.tree.leaves(b)
    if [np.shape(x) for x in mine] != [np.shape(x) for x in other]:
        return float("inf")
    worst = 0.0
    for x, y in zip(mine, other):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        off, scale = float(np.max(np.abs(x - y), initial=0)), float(np.max(np.abs(y), initial=0))
        worst = max(worst, float("inf") if np.isnan(off) else off / (scale or 1))
    return worst


def ratio(times: Sequence[float], ours: Sequence[float]) -> float:
    """The median of times divided by ours of the same rounds."""
    pairs = min(len(times), len(ours))
    return float(np.median(np.array(times[:pairs]) / np.array(ours[:pairs])))


def _timed(way: Implementation, trim: bool) -> tuple[Any, float, int | None]:
    """The result of a run, its seconds, and its bytes.

    With `trim`, the process first returns freed memory to the system. Otherwise its reuse would not be counted.
    """
    assert way.run is not None
    if trim:
        with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)
    before, start = _memory("VmRSS", reset=True), time.perf_counter()
    made = way.run()
    seconds, peak = time.perf_counter() - start, _memory("VmHWM")
    return made, seconds, None if before is None or peak is None else max(peak - before, 0)


def _planned(way: Implementation) -> int | None:
    """The bytes that the compiler plans for a program's results and temporary arrays."""
    plan = way.program().memory_analysis() if way.program else None
    return plan and int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)


def _memory(field: str, reset: bool = False) -> int | None:
    """A field of this process's status in bytes, on Linux; `reset` first resets the high-water mark."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        found = re.search(rf"{field}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def machine() -> dict[str, Any]:
    """The machine on which the times are measured."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        info = pathlib.Path("/proc/cpuinfo")
        found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
        name = found[1] if found else platform.processor() or platform.machine()
    torch = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""
    cores = observation.cores()
    return {"device": name, "platform": device.platform, "cores": cores, "jax": jax.__version__, "torch": torch}


# ---- The table


def head() -> str:
    """The first two lines of a Markdown table."""
    rule = [("-" * (width + 1)) + ("-" if i < 2 else ":") for i, width in enumerate(_WIDTHS.values())]
    return f"{_in_columns(list(_WIDTHS))}\n|{'|'.join(rule)}|"


def line(row: Row) -> str:
    """A line of the Markdown table."""
    if not row.seconds:
        return _in_columns([row.function, row.implementation, *[""] * (len(_WIDTHS) - 3), row.note])
    cells = [
        row.function,
        row.implementation,
        duration(row.median),
        f"{duration(min(row.seconds))} to {duration(max(row.seconds))}",
        str(len(row.seconds)),
        f"{row.frames / row.median:.3g}",
        "1" if row.ratio is None else f"{row.ratio:.3g}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB",
        "" if row.equal is None else "equal" if row.equal else f"differs by {row.difference:.2g}",
    ]
    return _in_columns(cells)


def _in_columns(cells: Sequence[str]) -> str:
    widths = _WIDTHS.values()
    padded = [f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths))]
    return f"| {' | '.join(padded)} |"
