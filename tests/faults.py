"""Faults on purpose: what becomes of a run that is killed, whose disk is full, or whose files are damaged.

python -m tests.faults [--kills=20] [--flips=300] [--seed=0] [--only=WORD] [--folder=/tmp]

Everything is done to the training command itself, in processes of its own. Prints a table in Markdown; ends with 1 if a
promise was not kept: no more work is lost than since the last completed save, and what comes out in the end is, bit for
bit, what an undisturbed run gives. `tests/test_faults.py` does a few of these in CI.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging

from loco_jax import experiment
from loco_jax.configs import refiner
from loco_jax.data import streams
from loco_jax.runs import checkpoints
from loco_jax.step import init_state, make_optimizer
from tests.support import ROOT, assert_same_run, main, prepare_small_jta, saved_steps

STEPS, SAVE_EVERY = 240, 20
PATIENCE = 240  # seconds, until a process that says nothing is taken for hanging


class Lab:
    """A folder for runs of one small experiment, and the undisturbed run that others are compared with."""

    def __init__(self, folder: pathlib.Path, seed: int = 0):
        self.folder, self.rng = folder, random.Random(seed)
        self.environment = {
            "LOCO_JAX_CACHE": str(folder / "compiled"),
            "PYTHONUNBUFFERED": "1",  # what was said before a kill is to be seen
            "JAX_PLATFORMS": "cpu",
        }
        self._straight, self._count = None, 0

    def new(self) -> pathlib.Path:
        self._count += 1
        return self.folder / f"run_{self._count}"

    def flags(self, workdir: pathlib.Path, *more: str) -> list[str]:
        numbers = {
            "steps": STEPS,
            "checkpoint_every": SAVE_EVERY,
            "log_every": 10,
            "eval_every": 2 * SAVE_EVERY,
            "eval_frames": 2,
            "ema": 0.9,
        }
        fields = [f"--config.{name}={value}" for name, value in numbers.items()]
        quiet = ["--config.data.batch_size=2", "--config.quiet=true"]
        return ["--config=configs/refiner.py:scale=demo", f"--workdir={workdir}", *fields, *quiet, *more]

    def start(self, workdir: pathlib.Path, *more: str) -> subprocess.Popen:
        return main(*self.flags(workdir, *more), **self.environment)

    def finish(self, workdir: pathlib.Path, *more: str) -> str:
        """Runs the command to its end, which must be a good one; what it says."""
        process = self.start(workdir, *more)
        said = end(process)
        assert process.returncode == 0, said
        return said

    def fail(self, workdir: pathlib.Path, *more: str) -> str:
        """Runs the command, which must end with one error and no traceback; that."""
        process = self.start(workdir, *more)
        said = end(process)
        return self.refused(process, said)

    @staticmethod
    def refused(process: subprocess.Popen, said: str) -> str:
        assert process.returncode == 1 and "Traceback" not in said, said
        return said[said.rindex("loco_jax: ") :].strip()

    @property
    def straight(self) -> pathlib.Path:
        if self._straight is None:
            self._straight = self.new()
            self.finish(self._straight)
        return self._straight

    def copy(self, of: pathlib.Path | None = None) -> pathlib.Path:
        to = self.new()
        shutil.copytree(of or self.straight, to)
        return to

    def same_as_straight(self, workdir: pathlib.Path) -> None:
        assert_same_run(self.straight, workdir, STEPS)


def end(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs: {process.communicate()[0]}") from None


def wait_until(what: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Whether it came true before the process ended."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"hangs: {what}"
        time.sleep(0.002)
    return True


def newest(workdir: pathlib.Path) -> int:
    """The last completed save's step, or 0."""
    return max(saved_steps(workdir), default=0) if (workdir / "checkpoints").exists() else 0


def under_way(workdir: pathlib.Path) -> set[str]:
    """Names of saves that are not complete."""
    folder = workdir / "checkpoints"
    return {path.name for path in folder.iterdir() if "tmp" in path.name} if folder.exists() else set()


# ---- The faults. Each returns what happened, in words; an AssertionError is a promise that was not kept


def killed(lab: Lab, kills: int = 20) -> str:
    workdir, kept, in_save, early, runs = lab.new(), [], 0, 0, 1
    for number in range(kills):
        before, old = newest(workdir), under_way(workdir)
        started = time.monotonic()
        process = lab.start(workdir)
        if number == 0:
            wait_until((workdir / "log.jsonl").exists, process)
            to_begin = time.monotonic() - started
        elif number % 2:  # in the middle of a save, one of the next few
            after = before + lab.rng.randrange(4) * SAVE_EVERY

            def saving(workdir=workdir, old=old, after=after):
                return newest(workdir) >= after and bool(under_way(workdir) - old)

            wait_until(saving, process)
            time.sleep(lab.rng.choice([0, lab.rng.uniform(0, 0.1)]))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=lab.rng.uniform(0, 1.2 * to_begin))
        process.kill()
        said = end(process)
        began = "GFLOP" in said  # and so what the one before left behind is gone
        in_save, early = in_save + (began and bool(under_way(workdir))), early + (not began)
        # What the one before had saved is where this one went on, and nothing of it is lost.
        on = re.search(r"going on from step (\d+)", said)
        assert int(on[1]) == before if on else not (before and began), (before, said)
        assert newest(workdir) >= before
        kept.append(newest(workdir))
        if f"{STEPS} steps done" in said:
            lab.same_as_straight(workdir)
            workdir, runs = lab.new(), runs + 1
    lab.finish(workdir)
    lab.same_as_straight(workdir)
    assert in_save or kills < 10, "no kill fell into a save: try another --seed"
    return (
        f"killed {kills} times in {runs} runs, {in_save} of them while a save was under way, {early} before the first "
        f"step; each start went on from the last completed save (steps {', '.join(map(str, kept))})"
    )


