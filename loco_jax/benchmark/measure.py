"""Times, peak memory and results of implementations of one thing, measured in turns, and the machine's limits."""

import ctypes
import dataclasses
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

_VERY_LONG = 4  # times as long as is planned for all rounds: shorter first runs may have been slow for being the first
COPY, READ, PRODUCT = "limit: copy", "limit: read", "limit: product"


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to do the work of a `Case`.

    Attributes:
      name: as in the table; the first of a case is ours, and ratios are against it.
      run: does it and returns what it made, finished: JAX has answered, CUDA is in step.
      result: what `run` made, as NumPy arrays in the form that all implementations of the case share.
      comparable: whether it should give the same; a smaller network, say, does not.
      missing: why it cannot run here, in place of all the others; "" if it can.
      compiles: whether its first run compiles; otherwise that one may count, if it is slow.
      floor: bytes and operations that it needs at least, where that is not what the case says.
      device_bytes: peak memory beside its arguments as its compiler tells it, where the host's says nothing.
    """

    name: str
    run: Callable[[], Any] | None = None
    result: Callable[[Any], Any] = jax.device_get
    comparable: bool = True
    missing: str = ""
    compiles: bool = True
    floor: tuple[float, float] | None = None
    device_bytes: Callable[[], int] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """A hot function and its implementations.

    Attributes:
      name: of the function.
      implementations: ours first.
      bytes: that have to be moved between memory and the processor at least: inputs read and outputs written once.
      operations: of the dense arithmetic: two for each multiplication with addition.
      tolerance: of results, a part of the greatest value; 0 for exactly the same.
      frames: how many frames a run does.
    """

    name: str
    implementations: Sequence[Implementation]
    bytes: float
    operations: float
    tolerance: float = 1e-4
    frames: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of an implementation.

    Attributes:
      function, implementation: the names.
      seconds: of each run, in the order of the rounds.
      cpu_seconds: of all threads of this process in those runs: steadier where others use the machine too.
      ratio: its time divided by ours of the same round, the median of the rounds; None for ours.
      floor: seconds that the machine needs at least, by its speed in the same rounds: for the bytes or the operations.
      share: floor / median time. More than 1 says that work was left out.
      peak_bytes: of memory beyond what was in use before; None where it cannot be told.
      difference: from the first one's result, a part of the greatest value; None if not compared.
      equal: whether that is within tolerance.
      frames: a run does.
      note: why it is missing or what went wrong; "" otherwise.
    """

    function: str
    implementation: str
    seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    ratio: float | None = None
    floor: float | None = None
    share: float | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    equal: bool | None = None
    frames: int = 1
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def measure(case: Case, limits: Sequence[Implementation], repeats: int, most_seconds: float) -> list[Row]:
    """A row for each implementation of a case and for each limit of the machine.

    After one run each to warm up, they run in turns (A B C A B C), so that what else the machine does meets all alike.
    One that takes long gets fewer rounds, within `most_seconds`. Of one that takes very long, the first run counts.
    """
    gc.collect()  # once, since it takes long
    rows, results, times, cpu_times, peaks, rounds = {}, {}, {}, {}, {}, {}
    for one in (*case.implementations, *limits):
        if one.missing:
            rows[one.name] = Row(case.name, one.name, note=one.missing)
            continue
        try:
            made, first, cpu, peak = _timed(one, trim=not one.compiles)
            if one in case.implementations and one.comparable:
                first_result = next(iter(results.values()), None)
                mine = one.result(made)
                results[one.name] = mine if first_result is None else difference(mine, first_result)
            del made
        except (RuntimeError, MemoryError, TypeError) as error:  # of JAX or PyTorch: no memory left, say
            rows[one.name] = Row(case.name, one.name, note=f"failed: {str(error).splitlines()[0][:80]}")
            continue
        late = first > _VERY_LONG * most_seconds and not one.compiles
        rounds[one.name] = 0 if late else repeats
        times[one.name], cpu_times[one.name], peaks[one.name] = ([first], [cpu], [peak]) if late else ([], [], [])
    runners = {one.name: one for one in (*case.implementations, *limits) if one.name in rounds}
    for turn in range(repeats):
        for name, one in runners.items():
            spent = sum(times[name])
            if turn < rounds[name] and (not times[name] or spent + spent / len(times[name]) <= most_seconds):
                _, seconds, cpu, peak = _timed(one, trim=turn == 0)
                times[name].append(seconds)
                cpu_times[name].append(cpu)
                peaks[name].append(peak)
    speeds = {one.name: speed(one.name, float(np.min(times[one.name]))) for one in limits}

    def floor_of(one):
        moved, operations = one.floor or (case.bytes, case.operations)
        return max(moved / max(speeds[COPY], speeds[READ]), operations / speeds[PRODUCT]) if speeds else None

    ours = next((one.name for one in case.implementations if one.name in times), None)
    first_compared = next(iter(results), None)
    for one in (*case.implementations, *limits):
        if one.name in rows:
            continue
        is_limit = one not in case.implementations
        floor = None if is_limit else floor_of(one)
        known = [p for p in peaks[one.name] if p is not None]
        off = results.get(one.name) if one.name != first_compared else None
        rows[one.name] = Row(
            case.name,
            one.name,
            tuple(times[one.name]),
            tuple(cpu_times[one.name]),
            None if is_limit or one.name == ours else ratio(times[one.name], times[ours]),
            floor,
            None if floor is None else floor / float(np.median(times[one.name])),
            max(known) if known else None,
            off,
            None if off is None else bool(off <= case.tolerance),
            case.frames,
        )
    return [rows[one.name] for one in (*case.implementations, *limits)]


