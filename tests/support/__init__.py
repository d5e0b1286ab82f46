"""What tests share: a toy task on toy frames, small configs, and the files of a run; other topics are in the modules.

What takes long to import is imported where it is used, because every test session imports this module.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import report, tasks
from loco_jax.configs import vha as vha_config
from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry.camera import Camera
from loco_jax.runs import observation
from loco_jax.runs.ending import Stopped

ROOT = pathlib.Path(__file__).parents[2]
TIMINGS = set(observation.NAMES)  # in logs these differ between any two runs


@dataclasses.dataclass(frozen=True)
class Mean(tasks.Task):
    """Learns where joints are on average. `noise` makes the loss depend on the key, the stage on a factor."""

    noise: float = 0.0
    stages: int = 1

    def init(self, key):
        return {"w": jax.random.normal(key, (14, 3))}

    def describe(self):
        return "a mean"

    def loss(self, params, frames, key, stage):
        target = (1 + stage) * frames.joints + self.noise * jax.random.normal(key, frames.joints.shape)
        error = jnp.square(params["w"] - target) * frames.present[..., None]
        return jnp.mean(error), {"size": jnp.sum(jnp.abs(params["w"]))}

    def predict(self, params, frames, key, thorough):
        return {"joints": frames.joints, "w": jnp.broadcast_to(params["w"][0, 0], frames.present.shape[:1])}

    def score(self, predicted, frames):
        np.testing.assert_array_equal(predicted["joints"], frames.joints)
        return [(float(x[0, 0, 0]), float(w)) for x, w in zip(predicted["joints"], predicted["w"])]

    def summary(self, records):
        return {"marks": [mark for mark, _ in records], "w": sorted({w for _, w in records})}

    def headline(self, summary):
        return {"w": summary["w"][0]}

    def picture(self, predicted, frames, index, title):
        return blank()


def report_toys(draw=report.picture, tell=report.table_of):
    """Makes toys draw themselves; their table is the number of their marks."""
    report.picture = lambda task, *rest: task.picture(*rest) if isinstance(task, Mean) else draw(task, *rest)
    report.table_of = lambda kind, found: f"| {len(found['marks'])} |" if "marks" in found else tell(kind, found)


report_toys()


def toy_frame(key, crowd, pictures=False) -> Frames:
    """Three people anywhere in the picture, 2 to 20 m deep."""
    u, v, z = jnp.moveaxis(jax.random.uniform(key, (3, 14, 3)), -1, 0)
    height, width = crowd.volume.image_size
    c, z = crowd.camera, 2 + 18 * z
    joints = jnp.stack([(u * width - c.cx) / c.fx * z, (v * height - c.cy) / c.fy * z, z], axis=-1)
    return Frames(joints, jnp.arange(42).reshape(3, 14) % 5 > 0, Camera(*map(jnp.float32, c)))


def blank(*_):
    """A figure without anything: matplotlib takes longer for the curves of a toy's training than the training."""
    from matplotlib.figure import Figure

    return Figure()


TINY = {
    "volume": {"stride": 32, "depth_bins": 16},  # 16 x 15 x 16
    "model": {"width": 12, "blocks": 1},  # Muon leaves thinner matrices to Adam
    "max_peaks": 8,
    "quiet": True,
    "eval_every": 0,
    "eval_frames": 3,
    "test_frames": 5,
    "pictures": 2,
}


def tiny(**changes):
    config = vha_config.get_config(1, "variant=patch,scale=demo")
    config.update(TINY)
    config.optimizer.schedule = "cosine"
    config.optimizer.update({"name": "adam", "learning_rate": 0.02, "warmup": 0})
    config.data.batch_size = 2
    config.update(changes)
    return config


def logged(workdir) -> list[dict]:
    """The log's lines, strictly JSON."""

    def no(constant):
        raise AssertionError(f"{constant} in log.jsonl")

    return [json.loads(line, parse_constant=no) for line in (workdir / "log.jsonl").read_text().splitlines()]