def asked_to_stop(lab: Lab) -> str:
    workdir = lab.new()
    process = lab.start(workdir)
    assert wait_until((workdir / "log.jsonl").exists, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = end(process)
    seconds = time.monotonic() - asked
    assert process.returncode == 75 and f"stopped by SIGTERM at step {newest(workdir)}, which is saved" in said, said
    lab.finish(workdir)
    lab.same_as_straight(workdir)
    return f"saved the very step, and ended with status 75 after {seconds:.1f} s; no step is done twice"


def disk_full(lab: Lab) -> str:
    with small_disk(lab.new()) as (folder, fill, free, how):
        workdir = folder / "run"
        process = lab.start(workdir)
        assert wait_until(lambda: newest(workdir) > 0, process)
        fill(process)
        error = lab.refused(process, end(process))
        kept = newest(workdir)
        full = "o space left" in error or "File too large" in error
        assert 0 < kept < STEPS and full and str(workdir) in error, error
        free()
        assert f"going on from step {kept}" in lab.finish(workdir)
        lab.same_as_straight(workdir)
    return f"({how}) ended with “{short(error, workdir)}”; with room again it went on from step {kept}"


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, Callable, Callable, str]]:
    """A folder, what fills its disk, what makes room again, and how. Where no disk may be mounted, a process that may
    not write more than a few bytes into a file takes its place."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        limit = (100, resource.RLIM_INFINITY)
        yield folder, lambda p: resource.prlimit(p.pid, resource.RLIMIT_FSIZE, limit), lambda: None, "RLIMIT_FSIZE"
        return
    ballast = folder / "ballast"

    def fill(process):
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield folder, fill, ballast.unlink, "a small tmpfs"
    finally:
        subprocess.run(["umount", folder], check=True)


def truncated(lab: Lab) -> str:
    def cut(path: pathlib.Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    return damaged(lab, cut)


def flipped(lab: Lab) -> str:
    return damaged(lab, lambda path: flip(path, 4 * path.stat().st_size))


def damaged(lab: Lab, damage: Callable[[pathlib.Path], None]) -> str:
    workdir = lab.copy()
    damage(max(files(workdir / "checkpoints" / str(STEPS)), key=lambda path: path.stat().st_size))
    said = lab.finish(workdir)
    assert "Traceback" not in said, said
    before = STEPS - SAVE_EVERY
    assert f"left out; the one before is of step {before}" in said and f"going on from step {before}" in said, said
    assert (workdir / "damaged" / str(STEPS)).exists()
    lab.same_as_straight(workdir)
    return f"“{short(said.splitlines()[0], workdir)}”; went on from step {before}, and kept the damaged one aside"


def many_flips(lab: Lab, flips: int = 300) -> str:
    """Single bits anywhere in the newest checkpoint, one at a time; it is read as training reads it."""
    workdir = lab.copy()
    all_files = files(workdir / "checkpoints" / str(STEPS))
    config = refiner.get_config("scale=demo")
    config.ema, config.data.batch_size = 0.9, 2
    task, optimizer = experiment.create_task(config), make_optimizer(config)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    frames = streams.training_stream(config, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    like = jax.device_put(init_state(task, optimizer, config, frames.like()), place)

    def read(said: list[str]):
        with checkpoints.Checkpoints(str(workdir), read_only=True) as saved:
            step, state, position = saved.restore(like, say=said.append)
        return step, [np.asarray(x).tobytes() for x in jax.tree.leaves(state)], position

    whole, counts = read([]), {"by Orbax": 0, "by our sums": 0, "changed nothing that is read": 0}
    for _ in range(flips):
        path = lab.rng.choices(all_files, [f.stat().st_size for f in all_files])[0]
        bit, said = lab.rng.randrange(8 * path.stat().st_size), []
        flip(path, bit)
        found = read(said)
        flip(path, bit)
        if found[0] == STEPS:
            assert found == whole, f"bit {bit} of {path} was not noticed"
            counts["changed nothing that is read"] += 1
        else:
            ours = "other bits than were saved" in said[0] or "its position has changed" in said[0]
            counts["by our sums" if ours else "by Orbax"] += 1
    assert read([]) == whole
    return f"of {flips} single bits: " + ", ".join(f"{count} {how}" for how, count in counts.items())


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: pathlib.Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def damaged_shard(lab: Lab) -> str:
    data = prepare_small_jta(lab.new())
    (shard,) = data.rglob("*train_vha*array_record*")
    options = ["--config.data.source=jta", f"--config.data.dir={data}"]
    whole, part = lab.new(), lab.new()
    lab.finish(whole, *options)
    process = lab.start(part, *options)
    assert wait_until(lambda: newest(part) > 0, process)
    process.send_signal(signal.SIGTERM)
    end(process)
    kept, good, errors = newest(part), shard.read_bytes(), []
    spoilt = bytearray(good)
    used = np.flatnonzero(np.frombuffer(good, np.uint8))
    spoilt[used[len(used) // 2]] ^= 16  # not in the empty rest of the file
    for content in (good[: len(good) // 2], bytes(spoilt), None):
        shard.unlink()
        if content is not None:
            shard.write_bytes(content)
        errors.append(lab.fail(part, *options))
        assert newest(part) >= kept
        shard.write_bytes(good)
    lab.finish(part, *options)
    assert_same_run(whole, part, STEPS)
    told = "; ".join(f"{what}: “{short(e, data)}”" for what, e in zip(("cut", "a flipped bit", "gone"), errors))
    return f"{told}. With the file back it went on, with no frame left out or read twice"


def not_writable(lab: Lab) -> str:
    lab.folder.joinpath("file").write_text("")
    errors = [lab.fail(pathlib.Path(folder)) for folder in (lab.folder / "file" / "run", "/proc/run")]
    assert all("cannot be written to" in error for error in errors), errors
    return f"“{short(errors[1], lab.folder)}”"


def other_config(lab: Lab) -> str:
    workdir = lab.copy()
    error = lab.fail(workdir, "--config.seed=5")
    assert "seed: 0 there, 5 now" in error and saved_steps(workdir) == saved_steps(lab.straight), error
    return "refused; names every field that differs, and leaves all files alone"


def two_runs(lab: Lab) -> str:
    workdir = lab.new()
    first = lab.start(workdir, "--config.steps=1000000")
    assert wait_until((workdir / "log.jsonl").exists, first)
    error = lab.fail(workdir, "--config.steps=1000000")
    assert f"another run is in there (process {first.pid} on" in error, error
    assert first.poll() is None
    first.kill()
    end(first)
    # The dead one's lock is in nobody's way.
    kept = newest(workdir)
    said = lab.finish(workdir, "--config.steps=1000000", "--config.max_minutes=0.0001")
    assert not kept or f"going on from step {kept}" in said, said
    return f"the second ends with “{short(error, workdir)}”; after kill -9 of the first, a third goes on"


def by_tests(*arguments: str) -> Callable[[Lab], str]:
    def run(lab: Lab) -> str:
        command = [sys.executable, "-m", "pytest", "-n0", "--durations=0", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout
        return f"{re.search(r'[0-9]+ passed', done.stdout)[0]}: `{' '.join(arguments)}`"

    return run


def short(text: str, folder: pathlib.Path) -> str:
    """An error for the table: on one line, without this machine's folders, cut."""
    text = " ".join(text.removeprefix("loco_jax: ").split()).replace(str(folder), "…").replace("|", "/")
    return text if len(text) <= 230 else text[:230] + " …"


