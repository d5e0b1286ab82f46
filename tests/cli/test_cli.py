"""What commands share: flags, help, signals, and one line about what is wrong with the command line or the machine."""

import functools
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile

import pytest
from absl import app, flags

import loco_jax
from loco_jax import cli

ROOT = pathlib.Path(__file__).parents[2]
MODULES = [
    "main", "predict", "report", "export", "torch_weights", "benchmark", "data.jta", "data.miniature", "reproduce",
    "convert",
    "predict.merge",
]  # fmt: skip


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"loco_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(module: str, *arguments: object, **environment: str) -> str:
    """What a command says that ends with status 1: one line on stderr, without its beginning."""
    done = run(module, *arguments, **environment)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip().removeprefix("loco_jax: ")


# ---- Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=repr)
def test_a_signal_ends_a_command_in_order(own_sigterm, capsys, number):
    steps = []

    def work():
        try:
            os.kill(os.getpid(), number)
            steps.append("went on")
        finally:
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)  # launchers send some twice: it must not interrupt what cleans up
            steps.append("cleaned up")

    assert cli.call(work) == 130
    assert steps == ["cleaned up"] and capsys.readouterr().err == "loco_jax: stopped\n"
    os.kill(os.getpid(), signal.SIGTERM) if number == signal.SIGTERM else None  # nor change the status


def test_a_command_that_is_not_stopped_leaves_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    assert cli.call(lambda a, b: a + b, 1, 2) == 3
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(ValueError, match="other"):
        cli.call(int, "other")
    assert signal.getsignal(signal.SIGTERM) == before


def test_commands_can_be_called_in_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(cli.call(lambda: 5)))
    thread.start()
    thread.join()
    assert found == [5]