def difference(a: Any, b: Any) -> float:
    """The greatest difference between two trees of arrays, as a part of the greatest value; inf if shapes differ."""
    mine, other = jax.tree.leaves(a), jax.tree.leaves(b)
    if [np.shape(x) for x in mine] != [np.shape(x) for x in other]:
        return float("inf")
    worst = 0.0
    for x, y in zip(mine, other):
        x, y = np.atleast_1d(np.asarray(x)), np.atleast_1d(np.asarray(y))
        off, scale = 0.0, 0.0
        for part, like in zip(x, y):  # a part at a time: of the volumes, there is no room for many copies
            part, like = part.astype(np.float32, copy=False), like.astype(np.float32, copy=False)
            with np.errstate(invalid="ignore"):
                gap = np.abs(part - like)
            off = max(off, float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0)))
            scale = max(scale, float(np.max(np.abs(like), initial=0.0)))
        worst = max(worst, off / scale if scale else off)
    return worst


def ratio(times: Sequence[float], ours: Sequence[float]) -> float:
    """One's times divided by the other's of the same rounds, the median; of a slow one with one run, by the median."""
    pairs = min(len(times), len(ours))
    if pairs < len(ours) and pairs == 1:
        return float(times[0] / np.median(ours))
    return float(np.median(np.array(times[:pairs]) / np.array(ours[:pairs])))


def _timed(one: Implementation, trim: bool) -> tuple[Any, float, float, int | None]:
    """What it made, seconds, seconds of all threads, bytes.

    With `trim`, what was freed before but kept for later goes back to the system, or its use again would not be seen.
    That takes some time, so not every run is for this.
    """
    if trim:
        _trim()
    before = _reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    made = one.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = _peak()
    used = None if before is None or peak is None else max(peak - before, 0)
    return made, seconds, cpu, used if one.device_bytes is None else one.device_bytes()


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        pass


def _reset_peak() -> int | None:
    """Forgets the high-water mark of this process's memory; returns what it uses now. Linux only."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _peak() -> int | None:
    try:
        return _status("VmHWM")
    except OSError:
        return None


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1))


# ---- The machine

_SIZE = 2048  # of the matrices
_COPIED = 2**28  # bytes: more than any cache holds


def speed(limit: str, seconds: float) -> float:
    """Bytes or operations a second of one of the limits."""
    return {COPY: 2 * _COPIED, READ: _COPIED, PRODUCT: 2 * _SIZE**3}[limit] / seconds


def limits(dtype: jnp.dtype) -> list[Implementation]:
    """A copy, a read and a matrix product, which tell what memory and arithmetic can do at the time."""
    data = jnp.ones(_COPIED // 4, jnp.float32)
    matrix = jnp.ones((_SIZE, _SIZE), dtype)

    def limit(name, function, x):
        compiled = jax.jit(function)
        return Implementation(name, lambda: jax.block_until_ready(compiled(x)), comparable=False)

    return [
        limit(COPY, lambda x: x + 1, data),
        limit(READ, jnp.max, data),
        limit(PRODUCT, lambda x: x @ x, matrix),
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        processor = re.search(r"model name\s*:\s*(.*)", text).group(1)
    except (OSError, AttributeError):
        processor = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    return {
        "processor": processor,
        "cores": cores,
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "torch": _version("torch"),
    }
