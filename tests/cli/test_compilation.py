"""What was compiled is kept: by all processes of a user, in a folder that may be anywhere, or nowhere."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Says what the folder is, how many programs were compiled and how many found, and a result.
PROGRAM = """
import collections, json
import jax, jax.numpy as jnp
from loco_jax.cli import compilation
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
folder = compilation.use_cache()
x = jax.jit(lambda x: jnp.sort(jnp.sin(x @ x)).sum())(jnp.eye(64)) + jnp.arange(3).sum()
print(json.dumps([folder and str(folder), counts["compile_requests_use_cache"], counts["cache_hits"], float(x)]))
"""


def start(**environment: str) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if k not in ("LOCO_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[list, str]:
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return json.loads(stdout), stderr


def run(**environment: str) -> tuple[list, str]:
    return finish(start(**environment))


def test_the_second_start_compiles_nothing_even_after_two_at_once(tmp_path):
    """And an entry that a crash cut off is compiled anew."""
    first, second = (start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    results = [finish(first)[0], finish(second)[0]]
    folder = tmp_path / "loco_jax" / "xla"
    assert all(place == str(folder) and requests >= 2 for place, requests, *_ in results)
    assert any(hits < requests for _, requests, hits, _ in results)  # the later one may find all that it needs
    (place, requests, hits, value), stderr = run(XDG_CACHE_HOME=str(tmp_path))
    assert hits == requests and not stderr
    assert {value} == {r[-1] for r in results}
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    assert run(XDG_CACHE_HOME=str(tmp_path))[0] == [str(folder), requests, 0, value]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (folder, requests, hits, _), stderr = run(LOCO_JAX_CACHE=str(tmp_path / "file" / "below"))
    assert folder is None and requests and not hits
    assert stderr.startswith("loco_jax: compiled code is not cached (") and stderr.count("\n") == 1
    assert "LOCO_JAX_CACHE=FOLDER" in stderr


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"LOCO_JAX_CACHE": "off"}, None),
        ({"LOCO_JAX_CACHE": "{}/a"}, "{}/a"),
        ({"LOCO_JAX_CACHE": "{}/a", "JAX_COMPILATION_CACHE_DIR": "{}/b"}, "{}/b"),
        ({"XDG_CACHE_HOME": "", "HOME": "{}"}, "{}/.cache/loco_jax/xla"),
    ],
)
def test_whose_word_counts(tmp_path, environment, folder):
    environment = {name: value.format(tmp_path) for name, value in environment.items()}
    folder = folder and folder.format(tmp_path)
    assert run(**environment)[0][0] == folder
    assert [str(p) for p in tmp_path.rglob("*") if p.name in ("a", "b", "xla")] == ([folder] if folder else [])
