"""Reports of runs as they lie in folders: finished, stopped, old, damaged; numbers are found again in what is written."""

import base64
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import _pylab_helpers

from configs import loco, refiner, vha
from loco_jax import observe, report
from loco_jax.report import __main__ as command
from loco_jax.report import compare, figure, runs
from tests.test_report import SUMMARY, metres, read

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = {"vha": vha.get_config(2), "loco": loco.get_config(2), "refiner": refiner.get_config()}
HEADLINES = {
    "vha": ("f1_0vx", "f1_1vx", "f1_2vx"),
    "loco": ("f1_0.4m", "f1_0.8m", "f1_1.2m", "code_loss"),
    "refiner": ("moved_loss", "clean_loss"),
}
SYSTEMS = {name: {"hungarian": metres(0.5), "nearest": metres(0.4), "error_cm": 12.34} for name in ("LoCO(2)", "GT")}
KINDS = ("untouched", "moved", "swapped", "missing")
RESULTS = {
    "vha": {**SUMMARY, "step": 400},
    "loco": {"data": "JTA, test split", "step": 400, "level": 2, "frames": 8, "systems": SYSTEMS},
    "refiner": {
        "weights": "released",
        "frames": 8,
        "before_cm": {**dict.fromkeys(KINDS, 20.0), "missing": None},
        "after_cm": {kind: 10.0 + i for i, kind in enumerate(KINDS)},
        "clean_cm": 7.5,
    },
}


def records(task: str, steps: int, seed: int = 0, split: bool = True) -> list[dict]:
    """A log as the loop writes it, of a batch of 2: every tenth step, an evaluation every hundredth."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(10, steps + 1, 10):
        seconds = dict(zip(observe.PARTS, rng.uniform(0.5, 1.5, 6) * [0, 0.2, 3, 0, 0, 0.1]))
        seconds |= {"setup": 9.0} if step == 10 else {"save": 0.4} if step % 50 == 0 else {}
        rate = 20 / sum(seconds[part] for part in observe.TRAINING)
        line = {"step": step, "loss": float(5 * step**-0.4 * rng.uniform(0.9, 1.1)), "frames_per_second": rate}
        timing = {**{f"seconds/{p}": s for p, s in seconds.items()}, "memory/process_peak_bytes": 2**30 + step}
        lines.append(line | (timing if split else {}) | {"input_wait": 0.02, "stage": 0})
        if step % 100 == 0:
            scores = {f"validation/{n}": 0.1 * i + 0.5 * step / steps for i, n in enumerate(HEADLINES[task])}
            lines.append({"step": step, **scores} | ({"seconds/evaluation": 2.0} if step == steps else {}))
    return lines


def write_run(folder: pathlib.Path, task: str, steps: int = 400, scored: bool = True, **options) -> pathlib.Path:
    """A workdir of 400 wanted steps, `steps` of them done."""
    folder.mkdir(parents=True)
    config = CONFIGS[task].copy_and_resolve_references()
    config.update({"steps": 400, "data": {"batch_size": 2}})
    (folder / "config.json").write_text(config.to_json_best_effort())
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(task, steps, **options)))
    (folder / "parameters.txt").write_text("| x |\nTotal: 1,234,567 -- 4,938,268 bytes\n")
    if scored:
        (folder / "eval").mkdir()
        (folder / "eval" / "results.json").write_text(json.dumps(RESULTS[task]))
    return folder