FAULTS: dict[str, Callable[[Lab], str]] = {
    "kill -9 at random moments": killed,
    "SIGTERM": asked_to_stop,
    "disk full while saving": disk_full,
    "newest checkpoint cut off": truncated,
    "a flipped bit in the newest checkpoint": flipped,
    "flipped bits anywhere in a checkpoint": many_flips,
    "a shard of the data damaged": damaged_shard,
    "workdir not writable": not_writable,
    "another config under a checkpoint": other_config,
    "two runs in one workdir": two_runs,
    "a process of several dies": by_tests("tests/test_multihost.py", "-k", "dies_or_fails"),
    "numbers that are not finite": by_tests("tests/runs/test_watch.py"),
}


def command(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and bits")
    parser.add_argument("--only", default="", help="faults with this word in their names")
    parser.add_argument("--folder", help="where the runs go; a temporary one if absent")
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.FATAL)  # Orbax says much, and damaged checkpoints are its business here
    failed = 0
    with tempfile.TemporaryDirectory(prefix="faults_", dir=options.folder) as folder:
        lab = Lab(pathlib.Path(folder), options.seed)
        print("| fault | what happens | seconds |\n|---|---|---:|", flush=True)
        for name, do in FAULTS.items():
            if options.only not in name:
                continue
            more = {killed: {"kills": options.kills}, many_flips: {"flips": options.flips}}.get(do, {})
            started = time.monotonic()
            try:
                happened = do(lab, **more)
            except Exception:
                failed += 1
                happened = "**promise not kept**"
                traceback.print_exc()
            print(f"| {name} | {happened} | {time.monotonic() - started:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command())
