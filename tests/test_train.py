"""The loop against Adam written out in NumPy, exact resume after crashes and signals, and what may go wrong.

Most runs are of a toy task on toy frames, which compile quickly; the loop does not see the difference.
"""

import contextlib
import hashlib
import json
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from loco_jax import evaluate, train
from loco_jax import step as steps
from loco_jax.configs import refiner as refiner_config
from loco_jax.configs import trunk as trunk_config
from loco_jax.data import sources, streams
from loco_jax.runs.ending import Stopped, TrainingError
from tests.support import (
    TIMINGS,
    Crash,
    Mean,
    ask_to_stop,
    assert_same_run,
    at_batch,
    crash,
    devices,
    logged,
    python,
    quietly,
    saved_state,
    saved_steps,
    scenes,
    tiny,
    train_by_hand,
)

pytestmark = pytest.mark.usefixtures("toy_frames")


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
        assert state["['step']"] == step
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


def test_input_that_holds_the_devices_back_is_logged(toy, jta_with_pictures, tmp_path, monkeypatch):
    config = tiny(steps=12, log_every=4, ema=0.0)
    data = {"source": "jta", "dir": str(jta_with_pictures[0] / "data"), "pictures": True, "max_people": 8}
    config.data.update({**data, "train_split": "train"})
    read = streams.ReadStream.__next__

    def slowly(stream):
        time.sleep(0.05)
        return read(stream)

    monkeypatch.setattr(streams.ReadStream, "__next__", slowly)
    quietly(config, tmp_path)
    shares = [line["input_wait"] for line in logged(tmp_path) if "input_wait" in line]
    assert len(shares) == 3 and all(0.3 < share <= 1 for share in shares[1:])


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


@pytest.mark.parametrize("is_long, started", [(True, 3), (False, 5)], ids=["long steps", "short steps"])
def test_a_signal_is_acknowledged_at_once_and_ends_a_run_of_long_steps_after_the_one_under_way(
    toy, tmp_path, monkeypatch, own_sigterm, is_long, started
):
    """The signal comes while step 3 is waited for, in code that Python cannot interrupt."""
    monkeypatch.setattr(train, "_LONG_STEP", -1.0 if is_long else 1e6)
    events, compile_step = [], steps.compile_step

    class Loss:
        def __init__(self, step):
            self.step = step

        def is_ready(self):
            return False

        def __float__(self):
            if self.step == 3:
                ask_to_stop_from_a_thread()
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
            events.append(f"waited for {self.step}")
            return 1.0

    def ask_to_stop_from_a_thread():
        threading.Thread(target=lambda: (time.sleep(0.05), ask_to_stop())).start()

    def compile_odd_step(*arguments):
        do_step, numbers = compile_step(*arguments), iter(range(1, 100))

        def start(state, frames):
            events.append(f"started {(number := next(numbers))}")
            state, scalars = do_step(state, frames)
            return state, {**scalars, "loss": Loss(number)}

        return start

    monkeypatch.setattr(steps, "compile_step", compile_odd_step)
    with pytest.raises(Stopped, match=f"stopped by SIGTERM at step {started}"):
        train.train(tiny(steps=50), str(tmp_path), events.append)
    said = "SIGTERM: the step under way is finished and saved, then this ends"
    assert events.count(said) == 1 and events.index(said) < events.index("waited for 3")
    assert saved_steps(tmp_path) == [started] and f"started {started + 1}" not in events


def test_no_time_is_told_of_a_run_of_short_steps(toy, tmp_path):
    _, said = quietly(tiny(steps=2), tmp_path)
    assert not any("The first step took" in text for text in said)


