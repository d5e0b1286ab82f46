"""The training command: signals, and errors in one line."""

import signal
import time

from tests.support import logged, main, saved_steps


def test_sigterm_saves_and_the_same_command_goes_on(small_jta, tmp_path):
    command = [
        "--config=configs/refiner.py:scale=demo",
        f"--workdir={tmp_path}",
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
