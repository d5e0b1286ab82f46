"""The scripts in `launch/`: what they start, whom they pass signals on to, and with which status they end.

Nothing is trained: what they start (srun, gcloud, python, …) are stubs, bash scripts that say what was asked of them.
"""

import functools
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
import yaml

from tests.support import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
STOPPED = os.EX_TEMPFAIL  # what loco_jax.main ends with after a signal and a checkpoint
TRAINS = "for _ in {1..400}; do sleep 0.05; done; exit 9"  # until a signal comes


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    subprocess.run(["shellcheck", script], check=True)


def write_script(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def start(script: str, *arguments: str, **environment: object) -> subprocess.Popen:
    return subprocess.Popen(
        # A shell cannot trap what is ignored where it starts, as SIGINT is in the background of another shell.
        ["env", "--default-signal=INT", ROOT / "launch" / script, *arguments],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    """What it and all that it started said, when all of them have ended."""
    try:
        return process.communicate(timeout=30)[0]
    finally:
        process.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- Dry runs, and what is missing


def dry_run(script: str, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        [ROOT / "launch" / script, "--dry-run", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_dry_runs_say_what_they_would_do():
    said = dry_run("local.sh", "2", "--", "--config=a b").splitlines()
    assert len(said) == 2 and said[1].endswith(r"--num_processes=2 --process_id=1 --config=a\ b &")
    said = dry_run("slurm.sh", "--config=a")
    assert "--signal=B:USR1@180" in said and "-m loco_jax.main --config=a" in said
    said = dry_run("tpu_pod.sh", "--config=a", "--workdir=gs://b/c", TPU="pod", ZONE="zone", PROJECT="project")
    copy, ssh = [line for line in said.splitlines() if line.startswith("gcloud")]
    for line in (copy, ssh):
        assert "--zone=zone --worker=all --project=project" in line
    assert "--coordinator=auto" in ssh and "--workdir=gs://b/c" in ssh


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_scripts_say_how_they_are_called(script, flag):
    """In the words of the comment at their top; they start nothing, whatever they want otherwise."""
    done = subprocess.run(
        [ROOT / "launch" / script, flag], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    lines = (ROOT / "launch" / script).read_text().splitlines()
    comment = [
        line for line in lines[1 : lines.index("set -euo pipefail")] if not re.match("#SBATCH|# shellcheck", line)
    ]
    assert all(line.startswith("#") and len(line) <= 120 for line in comment)
    assert done.stdout.splitlines() == [line[2:] for line in comment] and done.stderr == ""
    assert f"launch/{script} " in done.stdout


@pytest.mark.parametrize(
    "script, environment, workdir",
    [
        ("jobset.sh", {"IMAGE": "image", "NODES": "3", "GPUS": "4"}, []),
        ("jobset.sh", {"IMAGE": "image", "NODES": "3", "GPUS": "4"}, ["--workdir=runs/a"]),
        ("tpu_pod.sh", {"TPU": "pod", "ZONE": "zone"}, []),
        ("tpu_pod.sh", {"TPU": "pod", "ZONE": "zone"}, ["--workdir=/home/a"]),
    ],
)
def test_where_machines_go_away_a_lasting_workdir_is_wanted(script, environment, workdir):
    launcher = start(script, "--dry-run", "--config=a", *workdir, **environment)
    said = end(launcher)
    assert launcher.returncode == 2 and f"launch/{script}: want --workdir=gs://BUCKET/..." in said, said


def manifest(*arguments: str) -> dict:
    said = dry_run("jobset.sh", *arguments, IMAGE="image", NODES="3", GPUS="4", NAME="name")
    assert "${" not in said
    return yaml.safe_load(said)["spec"]


@pytest.mark.parametrize("workdir", ["gs://b/c", "s3://b/c", "/mnt/c"])
def test_manifest_starts_what_was_asked_for(workdir):
    arguments = ["--config=a", f"--workdir={workdir}", "--config.vha=it's"]
    spec = manifest(*arguments, "--config.name=$(HOME)")
    (workers,) = spec["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 3 and job["completionMode"] == "Indexed"
    (container,) = job["template"]["spec"]["containers"]
    assert container["image"] == "image" and container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    *shell, command, name = container["command"][:4]
    # Kubernetes replaces $(NAME), and makes $$ one $.
    assert shell == ["/bin/sh", "-c"] and container["command"][4:] == [*arguments, "--config.name=$$(HOME)"]
    stub = 'python() { printf "%s\\n" "$@"; }\n' + command.removeprefix("exec ")
    environment = {"JOB_COMPLETION_INDEX": "2", "PATH": os.environ["PATH"]}
    said = subprocess.run([*shell, stub, name, "--a b"], env=environment, check=True, capture_output=True, text=True)
    # JobSet's names: JobSet, replicated job, which job of it, which pod.
    host = f"name-{workers['name']}-0-0.{spec['network']['subdomain']}"
    (port,) = container["ports"]
    assert said.stdout.splitlines() == [
        *("-m", "loco_jax.main", f"--coordinator={host}:{port['containerPort']}"),
        *("--num_processes=3", "--process_id=2", "--a b"),
    ]


def test_manifest_restarts_what_was_stopped():
    """Without counting it; failures are counted, and no pod starts again by itself."""
    spec = manifest("--config=a", "--workdir=gs://b/c")
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"] and 1 <= spec["failurePolicy"]["maxRestarts"] <= 20
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    on_exit, on_condition = job["podFailurePolicy"]["rules"]
    assert on_exit["action"] == on_condition["action"] == "FailJob"
    assert on_exit["onExitCodes"]["values"] == [STOPPED]
    assert on_exit["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert on_condition["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


# ---- Shards of predict


def test_an_indexed_job_finds_people_in_shards(tmp_path):
    arguments = ["/data/my videos", "--output=/data/it's out", "--weights=$(HOME)"]
    environment = {"IMAGE": "image&", "CLAIM": "claim", "SHARDS": "12"}
    said = dry_run("predict_job.sh", *arguments, **environment)
    assert "${" not in said
    job = yaml.safe_load(said)
    assert job["kind"] == "Job" and job["metadata"]["name"] == "loco-predict"
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 12 and spec["completionMode"] == "Indexed"
    # A bad input ends neither the other shards, nor the job while they are at work.
    assert spec["backoffLimitPerIndex"] >= 1 and "backoffLimit" not in spec and "maxFailedIndexes" not in spec
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume == {"name": mount["name"], "persistentVolumeClaim": {"claimName": "claim"}}
    assert mount["mountPath"] == "/data" and pod["restartPolicy"] == "Never" and container["image"] == "image&"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    *shell, command, name = container["command"][:4]
    assert container["command"][4:] == [*arguments[:2], "--weights=$$(HOME)"]
    stub = 'python() { printf "%s\\n" "$@"; }\n' + command.removeprefix("exec ")
    environment = {"JOB_COMPLETION_INDEX": "7", "PATH": os.environ["PATH"]}
    done = subprocess.run([*shell, stub, name, "a b"], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["-m", "loco_jax.predict", "--shard=7/12", "--resume", "--quiet", "a b"]


def test_a_job_keeps_its_results_in_its_volume():
    launcher = start("predict_job.sh", "--dry-run", "/data/a", "--output=out", IMAGE="i", CLAIM="c", SHARDS="2")
    said = end(launcher)
    assert launcher.returncode == 2 and "want --output=/data/..." in said and said.count("\n") == 1


def start_task(folder: pathlib.Path, predicts: str, **environment: object) -> subprocess.Popen:
    """A task of a SLURM array, number 3 of 5, in which the command does `predicts`."""
    write_script(folder / "python", f'echo "$@" >{folder}/arguments; {predicts}')
    write_script(folder / "scontrol", f'echo "$*" >>{folder}/calls')
    array = {"SLURM_ARRAY_JOB_ID": 7, "SLURM_ARRAY_TASK_ID": 3, "SLURM_ARRAY_TASK_COUNT": 5, **environment}
    path = f"{folder}:{os.environ['PATH']}"
    return start("predict_slurm.sh", "a b", "--output=c", PYTHON=folder / "python", PATH=path, **array)


@pytest.mark.parametrize(
    ("signals", "status", "restarts", "requeued"),
    [
        ([], 0, 0, False),
        ([], 1, 0, False),
        (["USR1"], 130, 9, True),
        (["USR1"], 143, 0, True),  # stopped while it started
        (["USR1"], 130, 10, False),
        (["USR1"], 0, 0, False),  # done in time
        (["TERM"], 130, 0, False),
    ],
)
def test_slurm_tasks_are_shards(tmp_path, signals, status, restarts, requeued):
    waits = f"trap 'sleep 0.2; exit {status}' TERM; touch {tmp_path}/ready; {TRAINS}"
    task = start_task(tmp_path, waits if signals else f"exit {status}", SLURM_RESTART_COUNT=restarts)
    if signals:
        until((tmp_path / "ready").exists)
    for name in signals:
        task.send_signal(getattr(signal, f"SIG{name}"))
    said = end(task)
    assert task.returncode == status, said
    assert (tmp_path / "arguments").read_text() == "-m loco_jax.predict --shard=3/5 --resume --quiet a b --output=c\n"
    assert (tmp_path / "calls").exists() == requeued
    assert not requeued or (tmp_path / "calls").read_text() == "requeue 7_3\n"


def test_a_slurm_task_that_does_not_stop_in_time_is_killed_and_requeued(tmp_path):
    task = start_task(tmp_path, f"trap '' TERM; touch {tmp_path}/ready; sleep 60 >&- 2>&-", PATIENCE=1)
    until((tmp_path / "ready").exists)
    task.send_signal(signal.SIGUSR1)
    end(task)
    assert task.returncode == 137 and (tmp_path / "calls").read_text() == "requeue 7_3\n"


@pytest.mark.parametrize(("least", "most"), [(1, 5), (0, 8), (3, 7)])
def test_slurm_tasks_whose_numbers_are_no_shards_are_refused(tmp_path, least, most):
    numbers = {"SLURM_ARRAY_TASK_MIN": least, "SLURM_ARRAY_TASK_MAX": most}
    task = start_task(tmp_path, "exit 0", **numbers)
    said = end(task)
    assert task.returncode == 2 and "want --array=0-4 for 5 shards, or SHARDS=" in said and said.count("\n") == 1
    assert not (tmp_path / "arguments").exists()
    assert end(start_task(tmp_path, "exit 0", **numbers, SHARDS=9)) == ""


def test_some_slurm_tasks_can_be_repeated(tmp_path):
    assert end(start_task(tmp_path, "exit 0", SLURM_ARRAY_TASK_COUNT=2, SHARDS=8)) == ""
    assert "--shard=3/8 " in (tmp_path / "arguments").read_text()


def test_shards_want_an_array():
    said = dry_run("predict_slurm.sh", "a")
    assert "#SBATCH --array=0-7" in said and said.splitlines()[-1].endswith("--shard=0/8 --resume --quiet a ")
    launcher = start("predict_slurm.sh", "a")
    assert "this is not an array task" in end(launcher) and launcher.returncode == 2


# ---- A TPU pod


def test_on_a_tpu_pod(tmp_path):
    """One worker, whose home is a folder here."""
    bins, home = tmp_path / "bin", tmp_path / "home"
    home.mkdir()
    write_script(bins / "git", 'for a; do case $a in --output=*) tar -czf "${a#*=}" -T /dev/null;; esac; done')
    write_script(
        bins / "gcloud",
        f"""cd {home}
        if [ "$4" = scp ]; then cp "$5" "$HOME/${{6#*:}}"; fi
        for a; do case $a in --command=*) bash -c "${{a#*=}}"; exit;; esac; done""",
    )
    python = '#!/bin/bash\nprintf "%s\\n" "$@"\nexit 75\n'
    uv = f"if [ $1 = venv ]; then mkdir -p .venv/bin; echo '{python}' >.venv/bin/python; chmod +x .venv/bin/python; fi"
    write_script(bins / "uv", uv)
    write_script(bins / "curl", f"echo 'mkdir -p ~/.local/bin; cp {bins}/uv ~/.local/bin'")
    arguments = ["--config=a b", "--workdir=gs://b/c", "--config.vha=it's"]
    path = f"{bins}:{os.environ['PATH']}"
    launcher = start("tpu_pod.sh", *arguments, TPU="pod", ZONE="zone", PATH=path, HOME=home, TMPDIR=tmp_path)
    said = end(launcher)
    assert launcher.returncode == STOPPED, said
    assert said.splitlines()[-len(arguments) - 1 :] == ["--coordinator=auto", *arguments]
    assert (home / "loco_jax" / "run.pid").read_text().strip().isdecimal()


# ---- Processes on this machine


def test_launched_locally_a_failure_ends_all(tmp_path):
    """Also one that no longer listens."""
    write_script(
        tmp_path / "python",
        f"""case $* in
        *--process_id=0*) trap '' TERM ;;
        *--process_id=1*) sleep 0.3; exit 3 ;;
        *) trap 'touch {tmp_path}/told; exit 75' TERM ;;
        esac
        {TRAINS}""",
    )
    launcher = start("local.sh", "3", PYTHON=tmp_path / "python", PORT=1, GRACE=1)
    started = time.monotonic()
    said = end(launcher)
    assert launcher.returncode == 3 and "a process ended with status 3" in said, said
    assert (tmp_path / "told").exists() and time.monotonic() - started < 15  # by itself it would train for 20 s


def test_launched_locally_all_is_done(tmp_path):
    write_script(tmp_path / "python", "exit 0")
    launcher = start("local.sh", "2", PYTHON=tmp_path / "python", PORT=1)
    assert end(launcher) == "" and launcher.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("last, status", [(75, 75), (1, 1)])
def test_launched_locally_a_signal_stops_all(number, last, status, tmp_path):
    """The second process takes longer to save; where it cannot, that is a failure."""
    write_script(
        tmp_path / "python",
        f"""id=$*
        id=${{id#*--process_id=}}
        id=${{id%% *}}
        trap 'sleep $id; touch {tmp_path}/saved.$id; [ $id = 1 ] && exit {last}; exit 75' {number.name[3:]}
        touch {tmp_path}/ready.$id
        {TRAINS}""",
    )
    launcher = start("local.sh", "2", PYTHON=tmp_path / "python", PORT=1, GRACE=0)
    until(lambda: len(list(tmp_path.glob("ready.*"))) == 2)
    launcher.send_signal(number)
    said = end(launcher)
    assert launcher.returncode == status and said == "", said
    assert len(list(tmp_path.glob("saved.*"))) == 2


# ---- A check on a GPU


def test_gpu_check_measures_in_a_limited_time(tmp_path):
    write_script(tmp_path / "python", 'echo "$@"; exec sleep "${LASTS:-0}"')
    arguments = ("train_vha", "--scale=demo", "--json=a b")
    check = start("gpu_check.sh", *arguments, PYTHON=tmp_path / "python")
    assert end(check) == f"-m loco_jax.benchmark --steps {' '.join(arguments)}\n" and check.returncode == 0
    check = start("gpu_check.sh", PYTHON=tmp_path / "python", LASTS=30, SECONDS_LEFT=1)
    end(check)
    assert check.returncode == 124


# ---- SLURM

# When the test lets it: not before all signals were passed on.
SAVES = "until [ -e $FOLDER/disk ]; do sleep 0.1; done; echo saved >>$FOLDER/calls; exit 75"
CANCEL, SHOW, REQUEUE = "scancel --signal=TERM 7", "scontrol show job 7", "scontrol requeue 7"


class Slurm:
    """A job, number 7, and what is asked of SLURM. The step does `step`, and `on_signal` when scancel signals it.

    As srun does, the stub kills its tasks on a SIGTERM of its own. scancel always fails, as where a step is gone. A job
    that is put back is ended first.
    """

    def __init__(self, folder: pathlib.Path, step: str, on_signal: str = SAVES, **environment: str):
        self._folder = folder
        write_script(
            folder / "srun",
            f"""printf '%s\\n' "$@" >$FOLDER/srun.arguments
            echo $$ >$FOLDER/srun.pid
            trap 'echo killed >>$FOLDER/calls; exit 137' TERM HUP INT
            trap '{on_signal}' USR2
            touch $FOLDER/running
            {step}""",
        )
        write_script(
            folder / "scancel",
            """echo "scancel $*" >>$FOLDER/calls
            [ "$*" = "--signal=TERM ${JOB:-7}" ] && kill -USR2 $(<$FOLDER/srun.pid)
            exit 1""",
        )
        write_script(
            folder / "scontrol",
            """echo "scontrol $*" >>$FOLDER/calls
            if [ $1 = requeue ]; then kill -TERM $PPID; exit ${REQUEUES:-0}; fi
            echo "JobId=7 JobName=loco_jax"
            echo "   PreemptEligibleTime=2026-11-24T12:00:00 PreemptTime=${PREEMPTED:-None}" """,
        )
        path = f"{folder}:{os.environ['PATH']}"
        environment = {"PATH": path, "SLURM_JOB_ID": "7", "FOLDER": str(folder), **environment}
        self.script = start("slurm.sh", "--config=a b", **environment)
        until((folder / "running").exists)

    @property
    def calls(self) -> list[str]:
        path = self._folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def arguments(self) -> list[str]:
        return (self._folder / "srun.arguments").read_text().splitlines()


CASES = {
    "done": ("exit 0", SAVES, [], 0, []),
    "failed": ("exit 1", SAVES, [], 1, []),
    "killed": ("kill -KILL $$", SAVES, [], 137, []),
    # The time limit is near: back into the queue, once it is saved.
    "time": (TRAINS, SAVES, ["USR1"], 75, [CANCEL, "saved", REQUEUE]),
    "time, twice": (TRAINS, SAVES, ["USR1", "USR1"], 75, [CANCEL, CANCEL, "saved", REQUEUE]),
    "time, and done": (TRAINS, "sleep 0.3; exit 0", ["USR1"], 0, [CANCEL]),
    "time, not saved": (TRAINS, "sleep 0.3; exit 1", ["USR1"], 1, [CANCEL]),
    "time, killed": (TRAINS, "sleep 0.3; kill -KILL $$", ["USR1"], 137, [CANCEL]),
    "cancelled": (TRAINS, SAVES, ["TERM"], 75, [CANCEL, "saved"]),
    "time, then cancelled": (TRAINS, SAVES, ["USR1", "TERM"], 75, [CANCEL, CANCEL, "saved"]),
    "cancelled, then time": (TRAINS, SAVES, ["TERM", "USR1"], 75, [CANCEL, CANCEL, "saved"]),
    # By scancel --signal=TERM 7, which signals no script.
    "tasks cancelled": (SAVES, SAVES, [], 75, ["saved", SHOW]),
}


def test_slurm_arrays_train_the_posters_rows(tmp_path):
    write_script(tmp_path / "python", 'if [ "${*: -1}" = --list ]; then printf "one\\ntwo\\nthree\\n"; fi')
    environment = {"PYTHON": tmp_path / "python", "MODULE": "loco_jax.reproduce", "SLURM_ARRAY_TASK_ID": 1}
    said = end(start("slurm.sh", "--dry-run", "--scale=full", **environment))
    assert said.splitlines()[-1].endswith("-m loco_jax.reproduce --only=two --scale=full ")


def test_slurm_refuses_a_row_that_is_not_there(tmp_path):
    write_script(tmp_path / "python", 'if [ "${*: -1}" = --list ]; then printf "one\\ntwo\\n"; fi')
    environment = {"PYTHON": tmp_path / "python", "MODULE": "loco_jax.reproduce", "SLURM_ARRAY_TASK_ID": 2}
    launcher = start("slurm.sh", "--dry-run", **environment)
    said = end(launcher)
    assert launcher.returncode == 2 and "no row with the number 2" in said and "reproduce" not in said


def test_slurm_signals_and_requeues_one_task_of_an_array(tmp_path):
    """The last task of an array has the array's own number."""
    (tmp_path / "disk").touch()
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "JOB": "7_3"}
    job = Slurm(tmp_path, TRAINS, **array)
    job.script.send_signal(signal.SIGUSR1)
    said = end(job.script)
    calls = [call.replace("7", "7_3") for call in (CANCEL, REQUEUE)]
    assert (job.script.returncode, job.calls) == (75, [calls[0], "saved", calls[1]]), said


@pytest.mark.parametrize("step, on_signal, signals, status, calls", CASES.values(), ids=CASES)
def test_slurm(step, on_signal, signals, status, calls, tmp_path):
    job = Slurm(tmp_path, step, on_signal)
    for count, name in enumerate(signals):
        until(lambda count=count: len(job.calls) == count)
        job.script.send_signal(getattr(signal, f"SIG{name}"))
    until(lambda: len(job.calls) >= len(signals))
    (tmp_path / "disk").touch()
    said = end(job.script)
    assert (job.script.returncode, job.calls) == (status, calls), said
    assert job.arguments[-3:] == ["-m", "loco_jax.main", "--config=a b"]
    assert "--kill-on-bad-exit=0" in job.arguments  # else the first that ends would cut off the others' saving


def test_slurm_in_the_grace_time_of_preemption(tmp_path):
    """SLURM signals the tasks, then, when the time is over, the script; and puts the job back."""
    (tmp_path / "disk").touch()
    job = Slurm(tmp_path, SAVES, PREEMPTED="2026-11-24T12:30:00")
    until(lambda: SHOW in job.calls)
    time.sleep(0.5)
    assert job.script.poll() is None
    job.script.terminate()
    said = end(job.script)
    assert job.script.returncode == 75 and REQUEUE not in job.calls, said


def test_slurm_takes_no_job_back(tmp_path):
    (tmp_path / "disk").touch()
    job = Slurm(tmp_path, TRAINS, REQUEUES="1")
    job.script.send_signal(signal.SIGUSR1)
    said = end(job.script)
    assert job.script.returncode == 75 and "the same sbatch goes on from there" in said, said


# ---- A whole training on one device


def test_on_one_gpu_the_time_is_shared_out():
    arguments = ["--minutes=20.5", "--scale=demo", "--workdir=a b", "--config.ema=0.9"]
    said = dry_run("one_gpu.sh", *arguments, PYTHON="python", DTYPE="bfloat16")
    commands = [shlex.split(line)[1:] for line in said.splitlines()]
    mains, export = ["-m", "loco_jax.main"], ["-m", "loco_jax.export"]
    assert [command[:2] for command in commands] == [mains, mains, mains, mains, export, mains]
    vha, vha_scores, trunk, loco, exported, loco_scores = (
        dict(flag.removeprefix("--").split("=", 1) for flag in command[2:]) for command in commands
    )
    # Five minutes are for the rest, and of 15.5 a quarter, a quarter and a half.
    assert float(vha["config.budget_minutes"]) == pytest.approx(15.5 / 4, rel=1e-4)
    assert float(trunk["config.budget_minutes"]) == pytest.approx(15.5 / 4, rel=1e-4)
    assert float(loco["config.budget_minutes"]) == pytest.approx(15.5 / 2, rel=1e-4)
    assert 15.5 < float(loco.pop("config.max_minutes")) < 20.5
    assert vha_scores == {**vha, "mode": "eval"}
    # What is scored is the file, with what suits its network.
    assert loco_scores == {**loco, "mode": "eval", "weights": exported["output"]}
    assert exported == {"workdir": "a b/loco2", "output": "a b/loco2.safetensors", "tune": "64"}
    assert vha["workdir"] == loco["config.vha"] == "a b/vha2" and loco["workdir"] == exported["workdir"] == "a b/loco2"
    assert trunk["workdir"] == loco["config.predictor.trunk_weights"] == "a b/trunk"
    assert loco["config.ema"] == "0.9" and "config.ema" not in vha
    for flags in (vha, trunk, loco):
        path, _, argument = flags["config"].partition(":")
        config = runpy.run_path(str(ROOT / path))["get_config"](argument)
        for name in flags:
            functools.reduce(getattr, name.split(".")[1:], config)  # there is such a field
        assert config.scale == "demo" and flags["config.model.dtype"] == "bfloat16"
        assert config.optimizer.name == "muon" and flags["config.optimizer.orthogonalise_dtype"] == "bfloat16"


@pytest.mark.parametrize("arguments", [[], ["--minutes=0"], ["--minutes=-3"], ["--minutes=3", "--scale=huge"], ["x"]])
def test_on_one_gpu_wrong_arguments_are_told(arguments):
    launcher = start("one_gpu.sh", "--dry-run", *arguments)
    said = end(launcher)
    assert launcher.returncode == 2 and said.startswith("launch/one_gpu.sh: ") and "--minutes=N" in said


ONE_GPU = """
all=$*
echo "$all" >>{folder}/started
case $all in
*--mode=eval*)
  name=${{all#*--workdir=}} name=${{name%% *}}
  mkdir -p "$name/eval"
  echo "of $name" >"$name/eval/table.md" ;;
*loco2.py*) {loco} ;;
esac
"""


def test_on_one_gpu_all_is_done(tmp_path):
    write_script(tmp_path / "python", ONE_GPU.format(folder=tmp_path, loco="exit 0"))
    launcher = start("one_gpu.sh", "--minutes=2", f"--workdir={tmp_path}/w", PYTHON=tmp_path / "python")
    said = end(launcher)
    assert launcher.returncode == 0 and f"Tables: {tmp_path}/w/table.md" in said, said
    assert len((tmp_path / "started").read_text().splitlines()) == 6
    assert (tmp_path / "w" / "table.md").read_text() == f"of {tmp_path}/w/vha2\n\nof {tmp_path}/w/loco2\n\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_one_gpu_a_signal_stops_all(number, tmp_path):
    trains = f"trap 'sleep 0.2; exit 75' {number.name[3:]}; touch {tmp_path}/ready; {TRAINS}"
    write_script(tmp_path / "python", ONE_GPU.format(folder=tmp_path, loco=trains))
    launcher = start("one_gpu.sh", "--minutes=2", f"--workdir={tmp_path}/w", PYTHON=tmp_path / "python")
    until((tmp_path / "ready").exists)
    launcher.send_signal(number)
    said = end(launcher)
    assert launcher.returncode == STOPPED and "the same command goes on from what is saved" in said, said
    assert len((tmp_path / "started").read_text().splitlines()) == 4  # nothing after it
