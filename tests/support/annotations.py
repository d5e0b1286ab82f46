"""Annotations of JTA, made up."""

import json
import pathlib
import random

import numpy as np

from loco_jax.data import crowd as crowds
from loco_jax.data import jta, pipeline
from loco_jax.geometry.skeleton import FROM_JTA

GOOD_ROW = [10, 7, 3, 100.5, 200.25, 1.5, -2.5, 30.0, 0, 1]


def write_jta(folder: pathlib.Path, train: dict, val: dict | None = None, test: dict | None = None) -> pathlib.Path:
    """A JTA of the given rows by sequence number; a text instead of rows is written as it is."""
    for split, sequences in {
        "train": train,
        "val": val or {257: [GOOD_ROW]},
        "test": test or {256: [GOOD_ROW]},
    }.items():
        for number, rows in sequences.items():
            path = folder / "annotations" / split / f"seq_{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return folder


def random_rows(seed: int, frames=range(1, 81), most_people: int = 4) -> list[list]:
    """Rows in random order, with gaps among frames, ids and joints, and random flags."""
    rng = random.Random(seed)
    rows = []
    for frame in frames:
        for person in rng.sample(range(1, 100), rng.randint(0, most_people)):
            for joint in rng.sample(range(22), rng.randint(1, 22)):
                numbers = [round(rng.uniform(-500, 2500), 3) for _ in range(2)] + [
                    rng.uniform(-50, 50) for _ in range(3)
                ]
                rows.append([frame, person, joint, *numbers, rng.randint(0, 1), rng.randint(0, 1)])
    rng.shuffle(rows)
    return rows


def read_jta(data_dir, split, batch_size, max_people, *, pictures=False, **options) -> pipeline.Batches:
    """Iterates over batches of a prepared JTA, see `pipeline.read`."""
    examples = pipeline.jta_examples(jta.load(data_dir, split, pictures), pictures)
    return pipeline.read(examples, split, batch_size, max_people, pictures=pictures, **options)


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
