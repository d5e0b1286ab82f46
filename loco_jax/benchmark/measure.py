"""Times, peak memory and results of several implementations of a function, and the speed of the machine."""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

COPY, READ, PRODUCT = LIMITS = "limit: copy", "limit: read", "limit: product"
# Operations a second in bfloat16, from data sheets, by a part of the device's name.
_PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12, "TPU v5 lite": 197e12, "TPU v4": 275e12}


@dataclasses.dataclass(frozen=True)
class Implementation:
    """An implementation of the function of a `Case`."""

    name: str
    run: Callable[[], Any] | None = None  # does the work, waits until it is done, returns what it made
    result: Callable[[Any], Any] = jax.device_get  # turns that into NumPy arrays in a form that all share
    comparable: bool = True  # whether the result should be that of the first one
    missing: str = ""  # why it cannot run here; "" if it can
    device_bytes: Callable[[], int] | None = None  # the memory that the compiler plans, where runs do not show it


@dataclasses.dataclass(frozen=True)
class Case:
    """A function and its implementations, ours first."""

    implementations: Sequence[Implementation]
    bytes: float  # of inputs and outputs, which move between memory and the processor at least once
    operations: float  # of the dense arithmetic; a multiplication with its addition counts as two
    tolerance: float = 1e-4  # how far results may differ, relative to the greatest value
    frames: int = 1  # in a step
    steps: int = 1  # in a run; times are a step's


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurements of an implementation."""

    function: str
    implementation: str
    seconds: tuple[float, ...] = ()  # of a step, for each run in the order of the rounds
    ratio: float | None = None  # the median of its time divided by the first one's in the same round
    floor: float | None = None  # seconds that the machine needs at least, by its speed in the same rounds
    peak_bytes: int | None = None  # memory beyond what was in use before; None where it is not known
    difference: float | None = None  # from the first one's result, relative to the greatest value
    equal: bool | None = None  # whether the difference is within the tolerance; None if results were not compared
    frames: int = 1  # in a step
    note: str = ""  # why it is missing or what went wrong

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def of_jax(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Implementation:
    """`jax.jit(function)(*args)`, with its arguments on the device beforehand."""
    jitted, args = jax.jit(function), jax.device_put(args)

    def run():
        return jax.block_until_ready(jitted(*args))

    return Implementation(name, run, device_bytes=planned_bytes(lambda: jitted.lower(*args).compile()), **options)


def planned_bytes(compiled: Callable[[], jax.stages.Compiled]) -> Callable[[], int] | None:
    """A function that returns the bytes of a program's results and temporary arrays; None on CPUs: runs show them."""

    def planned():
        memory = compiled().memory_analysis()
        return int(memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)

    return None if jax.default_backend() == "cpu" else functools.cache(planned)


def measure(
    name: str, case: Case, limits: Sequence[Implementation], repeats: int, most_seconds: float, peak: float = 0.0
) -> list[Row]:
    """Measures the implementations of a case and the machine's limits, and returns a row for each.

    After one run each to warm up, they run in turns (A B C A B C), so that other load on the machine affects all alike.
    A slow one gets fewer rounds, within `most_seconds`. `peak` is the speed of arithmetic if the data sheet gives it.
    """
    gc.collect()
    ways, reference = [*case.implementations, *limits], None
    notes = {way.name: way.missing for way in ways if way.missing}
    differences: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    memory: dict[str, list[int]] = {}
    for way in ways:
        if way.missing:
            continue
        try:
            made = _timed(way, trim=True)[0]
            if way.comparable:
                result = way.result(made)
                if reference is not None:
                    differences[way.name] = difference(result, reference)
                reference = result if reference is None else reference
            times[way.name], memory[way.name] = [], []
        except (RuntimeError, MemoryError, TypeError) as error:  # for example JAX or PyTorch has no memory left
            notes[way.name] = f"failed: {(str(error).splitlines() or [type(error).__name__])[0][:80]}"
    for turn in range(repeats):
        for way in (way for way in ways if way.name in times):
            done = times[way.name]
            if not done or sum(done) * (1 + 1 / len(done)) <= most_seconds:
                _, seconds, used = _timed(way, trim=turn == 0)
                done.append(seconds)
                memory[way.name] += [] if used is None else [used]
    first = next((way.name for way in case.implementations if way.name in times), "")
    floor = None
    if limits:
        speeds = {way.name: speed(way.name, min(times[way.name])) for way in limits}
        floor = max(case.bytes / max(speeds[COPY], speeds[READ]), case.operations / (peak or speeds[PRODUCT]))

    def row(way: Implementation) -> Row:
        if way.name in notes:
            return Row(name, way.name, note=notes[way.name])
        off = differences.get(way.name)
        return Row(
            name,
            way.name,
            seconds=tuple(seconds / case.steps for seconds in times[way.name]),
            ratio=ratio(times[way.name], times[first]) if first and way.name != first else None,
            floor=floor if way in case.implementations else None,
            peak_bytes=max(memory[way.name], default=None),
            difference=off,
            equal=None if off is None else bool(off <= case.tolerance),
            frames=case.frames,
        )

    return [row(way) for way in ways]


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
    used = None if before is None or peak is None else max(peak - before, 0)
    return made, seconds, way.device_bytes() if way.device_bytes else used


def _memory(field: str, reset: bool = False) -> int | None:
    """A field of this process's status in bytes, on Linux; `reset` sets the high-water mark back first."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        found = re.search(rf"{field}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


# ---- The machine

_SIZE = 2048  # rows and columns of the matrices
_COPIED = 2**28  # bytes, more than a cache holds


def speed(limit: str, seconds: float) -> float:
    """Bytes or operations a second of a limit."""
    return {COPY: 2 * _COPIED, READ: _COPIED, PRODUCT: 2 * _SIZE**3}[limit] / seconds


def known_peak(dtype: str) -> float:
    """Operations a second of this device from its data sheet; 0 if they are not known."""
    peaks = _PEAKS if dtype == "bfloat16" else {}
    return next((peak for name, peak in peaks.items() if name in jax.devices()[0].device_kind), 0.0)


def limits(dtype: str) -> list[Implementation]:
    """A copy, a read and a matrix product, which show the present speed of memory and arithmetic."""
    data, matrix = jnp.ones(_COPIED // 4, jnp.float32), jnp.ones((_SIZE, _SIZE), dtype)

    def limit(name, function, x):
        compiled = jax.jit(function)
        return Implementation(name, lambda: jax.block_until_ready(compiled(x)), comparable=False)

    return [limit(COPY, lambda x: x + 1, data), limit(READ, jnp.max, data), limit(PRODUCT, lambda x: x @ x, matrix)]


def machine() -> dict[str, Any]:
    """The machine on which the times were measured."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        info = pathlib.Path("/proc/cpuinfo")
        found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
        name = found[1] if found else platform.processor() or platform.machine()
    torch = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": name, "platform": device.platform, "cores": cores, "jax": jax.__version__, "torch": torch}
