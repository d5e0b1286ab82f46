"""Fixtures that several test modules share; see support/ for functions."""

import functools
import gc
import os
import signal
import tempfile

import hypothesis
import jax
import jaxtyping
import pytest

from loco_jax import experiment
from loco_jax.data import crowd as crowds
from loco_jax.data import jta, streams
from loco_jax.data.jta import writing
from tests.support import ROOT, Mean, blank, toy_frame
from tests.support.annotations import prepare_small_jta

# Commands under test leave the user's cache alone.
os.environ["LOCO_JAX_CACHE"] = "off"


# Most of the time is compiling. Without optimisations, and in one piece, it takes a third of that.
QUICK_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):  # later versions have no other way
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")


def pytest_configure(config):
    """What is compiled is kept while the tests run, for all processes of theirs and the commands that they start.

    Most of the suite's time is compiling, much of it the same again. A limit of size makes JAX lock the folder.
    """
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="loco_jax_tests_", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))
        # JAX has read its environment before this; that of workers comes with all this in it.
        jax.config.update("jax_compilation_cache_dir", folder.name)
        jax.config.update("jax_compilation_cache_max_size", 2**32)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# The files that take longest, which begin first: so none is left to a single process at the end.
LONGEST = """
    tasks/test_loco.py test_multihost.py ops/test_decoding.py test_train.py benchmark/test_benchmark.py test_faults.py
    test_notebook.py ops/test_blocks.py tasks/test_refiner.py tasks/test_trunk.py runs/test_budget.py test_x64.py
    ops/test_devices.py tasks/test_teaching.py models/test_compact.py data/test_crowd.py data/test_render.py
""".split()


def pytest_collection_modifyitems(items):
    order = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_unconfigure():
    """What is left is not searched for garbage: with all that is compiled that takes several seconds, after which
    xdist's processes are interrupted."""
    gc.freeze()


# In CI the same examples each time: what is found by chance is found by hand, and not by somebody else's change.
hypothesis.settings.register_profile("same", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("same")


@pytest.fixture
def unchecked(monkeypatch):
    """No checks of annotations, as in normal use: functions meet arguments that their annotations exclude."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def own_sigterm():
    """For tests that send signals to themselves: afterwards SIGTERM does again what it did before.

    SIGINT interrupts, also where it is ignored at the start, as in the background of a shell.
    """
    old = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), old):
        signal.signal(number, handler)


_compile_toy = functools.lru_cache(streams._compile_crowd.__wrapped__)


@pytest.fixture
def toy_frames(monkeypatch):
    """Makes frames of the crowd toy frames, which are compiled apart from others; a run's curves are not drawn."""
    from loco_jax import train

    monkeypatch.setattr(train, "_curves", blank)
    monkeypatch.setattr(streams, "crowd_frame", toy_frame)
    monkeypatch.setattr(streams, "_compile_crowd", _compile_toy)


@pytest.fixture
def toy(toy_frames, monkeypatch):
    """Makes every config's task the toy, on toy frames; called with arguments, the toy with these."""

    def use(**arguments):
        monkeypatch.setattr(experiment, "create_task", lambda config: Mean(**arguments))

    use()
    return use


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all of Hypothesis' examples of a test, which replace each other's files."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="session")
def small_jta(tmp_path_factory):
    """The folder of a prepared JTA without pictures, 90 frames a split."""
    return prepare_small_jta(tmp_path_factory.mktemp("jta"))


@pytest.fixture(scope="session")
def jta_with_pictures(tmp_path_factory):
    """The folder of a miniature JTA, 11 frames a sequence, `jta` in it with videos, for all but train with extracted
    frames too, and prepared in `data`; and what the builder says. `no_train_frames` has train's pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    counts = {"train": 1, "validation": 1, "test": 1}
    writing.write(folder / "jta", counts, crowds.DEMO, videos=True, frames=True, num_frames=11)
    (folder / "jta" / "frames" / "train").rename(folder / "no_train_frames")  # those come from the video
    return folder, jta.prepare(folder / "jta", folder / "data", pictures=True)