def test_every_command_is_guarded():
    """All start through `cli.start`, which handles signals and Jupyter's backend."""
    mains = [path for path in (ROOT / "loco_jax").rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    mains.remove(ROOT / "loco_jax" / "__main__.py")
    modules = {".".join(path.relative_to(ROOT / "loco_jax").with_suffix("").parts) for path in mains}
    assert {name.removesuffix(".__main__") for name in modules} == set(MODULES)
    for path in mains:
        assert "cli.start(" in path.read_text(), path


# ---- Help, flags, and the exit status

# Says at the end whether JAX was imported.
HELP = """import atexit, runpy, sys
atexit.register(lambda: print("jax" in sys.modules))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)"""


def help_of(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", HELP, module, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_the_package_lists_its_commands():
    lines = help_of("loco_jax").splitlines()
    assert lines.pop() == "False"
    listed = {line.split()[2].removeprefix("loco_jax.") for line in lines if "python -m" in line}
    wanted = {
        "main",
        "predict",
        "report",
        "benchmark",
        "export",
        "torch_weights",
        "data.jta",
        "data.miniature",
        "reproduce",
    }
    assert wanted <= listed <= set(MODULES)


@pytest.mark.parametrize("module", ["main", "predict", "report", "torch_weights"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_tells_the_commands_own_flags_before_jax_is_imported(module, flag):
    said = help_of(f"loco_jax.{module}", flag)
    assert said.endswith("False\n") and f"python -m loco_jax.{module} " in said.splitlines()[0]
    assert {"main": "--workdir: ", "torch_weights": "--kind: "}.get(module, "--output: ") in said
    assert "--verbosity" not in said and "--logtostderr" not in said


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    flags.DEFINE_integer("number", 3, "A number.", flag_values=values)
    flags.DEFINE_bool("loud", False, "Say more.", flag_values=values)
    return values


def test_flags_and_positional_arguments_may_come_in_any_order(flag_values):
    found = []
    main = lambda argv: found.append((argv[1:], flag_values.number, flag_values.loud))  # noqa: E731
    assert cli.run(main, ["x", "a", "--number=5", "b", "--loud"], flag_values) == 0
    assert cli.run(main, ["x", "--number", "6", "a", "--", "--loud"], flag_values) == 0
    assert cli.run(main, ["x"], flag_values) == 0  # nothing is left of the calls before
    assert found == [(["a", "b"], 5, True), (["a", "--loud"], 6, False), ([], 3, False)]


@pytest.mark.parametrize(
    "raised, status, words",
    [
        (ValueError("no such thing"), 1, "loco_jax: no such thing\n"),
        (FileNotFoundError(2, "No such file", "a"), 1, "loco_jax: [Errno 2] No such file: 'a'\n"),
        (ModuleNotFoundError("pip install torch"), 1, "loco_jax: pip install torch\n"),
        (KeyboardInterrupt("two of five are done"), 130, "loco_jax: two of five are done\n"),
    ],
)
def test_errors_of_a_command_are_a_line(flag_values, capsys, raised, status, words):
    def main(argv):
        raise raised

    assert cli.run(main, ["x"], flag_values) == status
    assert capsys.readouterr().err == words


def test_wrong_positional_arguments_show_the_help(flag_values, capsys):
    def main(argv):
        raise app.UsageError("name one file")

    assert cli.run(main, ["x", "a", "b"], flag_values) == 2
    said = capsys.readouterr().err
    assert "--number: A number.\n    (default: '3')" in said and said.endswith("\n\nloco_jax: name one file\n")


def test_errors_in_a_command_are_not_hidden(flag_values):
    with pytest.raises(KeyError):
        cli.run(lambda argv: {}["x"], ["x"], flag_values)
    assert cli.run(lambda argv: 7, ["x"], flag_values) == 7


# ---- Jupyter


def test_no_backend_of_jupyter_stops_a_command(monkeypatch):
    """Jupyter sets it for what it starts; where it is not installed, importing matplotlib fails."""
    code = "from loco_jax import cli; cli.start(lambda argv: __import__('matplotlib') and print('fine'))"
    environment = {**os.environ, "MPLBACKEND": "module://of_a_package.that_is_not_here"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


def test_commands_import_no_matplotlib_before_they_are_called():
    modules = ", ".join(f"loco_jax.{name}" for name in MODULES if name not in ("benchmark", "report"))
    needed = "loco_jax.benchmark.__main__, loco_jax.report.__main__, loco_jax.train, loco_jax.evaluate, loco_jax.replay"
    code = f"import sys, {modules}, {needed}, loco_jax.tasks.loco; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# ---- Devices that are not there


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "gqu"])
def test_a_device_that_is_not_there_is_told_in_a_line(tmp_path, platform):
    code = "from loco_jax import cli; cli.check_devices()"
    done = subprocess.run(
        [sys.executable, "-c", f"try:\n    {code}\nexcept ValueError as error:\n    print(error)"],
        env={**os.environ, "JAX_PLATFORMS": platform},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"JAX_PLATFORMS={platform}: no such device can be used here"), done.stderr
    assert done.stdout.count("\n") == 1 and "; set JAX_PLATFORMS=cpu" in done.stdout


@pytest.mark.parametrize(
    "module, arguments",
    [
        ("main", ["--config=configs/vha2.py:scale=demo", "--workdir={}/run"]),
        ("predict", ["docs/vha2_demo.png", "--output={}/out"]),
        ("benchmark", ["--steps"]),
    ],
)
def test_no_command_shows_the_insides_of_jax(tmp_path, module, arguments):
    said = refused(module, *(text.format(tmp_path) for text in arguments), JAX_PLATFORMS="cuda")
    assert said.startswith("JAX_PLATFORMS=cuda: no such device can be used here")


# ---- The command line


VHA2 = "--config=configs/vha2.py"
NO_FIELD = "the config has no such field"
ALL = (
    "location_maps.py, loco1.py, loco2.py, loco3.py, refiner.py, top_down.py, trunk.py, vha1.py, vha2.py, "
    "vha2_10cm.py, vha3.py, volumetric.py"
)
WRONG = {
    (VHA2, "--config.stepz=3"): f"--config.stepz: {NO_FIELD}; did you mean --config.steps?",
    (VHA2, "--config.model.levle=3"): f"--config.model.levle: {NO_FIELD}; did you mean --config.model.level",
    (VHA2, "--config.batch_size=3"): f"--config.batch_size: {NO_FIELD}; did you mean --config.data.batch_size?",
    (VHA2, "--config.zzz=3"): f"--config.zzz: {NO_FIELD}\n",
    (VHA2, "--noconfig.quite"): f"--config.quite: {NO_FIELD}; did you mean --config.quiet?",
    (VHA2, "--config.steps.x=3"): f"--config.steps.x: {NO_FIELD}; did you mean --config.steps?",
    (VHA2, "--config.model=3"): "flag --config.model=3: Failed to parse",
    (VHA2, "--config.steps=abc"): "flag --config.steps=abc: invalid literal for int() with base 10: 'abc'",
    (VHA2, "--workdri=x"): "Unknown command line flag 'workdri'. Did you mean: workdir ?",
    (): f"--config= is missing; name an experiment: configs has {ALL}, or name a file of your own",
    ("--config=configs/vhaa2.py",): "there is no such file; did you mean --config=configs/vha2.py?",
    ("--config", "refine:scale=demo"): "there is no such file; did you mean --config=configs/refiner.py?",
    ("--config=vha2_10cm", "--config.steps=3"): "did you mean --config=configs/vha2_10cm.py?",
    ("--config=/tmp/zzz",): f"--config=/tmp/zzz: there is no such file; configs has {ALL}, or name",
    ("--config=configs",): "--config=configs: there is no such file; ",
    (f"{VHA2}:varient=patch",): "config argument 'varient=patch' is not known; there are scale=",
    ("--config=configs/vha.py",): "get_config() missing 1 required positional argument: 'level'",
}
# Each in a process of its own, but imported once.
TRY_ALL = """import json, os, sys
from loco_jax import cli, main
for arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        sys.argv = ["main", *arguments]
        cli.start(main.main)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    print("--", file=sys.stderr, flush=True)"""


def test_what_is_wrong_with_a_command_line_is_told_in_a_line_with_the_nearest_that_is_right():
    command = [sys.executable, "-c", TRY_ALL, json.dumps(list(WRONG))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1"] * len(WRONG), done.stderr
    for (arguments, wanted), said in zip(WRONG.items(), done.stderr.split("--\n")):
        assert said.startswith("loco_jax: ") and said.count("\n") == 1 and wanted in said, (arguments, said)


def test_the_packages_own_configs_are_there_in_any_folder(tmp_path):
    """An installed package has no folder `configs` beside the user's work; a file of the user's own wins."""
    code = "import sys; from loco_jax import cli, main; cli.parse(sys.argv); print(main._CONFIG.value.name)"
    arguments = ["--config=configs/vha2.py:scale=demo", "--workdir=out/configs/vha2.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = functools.partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    done = run([sys.executable, "-c", code, *arguments])
    assert done.stdout == "vha2_demo\n", done.stderr
    (tmp_path / "configs").mkdir()
    own = "from ml_collections import ConfigDict\n\ndef get_config(arg=''):\n    return ConfigDict({'name': 'mine'})\n"
    (tmp_path / "configs" / "vha2.py").write_text(own)
    done = run([sys.executable, "-c", code, *arguments])
    assert done.stdout == "mine\n", done.stderr


def test_the_package_says_what_it_holds():
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert facts["project"]["license"] == "Apache-2.0" and facts["tool"]["setuptools"]["dynamic"]["version"]
    for target in facts["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert (ROOT / "loco_jax" / "configs" / "vha2.py").samefile(ROOT / "configs" / "vha2.py")


def test_a_wheel_holds_all_that_commands_read(tmp_path):
    """It is built of a copy: building leaves files beside the sources."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("configs", "loco_jax"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("loco_jax-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (scripts,) = [file.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
    kept = [path for path in (ROOT / "loco_jax").rglob("*") if path.suffix in (".py", ".safetensors", ".html")]
    kept += [*(ROOT / "loco_jax" / "configs").glob("*.py"), *(ROOT / "loco_jax" / "weights" / "pretrained").iterdir()]
    assert {path.relative_to(ROOT).as_posix() for path in kept} <= names
    assert {"loco_jax/configs/vha2.py", "loco_jax/predict/page.html"} <= names
    assert any(name.startswith("loco_jax/weights/pretrained/") and name.endswith(".safetensors") for name in names)
    assert {name.split("/")[0] for name in names} == {"loco_jax", f"loco_jax-{loco_jax.__version__}.dist-info"}
    assert "loco-predict = loco_jax.predict.__main__:command\n" in scripts
    assert "loco-report = loco_jax.report.__main__:command\n" in scripts


def test_what_the_user_sets_wins_over_what_comes_with_weights():
    """The evaluation hears which fields these are."""
    code = """import sys
from loco_jax import cli, evaluate, main
evaluate.evaluate = lambda config, workdir, source, split, given: print(source, sorted(given), config.refiner)
sys.argv = ["main", "--config=configs/loco2.py:variant=patch,trunk=compact,scale=demo", "--config.refiner=mine",
            "--config.people.min_score=0.5", "--mode=eval", "--weights=theirs"]
cli.start(main.main)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "theirs ['people.min_score', 'refiner'] mine\n", done.stderr
