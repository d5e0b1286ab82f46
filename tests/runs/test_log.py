"""The log, whatever a crash left of it."""

import json

import pytest
from etils import epath

from loco_jax.runs import log
from tests.support import (
    logged,
    quietly,
    tiny,
)

pytestmark = pytest.mark.usefixtures("toy_frames")


def test_half_a_log_line_is_no_obstacle(toy, tmp_path):
    """As a full disk or a cut of the power leaves it."""
    config = tiny(steps=2, log_every=1)
    quietly(config, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    quietly(config, tmp_path)
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 2]


def test_a_log_is_read_whatever_the_crash_left(tmp_path):
    path = epath.Path(tmp_path / "log.jsonl")
    assert log.read(path) == []
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    for cut in range(len(whole) + 1):  # kill -9 anywhere in a line
        path.write_bytes(whole[:cut])
        ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
        assert log.read(path) == lines[: sum(cut >= end for end in ends)]
    path.write_bytes(whole + b"\0" * 40 + b'\n\xff\xfe{"step": 3}\n[1]\n{"loss": 1}\n{"step": "4"}\n' + whole)
    assert log.read(path) == lines * 2
