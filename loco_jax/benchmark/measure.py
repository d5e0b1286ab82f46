"""Times, peak memory and results of several implementations of a function, and the speed of the machine."""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.metadata
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
    """One way to do the work of a `Case`."""

    name: str
    run: Callable[[], Any] | None = None  # does the work, waits until it is done, returns what it made
    result: Callable[[Any], Any] = jax.device_get  # of that, NumPy arrays in a form that all implementations share
    comparable: bool = True  # the result should be that of the first; another network's is not
    missing: str = ""  # why it cannot run here; "" if it can
    device_bytes: Callable[[], int] | None = None  # memory as the compiler plans it, where the process does not see it


@dataclasses.dataclass(frozen=True)
class Case:
    """A function and its implementations, ours first."""

    implementations: Sequence[Implementation]
    bytes: float  # inputs read and outputs written once: these at least move between memory and the processor
    operations: float  # of the dense arithmetic; a multiplication with its addition counts as two
    tolerance: float = 1e-4  # how far results may differ, relative to the greatest value
    frames: int = 1  # frames that a step handles
    steps: int = 1  # how often a run does the work; times are a step's


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of an implementation."""

    function: str
    implementation: str
    seconds: tuple[float, ...] = ()  # a step, of each run in the order of the rounds
    ratio: float | None = None  # its time divided by the first one's of the same round, the median; None for the first
    floor: float | None = None  # seconds that the machine needs at least, by its speed in the same rounds
    peak_bytes: int | None = None  # memory beyond what was in use before; None where it is not known
    difference: float | None = None  # from the first one's result, relative to the greatest value; None if not compared
    equal: bool | None = None  # whether that is within the tolerance
    frames: int = 1  # frames that a step handles
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
    """A function that returns the memory of a program's results and temporary arrays; None on CPUs: runs show it."""

    def planned():
        memory = compiled().memory_analysis()
        return int(memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)

    return None if jax.default_backend() == "cpu" else functools.cache(planned)


def measure(
    name: str, case: Case, limits: Sequence[Implementation], repeats: int, most_seconds: float, peak: float = 0.0
) -> list[Row]:
    """A row for each implementation of a case and for each of the machine's limits.

    After one run each to warm up, they run in turns (A B C A B C), so that other load on the machine affects all alike.
    A slow one gets fewer rounds, within `most_seconds`. `peak` is the speed of arithmetic where it is known.
    """
    gc.collect()
    ways, reference = [*case.implementations, *limits], None
    notes: dict[str, str] = {}
    differences: dict[str, float] = {}
    runs: dict[str, list[tuple[float, int | None]]] = {}
    for way in ways:
        if way.missing:
            notes[way.name] = way.missing
            continue
        try:
            made = _timed(way, trim=True)[0]
            if way.comparable:
                result = way.result(made)
                if reference is not None:
                    differences[way.name] = difference(result, reference)
                reference = result if reference is None else reference
            runs[way.name] = []
        except (RuntimeError, MemoryError, TypeError) as error:  # JAX or PyTorch has no memory left, say
            notes[way.name] = f"failed: {(str(error).splitlines() or [type(error).__name__])[0][:80]}"
    for turn in range(repeats):
        for way in ways:
            done = runs.get(way.name)
            if done is not None and (not done or sum(s for s, _ in done) * (1 + 1 / len(done)) <= most_seconds):
                done.append(_timed(way, trim=turn == 0)[1:])
    times = {way: [seconds for seconds, _ in done] for way, done in runs.items()}
    first = next((way.name for way in case.implementations if way.name in runs), "")
    speeds = {way.name: speed(way.name, min(times[way.name])) for way in limits}

    def row(way: Implementation) -> Row:
        if way.name in notes:
            return Row(name, way.name, note=notes[way.name])
        floor, off, memory = None, differences.get(way.name), [used for _, used in runs[way.name] if used is not None]
        if speeds and way in case.implementations:
            floor = max(case.bytes / max(speeds[COPY], speeds[READ]), case.operations / (peak or speeds[PRODUCT]))
        return Row(
            name,
            way.name,
            tuple(seconds / case.steps for seconds in times[way.name]),
            ratio(times[way.name], times[first]) if first and way.name != first else None,
            floor,
            max(memory, default=None),
            off,
            None if off is None else bool(off <= case.tolerance),
            case.frames,
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
    """Times divided by ours of the same rounds, the median."""
    pairs = min(len(times), len(ours))
    return float(np.median(np.array(times[:pairs]) / np.array(ours[:pairs])))


def _timed(way: Implementation, trim: bool) -> tuple[Any, float, int | None]:
    """What a run made, its seconds, and bytes.

    With `trim`, freed memory that the process still holds goes back to the system first: its reuse would not be seen.
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
    """A field of this process's status in bytes, on Linux; with `reset` the high-water mark starts anew."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        found = re.search(rf"{field}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


# ---- The machine

_SIZE = 2048  # of the matrices
_COPIED = 2**28  # bytes, more than a cache holds


def speed(limit: str, seconds: float) -> float:
    """Bytes or operations a second of one of the limits."""
    return {COPY: 2 * _COPIED, READ: _COPIED, PRODUCT: 2 * _SIZE**3}[limit] / seconds


def known_peak(dtype: str) -> float:
    """Operations a second of this device from its data sheet; 0 if they are not known."""
    peaks = _PEAKS if dtype == "bfloat16" else {}
    return next((peak for name, peak in peaks.items() if name in jax.devices()[0].device_kind), 0.0)


def limits(dtype: str) -> list[Implementation]:
    """A copy, a read and a matrix product, which tell what memory and arithmetic can do at the time."""
    data, matrix = jnp.ones(_COPIED // 4, jnp.float32), jnp.ones((_SIZE, _SIZE), dtype)

    def limit(name, function, x):
        compiled = jax.jit(function)
        return Implementation(name, lambda: jax.block_until_ready(compiled(x)), comparable=False)

    return [
        limit(COPY, lambda x: x + 1, data),
        limit(READ, jnp.max, data),
        limit(PRODUCT, lambda x: x @ x, matrix),
    ]


def machine() -> dict[str, Any]:
    """The machine on which the times were measured."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        info = pathlib.Path("/proc/cpuinfo")
        found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
        name = found[1] if found else platform.processor() or platform.machine()
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": name, "platform": device.platform, "cores": cores, "jax": jax.__version__, "torch": torch}
