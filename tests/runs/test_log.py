"""The log, whatever a crash left of it."""

import json

from etils import epath

from loco_jax.runs import log
from tests.support import logged, python, quietly, tiny


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


def test_pytorch_is_not_imported_for_the_curves(tmp_path):
    """It is installed where tests run, and importing it takes seconds."""
    program = """
import sys
from etils import epath
from matplotlib.figure import Figure
from loco_jax.runs import log
with log.Log(epath.Path(sys.argv[1]), 0, lambda records: Figure()) as lines:
    lines.write(1, {"loss": 0.5})
assert "torch" not in sys.modules
import torch
"""
    process = python("-c", program, str(tmp_path))
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