def test_the_time_of_a_long_step_is_told_once(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_LONG_STEP", -1.0)
    _, said = quietly(tiny(steps=3), tmp_path)
    assert sum(text.startswith("The first step took ") for text in said) == 1


@pytest.mark.parametrize("interrupt", [crash, ask_to_stop])
@pytest.mark.parametrize("evaluation, step", [(1, 4), (2, 6)])  # on the way, and at the end
def test_an_evaluation_that_was_cut_off_is_made_by_the_next_start(toy, tmp_path, interrupt, evaluation, step):
    config = tiny(steps=6, log_every=2, checkpoint_every=2, eval_every=4, ema=0.9)
    wanted, _ = quietly(config, tmp_path / "straight")
    calls, original = [], sources.CrowdData.evaluation_batches

    def batches(*arguments):
        calls.append(arguments)
        if len(calls) == evaluation:
            interrupt()
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(sources.CrowdData, "evaluation_batches", batches)
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


def test_numbers_that_cannot_be_are_told(toy, tmp_path):
    for name in ("steps", "log_every", "checkpoint_every", "eval_frames", "test_frames"):
        with pytest.raises(ValueError, match=f"config.{name}=0 must be at least 1"):
            quietly(tiny(**{name: 0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(toy, tmp_path, monkeypatch):
    # The 7th update is infinite, though the loss before it is not.
    bad = optax.sgd(lambda count: jnp.where(count < 6, 0.01, jnp.inf))
    monkeypatch.setattr(steps, "make_optimizer", lambda config: bad)
    config = tiny(steps=30, log_every=20, checkpoint_every=4, optimizer={"max_skipped": 0})
    with pytest.raises(TrainingError, match="not finite at step 7; the checkpoint of step 4 is intact"):
        quietly(config, tmp_path)
    assert saved_steps(tmp_path) == [4]
    state = saved_state(tmp_path, 4)
    assert all(np.isfinite(x).all() for x in state.values()) and state["['step']"] == 4
    monkeypatch.setattr(steps, "make_optimizer", lambda config: optax.sgd(jnp.nan))
    text = r"not finite at step 3 and the 2 before it .*; nothing was saved before\. --mode=replay --step=1 shows"
    with pytest.raises(TrainingError, match=text):
        quietly(tiny(steps=30, log_every=5, optimizer={"max_skipped": 2}), tmp_path / "other")


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
        ("data.source", "coco", "config.data.source='coco'; there are crowd, jta"),
        ("data.render_batch", 0, "config.data.render_batch=0 must be at least 1"),
        ("seed", -1, "config.seed=-1 must be at least 0"),
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
        with pytest.raises(ValueError, match="config.mesh.rows=2 must be .* 1 for a task without a VHA"):
            quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def test_patch_network_learns_and_resumes_exactly(tmp_path):
    config = tiny(steps=20, log_every=4, checkpoint_every=10, ema=0.9)
    config.optimizer.update({"name": "muon", "learning_rate": 0.06, "warmup": 3})
    quietly(config, tmp_path / "straight")
    losses = [line["loss"] for line in logged(tmp_path / "straight") if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    with at_batch(16, crash), pytest.raises(Crash):
        quietly(config, tmp_path / "parts")
    quietly(config, tmp_path / "parts")
    assert_same_run(tmp_path / "straight", tmp_path / "parts", 20)
    summary = evaluate.evaluate(config, str(tmp_path / "parts"), lambda _: None)
    assert summary["network"] == "PatchVHA(1)" and summary["frames"] == 5
    assert (tmp_path / "parts" / "eval" / "frame_1.png").exists()
    assert (tmp_path / "parts" / "curves.png").exists()
    assert "| poster, JTA: VHA(1)" in (tmp_path / "parts" / "eval" / "table.md").read_text()


DEVICES = """
import json, pathlib, sys
import jax, numpy as np
from jax.sharding import Mesh
from loco_jax import experiment, tasks, train
from loco_jax.ops import distributed
from loco_jax.data import streams
from tests import support
from tests.support import Mean, saved_state
from tests.test_train import several_devices

folder = pathlib.Path(sys.argv[1])
streams.crowd_frame, train._curves = support.toy_frame, support.blank
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
    process = python("-c", DEVICES, str(tmp_path), **devices(8))
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
