"""The loop against Adam written out in NumPy, exact resume after crashes and signals, and what may go wrong.

Most runs are of a toy task on toy frames, which compile in no time; the loop knows no difference.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from matplotlib.figure import Figure

from loco_jax import evaluate, experiment, report, tasks, train
from loco_jax.configs import refiner as refiner_config
from loco_jax.configs import trunk as trunk_config
from loco_jax.configs import vha as vha_config
from loco_jax.data import crowd as crowds
from loco_jax.data import jta, streams
from loco_jax.data.frames import Frames
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import FROM_JTA
from loco_jax.ops import distributed
from loco_jax.runs import checkpoints
from loco_jax.runs import observation as observe
from tests.data.test_jta import write_jta

ROOT = pathlib.Path(__file__).parents[1]
TIMINGS = set(observe.NAMES)  # what no two runs have alike in their logs


# ---- A toy task, and toy frames


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
        return Figure()


def report_toys(draw=report.picture, tell=report.table_of):
    """Toys have a table of their own, and draw themselves."""
    report.picture = lambda task, *rest: task.picture(*rest) if isinstance(task, Mean) else draw(task, *rest)
    report.table_of = lambda kind, summary: (
        f"| {len(summary['marks'])} |" if "marks" in summary else tell(kind, summary)
    )


report_toys()


def toy_frame(key, crowd, pictures=False) -> Frames:
    """Three people anywhere in the picture, 2 to 20 m deep."""
    u, v, z = jnp.moveaxis(jax.random.uniform(key, (3, 14, 3)), -1, 0)
    height, width = crowd.volume.image_size
    c, z = crowd.camera, 2 + 18 * z
    joints = jnp.stack([(u * width - c.cx) / c.fx * z, (v * height - c.cy) / c.fy * z, z], axis=-1)
    return Frames(joints, jnp.arange(42).reshape(3, 14) % 5 > 0, Camera(*map(jnp.float32, c)))


@pytest.fixture(autouse=True)
def toy_frames(monkeypatch):
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)


@pytest.fixture
def toy(monkeypatch):
    """Makes every config's task the toy."""

    def use(**arguments):
        monkeypatch.setattr(experiment, "create_task", lambda config: Mean(**arguments))

    use()
    return use


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
    state = ocp.StandardCheckpointer().restore(workdir.absolute() / "checkpoints" / str(step) / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def saved_steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def quietly(config, workdir):
    """The summary of a training, {} if a signal stopped it, and what it said."""
    said, summary = [], {}
    try:
        summary = train.train(config, str(workdir), said.append)
    except train.Stopped as stopped:
        said.append(str(stopped))
    return summary, said


# ---- What a step is


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


@pytest.fixture
def by_hand(toy, tmp_path):
    config = tiny(steps=12, log_every=5, checkpoint_every=6, eval_every=9, ema=0.8)
    config.update({"optimizer": {"learning_rate": 0.3, "warmup": 3, "clip_norm": 1.69}, "data": {"batch_size": 2}})
    batches = [scenes("train", (2 * i, 2 * i + 1)) for i in range(12)]
    start = np.asarray(Mean().init(jax.random.key(config.seed))["w"], np.float64)
    wanted = list(zip(*train_by_hand(config, batches, start)))
    summary, said = quietly(config, tmp_path)
    return config, tmp_path, wanted, summary, said


def test_training_is_clipped_adam_on_the_crowds_scenes(by_hand):
    config, workdir, (losses, norms, ws, averages), summary, _ = by_hand
    assert max(norms) > config.optimizer.clip_norm > min(norms)  # so that clipping is tried both ways
    assert saved_steps(workdir) == [6, 12]
    for step in (6, 12):
        state = saved_state(workdir, step)
        np.testing.assert_allclose(state["['params']['w']"], ws[step - 1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state["['ema']['w']"], averages[step - 1], rtol=1e-4, atol=1e-5)
        assert state["['step']"] == step and state["['bad_step']"] == 0
    lines = [line for line in logged(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, part in zip(lines, (slice(0, 5), slice(5, 10), slice(10, 12))):
        assert line["loss"] == pytest.approx(np.mean(losses[part]), rel=1e-4)
        assert line["grad_norm"] == pytest.approx(np.mean(norms[part]), rel=1e-4)
        assert line["stage"] == 0 and line["frames_per_second"] > 0 and line["size"] > 0
        assert 0 <= line["input_wait"] < 1
    # Evaluations are of the average, on the validation split's first scenes.
    evaluations = [line for line in logged(workdir) if "validation/w" in line]
    assert [line["step"] for line in evaluations] == [9, 12]
    for line in evaluations:
        assert line["validation/w"] == pytest.approx(averages[line["step"] - 1][0, 0], rel=1e-4)
    np.testing.assert_allclose(summary["marks"], scenes("validation", range(3)).joints[:, 0, 0, 0], rtol=1e-6)


def test_input_that_holds_the_devices_back_is_told_once(toy, jta_with_pictures, tmp_path, monkeypatch):
    config = tiny(steps=12, log_every=4, ema=0.0)
    data = {"source": "jta", "dir": str(jta_with_pictures[0] / "data"), "pictures": True, "max_people": 8}
    config.data.update({**data, "train_split": "train"})
    read = streams.JtaStream.__next__

    def slowly(stream):
        time.sleep(0.05)
        return read(stream)

    monkeypatch.setattr(streams.JtaStream, "__next__", slowly)
    _, said = quietly(config, tmp_path)
    shares = [line["input_wait"] for line in logged(tmp_path) if "input_wait" in line]
    assert len(shares) == 3 and all(0.3 < share <= 1 for share in shares[1:])
    told = [line for line in said if "wait for pictures" in line]
    assert len(told) == 1 and told[0].endswith("--config.data.workers=2")


def test_a_run_leaves_its_files(by_hand):
    config, workdir, _, _, said = by_hand
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["warmup"] == 3
    events = [path for path in (workdir / "tensorboard").iterdir() if "tfevents" in path.name]
    assert events and sum(path.stat().st_size for path in events) > 500
    assert said[0] == "a mean" and said[-1] == f"{workdir}: 12 steps done"
    # A finished run is left as it is.
    before = (workdir / "log.jsonl").read_text(), saved_steps(workdir)
    _, said = quietly(config, workdir)
    assert before == ((workdir / "log.jsonl").read_text(), saved_steps(workdir))
    assert f"{workdir}: going on from step 12" in said


def test_randomness_is_of_the_seed_and_the_step(toy):
    task, config = Mean(noise=1.0), tiny()
    optimizer, frames = train.make_optimizer(config), scenes("train", (0, 1))
    state = train.init_state(task, optimizer, config, frames)

    def loss(step, seed=0):
        now = state.replace(step=jnp.int32(step))
        return train.train_step(now, frames, task=task, optimizer=optimizer, stage=0, seed=seed, ema=0.0)[1]

    first = float(loss(0))
    assert first == float(loss(0)) and len({first, float(loss(1)), float(loss(2)), float(loss(0, 1))}) == 4


def updates_of(config, steps: int) -> np.ndarray:
    """A parameter's changes when its gradient is always 1: Adam makes them the learning rate."""
    optimizer = train.make_optimizer(config)
    params = {"w": jnp.float32(0)}
    state, changes = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update({"w": jnp.float32(1)}, state, params)
        changes.append(-float(update["w"]))
    return np.array(changes)


def test_published_learning_rate_is_there_from_the_first_step():
    config = vha_config.get_config(2)
    assert config.optimizer.schedule == "constant"
    np.testing.assert_allclose(updates_of(config, 3), 1e-4, rtol=1e-3)
    config.optimizer.warmup = 4
    np.testing.assert_allclose(updates_of(config, 6), 1e-4 * np.array([0, 1, 2, 3, 4, 4]) / 4, rtol=1e-3)


def test_unknown_optimisers_are_told():
    for field, value, known in (("name", "sgd", "adam, muon"), ("schedule", "linear", "constant, cosine")):
        config = tiny()
        config.optimizer[field] = value
        with pytest.raises(ValueError, match=f"config.optimizer.{field}='{value}'; there are {known}"):
            train.make_optimizer(config)


def test_plateau_by_hand():
    plateau = train.Plateau(patience=2, least_gain=0.1)
    # Best 10; 9.5 is no gain of a tenth, 8.9 is; then 8.9 twice without.
    assert [plateau.reached(x) for x in (10, 9.5, 8.9, 8.5, 8.1)] == [False] * 4 + [True]
    # It starts over, and any loss is a gain at first.
    assert [plateau.reached(x) for x in (50, 49, 44, 43, 41)] == [False] * 4 + [True]
    other = train.Plateau(patience=2, least_gain=0.1)
    plateau.reached(7.0), plateau.reached(6.9)
    other.state = json.loads(json.dumps(plateau.state))
    assert other.reached(6.8)


# ---- Resuming


class Crash(Exception):
    pass


@contextlib.contextmanager
def at_batch(number: int, do):
    """While open, calls `do` when the loop asks for its `number`th batch, from whichever source."""
    with pytest.MonkeyPatch.context() as patch:
        asked = 0
        for kind in (streams.CrowdStream, streams.JtaStream):

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


@pytest.fixture(scope="module")
def small_jta(tmp_path_factory):
    return prepare_small_jta(tmp_path_factory.mktemp("jta"))


def prepare_small_jta(folder: pathlib.Path) -> pathlib.Path:
    """A prepared JTA seen by the demo's camera: two people in each used frame, 90 frames a split."""
    rng = np.random.default_rng(0)

    def rows(x):
        places = rng.uniform([-3, -1, 5], [3, 1, 20], (90, 2, 22, 3)).round(3)
        places[:, 0, FROM_JTA[0], 0] = x + np.arange(90) / 100  # marks each frame
        return [
            [10 * (f + 1), p, j, 0, 0, *places[f, p, j].tolist(), 0, 0]
            for f in range(90)
            for p in range(2)
            for j in range(22)
        ]

    write_jta(folder, {0: rows(0)}, {257: rows(1)}, {256: rows(2)})
    (folder / "camera.json").write_text(json.dumps(crowds.DEMO.camera._asdict()))
    jta.prepare(folder, folder / "data")
    return folder / "data"


def assert_same_run(one, other, step: int) -> None:
    """Bit for bit, the optimiser's state, sums and average included; and the same log but for the speed."""
    a, b = saved_state(one, step), saved_state(other, step)
    assert a.keys() == b.keys() and len(a) > 8
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    lines = [[{k: v for k, v in x.items() if k not in TIMINGS} for x in logged(w)] for w in (one, other)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("source", ["crowd", "jta"])
@pytest.mark.parametrize(
    "interrupt, batches, steps",
    [
        (crash, (8,), (5,)),  # the newest checkpoint is of step 5, its log line of step 3; step 6's comes twice
        (ask_to_stop, (4, 3), (4, 7)),  # step 7 is no multiple of anything, and the loss of the stages lies between
    ],
)
def test_resume_is_exact(toy, small_jta, tmp_path, source, interrupt, batches, steps):
    toy(noise=1.0, stages=3)
    config = tiny(steps=14, log_every=3, checkpoint_every=5, ema=0.9, plateau={"patience": 1, "least_gain": 0.99})
    config.update({"data": {"source": source, "dir": str(small_jta), "max_people": 4, "batch_size": 2}})
    quietly(config, tmp_path / "straight")
    for batch, step in zip(batches, steps):
        with at_batch(batch, interrupt), contextlib.suppress(Crash):
            _, said = quietly(config, tmp_path / "parts")
            assert said[-1].startswith(f"{tmp_path / 'parts'}: stopped by SIGTERM at step {step}, which is saved")
        assert saved_steps(tmp_path / "parts")[-1] == step
    _, said = quietly(config, tmp_path / "parts")
    assert f"{tmp_path / 'parts'}: going on from step {steps[-1]}" in said
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 14)
    # With a patience of one, every second log line begins a stage: the first is the best so far.
    stages = {line["step"]: line["stage"] for line in logged(tmp_path / "parts") if "loss" in line}
    assert stages == {3: 0, 6: 0, 9: 1, 12: 1, 14: 2}


@pytest.mark.parametrize("speed, started", [(1e3, 3), (1e15, 5)], ids=["long steps", "short steps"])
def test_a_signal_is_acknowledged_at_once_and_ends_a_run_of_long_steps_after_the_one_under_way(
    toy, tmp_path, monkeypatch, own_sigterm, speed, started
):
    """The signal comes while step 3 is waited for, in code that Python cannot interrupt."""
    monkeypatch.setattr(train, "_matmul_rate", lambda: speed)  # by which the first step is known to be long
    monkeypatch.setattr(train, "_LONG_STEP", -1.0 if speed < 1e6 else 1e6)
    events, compile_step = [], train.compile_step

    class Loss:
        def __init__(self, step):
            self.step = step

        def is_ready(self):
            return False

        def block_until_ready(self):
            if self.step == 3:
                ask_to_stop_from_a_thread()
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
            events.append(f"waited for {self.step}")

    def ask_to_stop_from_a_thread():
        threading.Thread(target=lambda: (time.sleep(0.05), ask_to_stop())).start()

    def compile_odd_step(*arguments):
        do_step, steps = compile_step(*arguments), iter(range(1, 100))

        def start(state, frames):
            events.append(f"started {(step := next(steps))}")
            return do_step(state, frames)[0], Loss(step)

        start.cost_analysis = do_step.cost_analysis
        return start

    monkeypatch.setattr(train, "compile_step", compile_odd_step)
    with pytest.raises(train.Stopped, match=f"stopped by SIGTERM at step {started}"):
        train.train(tiny(steps=50), str(tmp_path), events.append)
    said = "SIGTERM: the step under way is finished and saved, then this ends"
    assert events.count(said) == 1 and events.index(said) < events.index("waited for 3")
    assert saved_steps(tmp_path) == [started] and f"started {started + 1}" not in events


def test_no_time_is_told_of_a_run_of_short_steps(toy, tmp_path):
    """Which have little to do with their arithmetic: a run of minutes would be said to take a second."""
    _, said = quietly(tiny(steps=2), tmp_path)
    assert "2 steps to do." in next(text for text in said if text.startswith("One step"))
    assert not any("or more" in text for text in said)


@pytest.mark.parametrize("interrupt", [crash, ask_to_stop])
@pytest.mark.parametrize("evaluation, step", [(1, 4), (2, 6)])  # on the way, and at the end
def test_an_evaluation_that_was_cut_off_is_made_by_the_next_start(toy, tmp_path, interrupt, evaluation, step):
    config = tiny(steps=6, log_every=2, checkpoint_every=2, eval_every=4, ema=0.9)
    wanted, _ = quietly(config, tmp_path / "straight")
    calls, original = [], streams.evaluation_batches

    def batches(*arguments):
        calls.append(arguments)
        if len(calls) == evaluation:
            interrupt()
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(streams, "evaluation_batches", batches)
        quietly(config, tmp_path / "parts")
    assert len(calls) == evaluation and saved_steps(tmp_path / "parts")[-1] == step
    got, said = quietly(config, tmp_path / "parts")
    assert got == wanted and said[-1].endswith("6 steps done")
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 6)
    assert [line["step"] for line in logged(tmp_path / "parts") if "validation/w" in line] == [4, 6]
    assert quietly(config, tmp_path / "parts")[0] == {}  # all was done


def test_signals_are_the_systems_again_afterwards(toy, tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    quietly(tiny(steps=1), tmp_path)
    assert before == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]


def test_max_minutes_stops_and_saves(toy, tmp_path):
    config = tiny(steps=5, max_minutes=1e-6)
    for step in (1, 2):
        _, said = quietly(config, tmp_path)
        assert f"stopped by config.max_minutes=1e-06 at step {step}" in said[-1]
        assert saved_steps(tmp_path)[-1] == step
    config.max_minutes = 0.0
    _, said = quietly(config, tmp_path)
    assert saved_steps(tmp_path)[-1] == 5 and said[-1].endswith("5 steps done")


def test_little_time_at_once_is_enough_in_the_end(toy, tmp_path):
    config = tiny(steps=4, checkpoint_every=2, eval_every=2, max_minutes=1e-6)
    for _ in range(5):  # a step each; evaluations are made by the next start, the last by one of its own
        summary, said = quietly(config, tmp_path)
    assert said[-1].endswith("4 steps done") and summary
    assert [line["step"] for line in logged(tmp_path) if "validation/w" in line] == [2, 4]


def test_damaged_checkpoint_is_told_and_the_one_before_goes_on(toy, tmp_path):
    config = tiny(steps=8, checkpoint_every=4)
    quietly(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    newest = tmp_path / "run" / "checkpoints" / "8"
    for path in (newest / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Scores are of the newest or of none.
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/8: cannot be read.*\n?.*") as error:
        evaluate.evaluate(config, str(tmp_path / "run"), lambda _: None)
    assert "remove that folder to go on from the one before" in str(error.value)
    _, said = quietly(config, tmp_path / "run")
    assert f"{newest}: cannot be read" in said[0] and "left out; the one before is of step 4" in said[0]
    assert said[1] == f"{tmp_path / 'run'}: going on from step 4"
    assert_same_run(tmp_path / "whole", tmp_path / "run", 8)
    assert [path.name for path in (tmp_path / "run" / "damaged").iterdir()] == ["8"]
    evaluate.evaluate(config, str(tmp_path / "run"), lambda _: None)


ODD_FACTS = {"a list": "[]", "time": '{"commit_timestamp_nsecs": "now"}'}


@pytest.mark.parametrize("facts", [*ODD_FACTS.values(), "[" * 50_000], ids=[*ODD_FACTS, "too deep"])
def test_facts_of_another_shape_are_damage(toy, tmp_path, facts):
    """Of what Orbax reads of every checkpoint when it opens their folder."""
    config, run = tiny(steps=8, checkpoint_every=4), tmp_path / "run"
    quietly(config, run)
    shutil.copytree(run, tmp_path / "whole")
    newest = run / "checkpoints" / "8"
    (newest / "_CHECKPOINT_METADATA").write_text(facts)
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/8: cannot be read as a checkpoint"):
        evaluate.evaluate(config, str(run), lambda _: None)
    assert saved_steps(run) == [4, 8]
    _, said = quietly(config, run)
    assert f"{newest}: cannot be read" in said[0] and "left out; the one before is of step 4" in said[0]
    assert said[1] == f"{run}: going on from step 4"
    assert_same_run(tmp_path / "whole", run, 8)
    assert [path.name for path in (run / "damaged").iterdir()] == ["8"]


def test_an_older_checkpoint_of_odd_facts_does_not_hold_up_the_newest(toy, tmp_path):
    quietly(tiny(steps=8, checkpoint_every=4), tmp_path)
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("[]")
    _, said = quietly(tiny(steps=8, checkpoint_every=4), tmp_path)
    assert "checkpoints/4: cannot be read" in said[0] and said[0].endswith("Damaged, so it is left out.")
    assert said[1].endswith("going on from step 8") and saved_steps(tmp_path) == [8]


def test_checkpoints_without_their_config_are_refused(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="has checkpoints but no config.json.*--workdir$"):
        quietly(tiny(steps=2, seed=1), tmp_path)
    assert saved_steps(tmp_path) == [2] and not (tmp_path / "config.json").exists()


def test_the_only_checkpoint_is_not_passed_over(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    for name, content in (("position/metadata", "{}"), ("_CHECKPOINT_METADATA", "[]")):
        (tmp_path / "checkpoints" / "2" / name).write_text(content)
        with pytest.raises(checkpoints.CheckpointError, match="checkpoints/2: cannot be read"):
            quietly(tiny(steps=2), tmp_path)
    assert saved_steps(tmp_path) == [2] and not (tmp_path / "damaged").exists()


PASSING = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "memory": MemoryError("no more"),
    "bucket": ValueError("UNAVAILABLE: no answer"),
    # As TensorStore says it.
    "reading": ValueError("UNKNOWN: Failed to read from file [os_error_code='5'] [source locations='file_util.cc:1']"),
}


@pytest.mark.parametrize("at", ["arrays", "metadata"])
@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_no_damage(toy, tmp_path, monkeypatch, error, at):
    config = tiny(steps=4, checkpoint_every=2)
    quietly(config, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    kind = {"arrays": ocp.handlers.PyTreeCheckpointHandler, "metadata": ocp.PyTreeCheckpointHandler}[at]
    name = {"arrays": "restore", "metadata": "metadata"}[at]
    original = getattr(kind, name)

    def spoilt(self, directory, *arguments, **options):
        if directory.parent.name == "4":
            raise ValueError("somewhere in Orbax") from error
        return original(self, directory, *arguments, **options)

    monkeypatch.setattr(kind, name, spoilt)
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/4: cannot be read now: somewhere in Orbax\nTry"):
        quietly(config, tmp_path)
    assert before == {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("age", ["none", "without stages"])
def test_runs_of_before_the_watch_go_on(toy, tmp_path, age):
    config = tiny(steps=4, checkpoint_every=2, log_every=2)
    quietly(config, tmp_path / "run")
    task, optimizer = experiment.create_task(config), train.make_optimizer(config)
    like = train.init_state(task, optimizer, config, scenes("train", (0, 1)))
    with checkpoints.Checkpoints(str(tmp_path / "run")) as saved:
        _, state, position = saved.restore(like, last=2)
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "checkpoints")
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    watch = fields.pop("watch")
    if age == "without stages":
        names = [field.name for field in dataclasses.fields(watch) if field.name != "stage"]
        fields["watch"] = {name: getattr(watch, name) for name in names}
    with checkpoints.Checkpoints(str(tmp_path / "old")) as saved:
        saved.save(2, fields, position)
    _, said = quietly(config, tmp_path / "old")
    assert said[0].endswith("going on from step 2")
    one, other = saved_state(tmp_path / "run", 4), saved_state(tmp_path / "old", 4)
    assert one.keys() == other.keys()
    for name in one:
        if "watch" not in name:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert other["['watch']['seen']"] == 2 and one["['watch']['seen']"] == 4


def test_a_workdir_is_of_one_run_at_a_time(toy, tmp_path):
    with checkpoints.owned(str(tmp_path)):
        with pytest.raises(checkpoints.CheckpointError, match=f"another run is in there .process {os.getpid()} on"):
            quietly(tiny(steps=1), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    quietly(tiny(steps=1), tmp_path)
    said = []
    with checkpoints.owned("gs://bucket/run", said.append):
        assert "no locks there" in said[0]


def test_workdir_belongs_to_one_config(toy, tmp_path):
    config = tiny(steps=2)
    quietly(config, tmp_path)
    other = tiny(steps=2, seed=5)
    other.optimizer.learning_rate = 0.125
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(other, tmp_path)
    text = str(error.value)
    assert "  optimizer.learning_rate: 0.02 there, 0.125 now" in text and "  seed: 0 there, 5 now" in text
    assert text.count(" there, ") == 2 and "another --workdir" in text
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    free = {"max_minutes": 9.0, "eval_every": 1, "eval_frames": 1, "test_frames": 1, "pictures": 0}
    quietly(tiny(steps=2, checkpoint_every=1, **free), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(checkpoints.CheckpointError, match="config.json: is no config as JSON"):
        quietly(config, tmp_path)


def test_a_run_of_constant_learning_rate_may_become_longer_or_shorter(toy, tmp_path):
    toy(noise=1.0)

    def config(steps):
        config = tiny(steps=steps, checkpoint_every=100, ema=0.9)
        config.optimizer.schedule = "constant"
        return config

    quietly(config(6), tmp_path / "straight")
    for steps in (2, 6):
        summary, said = quietly(config(steps), tmp_path / "parts")
        assert said[-1] == f"{tmp_path / 'parts'}: {steps} steps done" and summary
    one, other = saved_state(tmp_path / "straight", 6), saved_state(tmp_path / "parts", 6)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    _, said = quietly(config(4), tmp_path / "parts")
    assert said[-1] == f"{tmp_path / 'parts'}: 6 steps done" and saved_steps(tmp_path / "parts") == [2, 6]


def test_where_the_learning_rate_follows_the_length_it_is_told(toy, tmp_path):
    quietly(tiny(steps=2), tmp_path)
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(tiny(steps=3), tmp_path)
    assert "  steps: 2 there, 3 now\n" in str(error.value)
    assert "falls over the whole run (config.optimizer.schedule=cosine)" in str(error.value)
    with pytest.raises(checkpoints.CheckpointError) as error:
        quietly(tiny(steps=2, seed=3), tmp_path)
    assert "schedule" not in str(error.value)


def test_what_changes_no_number_is_free(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    for field, value in (("quiet", False), ("keep_checkpoints", 5), ("data.dir", "/elsewhere")):
        other = tiny(steps=1)
        other.update_from_flattened_dict({field: value})
        checkpoints.claim(str(tmp_path), other)


def test_whom_a_run_names_is_free(toy, tmp_path):
    """Of a section that is free, each field."""
    quietly(tiny(steps=1, people={"min_score": 0.2, "overlap": 0.1}), tmp_path)
    other = tiny(steps=1, people={"min_score": 0.4, "overlap": 0.0})
    checkpoints.check(str(tmp_path), other)
    assert evaluate.evaluate(other, str(tmp_path), lambda _: None)["step"] == 1


def test_runs_of_before_a_field_go_on_and_are_scored(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in checkpoints.LATER_FIELDS:
        config.pop(name, None)
    del config["data"]["crowd"], config["data"]["render_batch"]
    path.write_text(json.dumps(config))
    assert evaluate.evaluate(tiny(), str(tmp_path), lambda _: None)["step"] == 1
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.check(str(tmp_path), tiny(steps=1, init="elsewhere"))
    told = [line.split(":")[0].strip() for line in str(error.value).splitlines() if " there, " in line]
    crowd = [f"data.crowd.{name}_people" for name in ("mean", "min", "most")]
    assert told == [*crowd, "data.render_batch", "init"]  # of before the others, runs are only scored
    config["data"].update(tiny().data.to_dict())
    path.write_text(json.dumps(config))
    checkpoints.check(str(tmp_path), tiny(steps=1))


def test_later_fields_change_nothing_by_default():
    for config in (vha_config.get_config(2), refiner_config.get_config()):
        flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
        for name, value in checkpoints.LATER_FIELDS.items():
            assert flat.get(name, value) == value, name


def test_workdir_without_checkpoints_takes_any_config(tmp_path):
    checkpoints.claim(str(tmp_path), tiny())
    checkpoints.claim(str(tmp_path), tiny(seed=3))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


def test_numbers_that_cannot_be_are_told(toy, tmp_path):
    for name in ("steps", "log_every", "checkpoint_every", "eval_frames", "test_frames"):
        with pytest.raises(ValueError, match=f"config.{name}=0 must be at least 1"):
            quietly(tiny(**{name: 0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_a_log_line_is_no_obstacle(toy, tmp_path):
    """As a full disk or a cut of the power leaves it."""
    config = tiny(steps=2, log_every=1)
    quietly(config, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    quietly(config, tmp_path)
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 2]


def test_what_a_batch_does_not_log_stays_as_it_was(toy):
    config = tiny()
    task, optimizer = experiment.create_task(config), train.make_optimizer(config)
    state = train.init_state(task, optimizer, config, scenes("train", (0, 1)))
    state = state.replace(sums={**state.sums, "seldom": jnp.float32(3)})
    after, loss = train.step_of(config, task, optimizer)(state, scenes("train", (0, 1)), stage=0)
    assert after.sums["seldom"] == 3 and after.sums["loss"] == loss


# ---- What may go wrong


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(toy, tmp_path, monkeypatch):
    import optax

    # The 7th update is infinite, though the loss before it is not.
    bad = optax.sgd(lambda count: jnp.where(count < 6, 0.01, jnp.inf))
    good = train.make_optimizer
    monkeypatch.setattr(train, "make_optimizer", lambda config: bad)
    config = tiny(steps=30, log_every=20, checkpoint_every=4, optimizer={"max_skipped": 0})
    with pytest.raises(train.TrainingError, match="not finite at step 7; the checkpoint of step 4 is intact"):
        quietly(config, tmp_path)
    assert saved_steps(tmp_path) == [4]
    state = saved_state(tmp_path, 4)
    assert all(np.isfinite(x).all() for x in state.values()) and state["['step']"] == 4
    monkeypatch.setattr(train, "make_optimizer", lambda config: optax.sgd(jnp.nan))
    text = r"not finite at step 3 and the 2 before it .*; nothing was saved before\. --mode=replay --step=1 shows"
    with pytest.raises(train.TrainingError, match=text):
        quietly(tiny(steps=30, log_every=5, optimizer={"max_skipped": 2}), tmp_path / "other")
    monkeypatch.setattr(train, "make_optimizer", good)


def test_transfers_that_nobody_asked_for_are_refused(toy, tmp_path, monkeypatch):
    original = streams.CrowdStream.__next__
    monkeypatch.setattr(streams.CrowdStream, "__next__", lambda self: jax.tree.map(np.asarray, original(self)))
    with pytest.raises(Exception, match="[Dd]isallowed host-to-device transfer"):
        quietly(tiny(steps=3), tmp_path)


def test_bad_configs_leave_nothing_behind(tmp_path):
    for field, value, wanted in (
        ("task", "nothing", "config.task='nothing'; there are vha"),
        ("scale", "huge", "config.scale='huge'; there are full, demo"),
        ("model.variant", "none", "config.model.variant='none'; there are published, patch"),
        ("model.dtype", "int8", "config.model.dtype='int8'; there are float32, bfloat16"),
        ("model.volume_dtype", "int8", "config.model.volume_dtype='int8'; there are float32, bfloat16"),
        (
            "model.pad_channels",
            True,
            "config.model.pad_channels=True is for config.model.variant=published; have patch",
        ),
        ("data.source", "coco", "config.data.source='coco'; there are crowd, jta"),
        ("data.render_batch", 0, "config.data.render_batch=0 must be at least 1"),
        ("data.source", "jta", "config.data.source=jta needs --config.data.dir"),
        ("mesh.rows", 0, "config.mesh.rows=0 must be 1 or more"),
    ):
        config = tiny()
        config.update_from_flattened_dict({field: value})
        with pytest.raises(ValueError, match=wanted):
            quietly(config, tmp_path / "run")
    config = tiny(data={"source": "jta", "dir": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="python -m loco_jax.data.jta"):
        quietly(config, tmp_path / "run")
    for config in (refiner_config.get_config(), trunk_config.get_config()):
        config.mesh.rows = 2
        with pytest.raises(ValueError, match="config.mesh.rows=2 must be .* 1 for a task without volumes"):
            quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- Compilation

COMPILATION = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """Grows with each compilation while the test runs."""
    counted, listening = [], True

    def listen(event, duration, **details):
        if listening and event == COMPILATION:
            counted.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    listening = False


def test_nothing_is_compiled_after_the_first_of_each(toy, tmp_path, monkeypatch, compilations):
    at_batches = []
    original = streams.CrowdStream.__next__

    def following(self):
        at_batches.append(len(compilations))
        return original(self)

    monkeypatch.setattr(streams.CrowdStream, "__next__", following)
    # The first checkpoint and the first evaluation are after step 6.
    quietly(tiny(steps=18, log_every=2, checkpoint_every=6, eval_every=6, eval_frames=1), tmp_path)
    training = at_batches[:6]
    assert len(at_batches) == 18 + 3 and training[0] > 0
    assert training[1] == training[5], compilations[training[1] :]  # logs of steps 2 and 4 included
    assert at_batches[7] == len(compilations), compilations[at_batches[7] :]


# ---- Evaluation


def test_evaluation_of_a_run(toy, tmp_path):
    config = tiny(steps=3, ema=0.5)
    quietly(config, tmp_path)
    said = []
    summary = evaluate.evaluate(config, str(tmp_path), said.append)
    out = tmp_path / "eval"
    assert sorted(path.name for path in out.iterdir()) == ["frame_0.png", "frame_1.png", "results.json", "table.md"]
    assert all((out / f"frame_{i}.png").read_bytes().startswith(b"\x89PNG") for i in range(2))
    assert json.loads((out / "results.json").read_text()) == summary
    assert (out / "table.md").read_text() == "| 5 |\n" and "| 5 |" in said
    # The first frames of the test split, once each and in order, with the averaged parameters.
    np.testing.assert_allclose(summary["marks"], scenes("test", range(5)).joints[:, 0, 0, 0], rtol=1e-6)
    assert summary["w"] == [pytest.approx(saved_state(tmp_path, 3)["['ema']['w']"][0, 0])]
    assert summary["step"] == 3 and "crowd" in summary["data"]
    # The validation split's scores stand beside those of the test split.
    other = evaluate.evaluate(config, str(tmp_path), said.append, split="validation")
    np.testing.assert_allclose(other["marks"], scenes("validation", range(5)).joints[:, 0, 0, 0], rtol=1e-6)
    assert json.loads((tmp_path / "eval_validation" / "results.json").read_text()) == other
    assert json.loads((out / "results.json").read_text()) == summary and "validation split" in other["data"]
    # What only training reads need not be said again, and nothing else may differ.
    assert evaluate.evaluate(tiny(seed=1, optimizer={"learning_rate": 9.0}), str(tmp_path), said.append) == summary
    with pytest.raises(checkpoints.CheckpointError, match="volume.depth_bins: .* there, 33 now"):
        evaluate.evaluate(tiny(volume={"depth_bins": 33}), str(tmp_path))


def test_evaluation_without_a_run(toy, tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no run here; train first, or give the right --workdir"):
        evaluate.evaluate(tiny(), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    checkpoints.claim(str(tmp_path / "begun"), tiny())
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here; train first"):
        evaluate.evaluate(tiny(), str(tmp_path / "begun"))


def test_evaluation_leaves_a_save_under_way_alone(toy, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    under_way = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp" / "state"
    under_way.mkdir(parents=True)
    evaluate.evaluate(tiny(steps=1), str(tmp_path), lambda _: None)
    assert under_way.exists()


@pytest.mark.parametrize("num_frames, wanted", [(1, 1), (7, 7), (90, 90), (200, 90)])
def test_evaluation_reads_each_frame_of_jta_once(toy, small_jta, num_frames, wanted):
    config = tiny(data={"source": "jta", "dir": str(small_jta), "max_people": 4})
    evaluator = evaluate.Evaluator(Mean(), config, distributed.make_mesh(1), "test")
    summary = evaluator.run({"w": jnp.zeros((14, 3))}, num_frames)
    marks = 2 + np.array([i * 90 // wanted for i in range(wanted)]) / 100  # evenly spread
    np.testing.assert_allclose(summary["marks"], marks, rtol=1e-6)


def test_parameters_or_their_average(tmp_path):
    place = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec())
    state = train.TrainState(
        step=jnp.int32(4),
        params={"w": jnp.arange(3.0)},
        opt_state=(jnp.ones(2),),
        ema={"w": jnp.arange(3.0) + 10},
        sums={"loss": jnp.float32(1)},
        bad_step=jnp.int32(0),
    )
    like = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        assert saved.latest is None
        with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here"):
            saved.restore(state)
        saved.save(4, jax.device_put(state, place), {"data": [1, {"a": None}]})
        saved.save(4, state.replace(params={"w": jnp.zeros(3)}), {})  # what is saved stays
        saved.wait()
        assert saved.latest == 4
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        for averaged, wanted in ((False, [0, 1, 2]), (True, [10, 11, 12])):
            step, params = saved.restore_params(like, averaged)
            assert step == 4 and params["w"].tolist() == wanted
    with checkpoints.Checkpoints(str(tmp_path)) as saved:
        step, again, position = saved.restore(jax.eval_shape(lambda: state))
        assert position == {"data": [1, {"a": None}]}
        assert jax.tree.structure(again) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state)):
            np.testing.assert_array_equal(a, b)
        with pytest.raises(checkpoints.CheckpointError, match="cannot be read as a checkpoint of this config"):
            saved.restore(state.replace(params={"w": jnp.zeros(4)}))


def test_pictures_of_the_best_and_the_worst(toy, tmp_path, monkeypatch):
    config = tiny(steps=3, test_frames=9)
    quietly(config, tmp_path)
    titles = []

    def picture(self, predicted, frames, index, title):
        titles.append((title, float(predicted["joints"][index, 0, 0, 0])))
        return Figure()

    monkeypatch.setattr(Mean, "ranked_by", "the mark", raising=False)
    monkeypatch.setattr(Mean, "rank", lambda self, record: record[0], raising=False)
    monkeypatch.setattr(Mean, "picture", picture)
    summary = evaluate.evaluate(config, str(tmp_path), lambda _: None)
    names = ("best", "upper_quartile", "median", "lower_quartile", "worst")
    assert {path.name for path in (tmp_path / "eval").glob("*.png")} == {f"{name}.png" for name in names}
    ordered = sorted(summary["marks"], reverse=True)
    wanted = {}
    for name, mark in zip(names, ordered[::2]):
        frame = summary["marks"].index(mark)
        wanted[f"test frame {frame}, {name.replace('_', ' ')} of 9: the mark is {mark:.3f}"] = mark
    assert dict(titles) == pytest.approx(wanted) and len(titles) == 5


# ---- The real task: training, resuming, scoring, in this process


def test_patch_network_learns_and_resumes_exactly(tmp_path):
    config = tiny(steps=40, log_every=7, checkpoint_every=20, ema=0.9)
    # The checkpoint of step 20 is between two orthogonalisations.
    config.optimizer.update({"name": "muon", "learning_rate": 0.06, "warmup": 3, "orthogonalise_every": 3})
    quietly(config, tmp_path / "straight")
    losses = [line["loss"] for line in logged(tmp_path / "straight") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    with at_batch(31, crash), pytest.raises(Crash):
        quietly(config, tmp_path / "parts")
    quietly(config, tmp_path / "parts")
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 40)
    summary = evaluate.evaluate(config, str(tmp_path / "parts"), lambda _: None)
    assert summary["network"] == "PatchVHA(1)" and summary["frames"] == 5
    assert (tmp_path / "parts" / "eval" / "frame_1.png").exists()
    assert "| poster: VHA(1)" in (tmp_path / "parts" / "eval" / "table.md").read_text()


# ---- Other processes


def python(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main(*arguments: str, **environment: str) -> subprocess.Popen:
    return python("-m", "loco_jax.main", *arguments, **environment)


def test_sigterm_saves_and_the_same_command_goes_on(small_jta, tmp_path):
    command = [
        "--config=configs/vha1.py:variant=patch,scale=demo",
        f"--workdir={tmp_path}",
        "--config.volume.stride=32",
        "--config.volume.depth_bins=16",
        "--config.model.width=12",
        "--config.model.blocks=1",
        "--config.data.source=jta",
        f"--config.data.dir={small_jta}",
        "--config.steps=1000000",
        "--config.log_every=3",
        "--config.checkpoint_every=1000000",
        "--config.eval_every=0",
        "--config.quiet=true",
    ]
    log = tmp_path / "log.jsonl"
    process = main(*command)
    deadline = time.monotonic() + 240
    while process.poll() is None and not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):  # as some launchers do
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    (step,) = saved_steps(tmp_path)
    assert f"stopped by SIGTERM at step {step}, which is saved; the same command goes on from there" in said
    again = main(*command, "--config.max_minutes=0.0001")
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert f"going on from step {step}" in said and saved_steps(tmp_path) == [step, step + 1]
    assert logged(tmp_path)[-1]["step"] in range(step - 2, step + 2)


def test_bad_input_is_one_line_and_no_traceback(tmp_path):
    commands = {
        "loco_jax: config.optimizer.name='sgd'; there are adam, muon": [
            "--config=configs/vha2.py:scale=demo",
            "--config.optimizer.name=sgd",
            f"--workdir={tmp_path}/new",
        ],
        f"loco_jax: {tmp_path}/none: no run here; train first, or give the right --workdir": [
            "--config=configs/vha2.py",
            "--mode=eval",
            f"--workdir={tmp_path}/none",
        ],
    }
    processes = [main(*arguments) for arguments in commands.values()]
    for wanted, process in zip(commands, processes):
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 1
        assert said.splitlines() == [wanted]
    assert not list(tmp_path.iterdir())


def test_bad_flags_have_no_traceback(tmp_path):
    commands = (
        ["--config=configs/vha2.py:scale=huge"],
        ["--config=configs/nothing.py"],
        ["--config=configs/vha2.py", "--config.nothing=1"],
    )
    processes = [main(*arguments, f"--workdir={tmp_path}/new") for arguments in commands]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode for process in processes)
    assert "scale=full|demo" in said[0] and "nothing" in said[1] and "nothing" in said[2]
    assert not any("Traceback" in text for text in said)


DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from loco_jax import experiment, train
from loco_jax.ops import distributed
from loco_jax.data import streams
from tests import test_train
from tests.test_train import Mean, pathlib, saved_state, several_devices

folder = pathlib.Path(sys.argv[1])
streams.crowd_frame = test_train.toy_frame
create = experiment.create_task
experiment.create_task = lambda config: Mean(noise=1.0)
train.train(several_devices(6, max_minutes=1e-6), folder / "begun", print)
train.train(several_devices(6), folder / "six", print)
experiment.create_task = create
for count in (8, 1):
    if count == 1:
        distributed.make_mesh = lambda size, rows=1: Mesh(np.array(jax.devices()[:1]), ("batch",))
    summary = train.train(several_devices(8), folder / str(count), print)
    (folder / f"{count}.json").write_text(json.dumps(summary))
    np.savez(folder / f"{count}.npz", **saved_state(folder / str(count), 3))
"""


def several_devices(batch_size: int, **changes):
    return tiny(steps=3, log_every=1, eval_frames=11, data={"batch_size": batch_size}, **changes)


def assert_close_logs(one, other) -> None:
    for a, b in zip(logged(one), logged(other), strict=True):
        for name in a.keys() - TIMINGS:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), name


def test_eight_devices_are_as_one(toy, tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    process = python("-c", DEVICES, str(tmp_path), XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert_close_logs(tmp_path / "8", tmp_path / "1")
    with np.load(tmp_path / "8.npz") as eight, np.load(tmp_path / "1.npz") as one:
        assert sorted(eight) == sorted(one)
        for name in eight:
            # Where a gradient is next to nothing, Adam makes much of its rounding: a step each at most.
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-3, atol=3 * 0.02, err_msg=name)
            assert np.isclose(eight[name], one[name], rtol=1e-3, atol=1e-5).mean() > 0.995, name
    eight, one = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (8, 1))
    assert eight["frames"] == one["frames"] == 11 and eight["scores"] == one["scores"]
    # A batch of 6 leaves two devices idle. What 6 devices began or finished, the one of this process takes over.
    assert said.count("Using 6 of 8 devices, since config.data.batch_size=6; a multiple of 8 uses all") == 2
    toy(noise=1.0)
    summary = evaluate.evaluate(several_devices(6), str(tmp_path / "six"), lambda _: None)
    np.testing.assert_allclose(summary["marks"], scenes("test", range(5)).joints[:, 0, 0, 0], rtol=1e-6)
    _, said = quietly(several_devices(6), tmp_path / "begun")
    assert f"{tmp_path / 'begun'}: going on from step 1" in said
    assert_close_logs(tmp_path / "six", tmp_path / "begun")