def saved_state(workdir, step: int) -> dict:
    """The state of a checkpoint as Orbax finds it, without our reader; keys are paths."""
    import orbax.checkpoint as ocp

    state = ocp.StandardCheckpointer().restore(workdir.absolute() / "checkpoints" / str(step) / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def saved_watch(workdir, step: int) -> dict:
    """What a checkpoint says of the losses before it."""
    return json.loads((workdir / "checkpoints" / str(step) / "position" / "metadata").read_text())["position"]["watch"]


def saved_steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def quietly(config, workdir):
    """The summary of a training, {} if a signal stopped it, and what it said."""
    from loco_jax import train

    said, summary = [], {}
    try:
        summary = train.train(config, str(workdir), said.append)
    except Stopped as stopped:
        said.append(str(stopped))
    return summary, said


def train_by_hand(config, frames: list[Frames], w: np.ndarray, rates: list[float] = ()):
    """Clipping, Adam, the schedule and the moving average in float64; yields loss, gradient norm, w and average.

    With `rates` those are the learning rates, whatever the schedule.
    """
    c, m, v, average = config.optimizer, 0.0, 0.0, w
    for n, batch in enumerate(frames):
        weight = np.asarray(batch.present, np.float64)[..., None] * np.ones(3)
        difference = w - np.asarray(batch.joints, np.float64)
        loss = np.mean(difference**2 * weight)
        gradient = np.sum(2 * difference * weight, axis=(0, 1)) / weight.size
        norm = np.sqrt(np.sum(gradient**2))
        gradient = gradient * min(1, c.clip_norm / norm)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        if rates:
            rate = rates[n]
        elif n < c.warmup:
            rate = c.learning_rate * n / c.warmup
        else:
            rate = c.learning_rate * (1 + math.cos(math.pi * (n - c.warmup) / (config.steps - c.warmup))) / 2
        w = w - rate * (m / (1 - 0.9 ** (n + 1))) / (np.sqrt(v / (1 - 0.999 ** (n + 1))) + 1e-8)
        keep = min(config.ema, (2 + n) / (11 + n))  # step n + 1, counted from 1
        average = keep * average + (1 - keep) * w
        yield loss, norm, w, average


def scenes(split: str, numbers) -> Frames:
    return jax.vmap(lambda key: toy_frame(key, crowds.DEMO))(
        jnp.stack([crowds.scene_key(split, int(n)) for n in numbers])
    )


class Crash(Exception):
    pass


@contextlib.contextmanager
def at_batch(number: int, do):
    """While open, calls `do` when the loop asks for its `number`th batch, from whichever source."""
    with pytest.MonkeyPatch.context() as patch:
        asked = 0
        for kind in (streams.CrowdStream, streams.ReadStream):

            def following(self, original=kind.__next__):
                nonlocal asked
                asked += 1
                if asked == number:
                    do()
                return original(self)

            patch.setattr(kind, "__next__", following)
        yield


def crash():
    raise Crash


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_run(one, other, step: int) -> None:
    """Bit for bit, the optimiser's state, average and losses included; and the same log but for the speed."""
    a, b = saved_state(one, step), saved_state(other, step)
    assert a.keys() == b.keys() and len(a) > 5
    assert saved_watch(one, step) == saved_watch(other, step)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    lines = [[{k: v for k, v in x.items() if k not in TIMINGS} for x in logged(w)] for w in (one, other)]
    assert lines[0] == lines[1]


def spawn(command: list[str], **environment: str) -> subprocess.Popen:
    """A process in the repository's root, stdout and stderr together in one pipe."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOCO_JAX_UNCHECKED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def python(*arguments: str, **environment: str) -> subprocess.Popen:
    return spawn([sys.executable, *arguments], **environment)


def devices(count: int) -> dict[str, str]:
    """The environment of a process with `count` simulated devices on the CPU, compiled for as here."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


def main(*arguments: str, **environment: str) -> subprocess.Popen:
    return python("-m", "loco_jax.main", *arguments, **environment)


def noise(key, crowd, pictures=False) -> Frames:
    """A frame that is compiled in no time."""
    image = jax.random.bits(key, (2, 2, 3), jnp.uint8) if pictures else None
    joints = jax.random.uniform(key, (1, 14, 3))
    return Frames(joints, joints[..., 0] > 0.5, Camera(*map(jnp.float32, crowd.camera)), image)
