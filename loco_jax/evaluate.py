"""The one evaluation loop, and the files it writes: results.json, table.md, pictures."""

import io
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool
from ml_collections import ConfigDict

from loco_jax import experiment, report, tasks, weights
from loco_jax.cli import progress
from loco_jax.data import datasets, streams
from loco_jax.data.frames import Frames
from loco_jax.ops import distributed
from loco_jax.runs import checkpoints, files
from loco_jax.runs import config as configs
from loco_jax.tasks import Task, tracks
from loco_jax.tasks.people import PeopleTask

# The frames that are drawn: their names, and their places between the best frame and the worst.
STANDINGS = {"best": 0.0, "upper quartile": 0.25, "median": 0.5, "lower quartile": 0.75, "worst": 1.0}


class Evaluator:
    """Scores parameters on one split, batch by batch over all devices. It is compiled once, at the first run.

    Each process scores the frames of its own devices, and all processes get all records.

    Attributes:
      example: the first batch of frames of this process, arrays of NumPy; None before the first run.
    """

    def __init__(self, task: Task, config: ConfigDict, mesh: Mesh, split: str, thorough: bool = False):
        self._task, self._config, self._split_name, self._thorough = task, config, split, thorough
        self._sharding = NamedSharding(mesh, PartitionSpec("batch"))
        self._batch_size = mesh.size
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._part, self._parts = distributed.share(mesh)
        self._agree = distributed.Agreement(mesh)

        def predict(params, frames, number):
            # Each device handles its own frames, without communication between devices.
            # A frame's number is its random seed, so that noise is the same in every evaluation, on any devices.
            key = jax.random.fold_in(jax.random.key(0), number * mesh.size + jax.lax.axis_index("batch"))
            return task.predict(params, frames, key, thorough)

        self.example: Any = None
        batch, whole = PartitionSpec("batch"), PartitionSpec()
        self._predict = jax.jit(
            jax.shard_map(predict, mesh=mesh, in_specs=(whole, batch, whole), out_specs=batch, check_vma=False)
        )

    def run(
        self,
        params: Any,
        num_frames: int,
        pictures: epath.Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """The task's summary over `num_frames` frames of the split, or None if `should_stop` became true.

        Pictures go into the folder `pictures`, if given. They show the frames of `STANDINGS` if the task ranks frames,
        and else the first `config.pictures` frames.
        """
        found: list[tuple[int, Any]] = []
        quiet = self._config.quiet or not distributed.is_first()
        with progress.bar(num_frames, "frame", quiet, desc=self._split_name, leave=False) as bar:
            for number, (frames, real) in enumerate(self._batches(num_frames)):
                if self._agree(should_stop()):
                    return None
                predicted, frames = self._find(params, frames, number)
                self.example = frames if self.example is None else self.example
                scored = zip(self._numbers(number, real), self._task.score(predicted, frames), real)
                found += [(frame, record) for frame, record, counts in scored if counts]
                bar.update(int(real.sum()) * self._parts)
        records = dict(sorted(distributed.gather(found), key=lambda numbered: numbered[0]))
        if pictures is not None:
            self._draw(params, num_frames, self._to_draw(records), pictures)
        return self._task.summary(list(records.values()))

    def _batches(self, num_frames: int):
        config, split = self._config, self._split_name
        return datasets.of(config).evaluation_batches(split, self._batch_size, num_frames, self._sharding)

    def _numbers(self, number: int, real: Bool[np.ndarray, " B"]) -> list[int]:
        """The numbers of this process's frames in a batch."""
        first = number * self._batch_size + self._part * len(real)
        return list(range(first, first + len(real)))

    def _find(self, params: Any, frames: Frames, number: int) -> tuple[Any, Frames]:
        """This process's share of the predictions for a batch and of the batch itself."""
        arguments = params, frames, distributed.put(np.int32(number), self._replicated)
        return distributed.get((self._predict(*arguments), frames))

    def _to_draw(self, records: Mapping[int, Any]) -> dict[str, tuple[int, str]]:
        """The number of a frame and its title, by the picture's name; the same in all processes."""
        by, split = self._task.ranked_by, self._split_name
        if not by:
            return {f"frame_{n}": (n, f"{split} frame {n}") for n in records if n < self._config.pictures}
        # Of frames with equal ranks the earlier one counts as better.
        ranks = {frame: self._task.rank(record) for frame, record in records.items()}
        order = sorted(ranks, key=lambda frame: -ranks[frame])
        wanted = {}
        for name, part in STANDINGS.items():
            frame = order[round(part * (len(order) - 1))]
            title = f"{split} frame {frame}, {name} of {len(order)}: {by} is {ranks[frame]:.3f}"
            wanted[name.replace(" ", "_")] = frame, title
        return wanted

    def _draw(self, params: Any, num_frames: int, wanted: Mapping[str, tuple[int, str]], folder: epath.Path) -> None:
        """Draws some frames. They are predicted once more, because keeping all frames would take too much memory."""
        if not wanted:
            return
        drawn, last = [], max(frame for frame, _ in wanted.values())
        for number, (frames, real) in enumerate(self._batches(num_frames)):
            first = number * self._batch_size
            if first > last:
                break
            if not any(first <= frame < first + self._batch_size for frame, _ in wanted.values()):
                continue
            predicted, frames = self._find(params, frames, number)
            mine = {frame: index for index, frame in enumerate(self._numbers(number, real)) if real[index]}
            for name, (frame, title) in wanted.items():
                if frame in mine:
                    png = io.BytesIO()
                    report.picture(self._task, predicted, frames, mine[frame], title).savefig(png, format="png")
                    drawn.append((f"{name}.png", png.getvalue()))
        drawn = distributed.gather(drawn)
        if distributed.is_first():
            for name, picture in drawn:
                (folder / name).write_bytes(picture)


def evaluate(
    config: ConfigDict,
    workdir: str,
    say: Callable[[str], None] = print,
    source: str = "",
    split: str = "test",
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Scores the newest checkpoint of `workdir` on a split, "test" or "validation".

    Writes results.json, table.md and pictures to `workdir/eval`, or `workdir/eval_validation`. Fields that only
    training reads are taken from the run.

    With `source` it scores those parameters instead, see `weights.read`, and the workdir need not hold a run. Their own
    refiner and rules are used, except for the fields `given`, which the user has set.

    Raises CheckpointError if there is no checkpoint of this config, WeightsError if `source` does not fit it.
    """
    folder = epath.Path(workdir).expanduser()
    say = distributed.only_first(say)
    configs.check_same(config)
    if not source:
        own = {name: config.data[name] for name in ("dir", "workers")}
        config = distributed.from_first(lambda: configs.as_trained(workdir, config, given))
        config.data.update(own)
    with distributed.together():
        experiment.check(config)
        if source and "data.camera" not in given and not streams.is_made_for(config):
            camera = experiment.trained_camera(source)
            config = config.copy_and_resolve_references()
            config.data.camera = tuple(map(float, camera)) if camera else config.data.camera
        config = streams.fitted(config, split)
        # One process uses as many devices as in training. Several processes use all devices, whatever the batch.
        most = config.data.batch_size if jax.process_count() == 1 else jax.device_count()
        mesh, task = distributed.make_mesh(most), experiment.create_task(config)
        params = like = task.shapes()
        step = 0
        if source:
            experiment.check_weights(task, source, "--weights")
            task = experiment.with_parts_of(task, source, given)
            params = weights.read(config.task, source, tasks.network_shapes(task))
        elif distributed.is_first():
            with checkpoints.Checkpoints(workdir, read_only=True) as saved:
                step, params = saved.restore_params(like, averaged=bool(config.ema))
        params = task.for_evaluation(params)
    name, value = ("weights", source) if source else ("step", distributed.from_first(lambda: step))
    params = distributed.put_first(params, NamedSharding(mesh, PartitionSpec()))
    say(task.describe())
    say(f"{folder}: {name} {value}, up to {config.test_frames} frames of the {split} split")
    out = folder / ("eval" if split == "test" else f"eval_{split}")
    with distributed.together():
        if distributed.is_first():
            out.mkdir(parents=True, exist_ok=True)
    evaluator = Evaluator(task, config, mesh, split, thorough=True)
    summary = evaluator.run(params, config.test_frames, out) or {}  # nothing stops it
    summary = {"data": f"{datasets.of(config).name}, {split} split", name: value, **summary}
    _name_groups(summary, datasets.of(config).groups(split))
    if isinstance(task, PeopleTask) and "tracks" in config and config.tracks.sequences:
        summary["tracks"] = _score_tracks(task, params, config, split)
    if not distributed.is_first():
        return summary
    device = jax.local_devices()[0]
    if seconds := task.stage_seconds(*jax.device_put((jax.device_get(params), evaluator.example), device)):
        summary = {**summary, "seconds_a_frame": seconds, "device": device.device_kind}
    table = report.table_of(config.task, summary)
    files.write_text(out / "results.json", json.dumps(summary, indent=2) + "\n")
    files.write_text(out / "table.md", table + "\n")
    say(table)
    say(f"Table, results.json and pictures: {out}")
    return summary


def _name_groups(summary: dict[str, Any], names: Sequence[str]) -> None:
    """Gives the groups of `protocols.summarise` their names."""
    for system in summary.get("systems", {}).values():
        for group in system.get("protocols", {}).get("by_group", []):
            group["name"] = names[group["group"]] if names else "all"


def _score_tracks(task: PeopleTask, params: Any, config: ConfigDict, split: str) -> dict[str, Any]:
    """The summary of `tracks` over the sequences of `config.tracks`. Each process takes its share of them."""
    c, part, parts = config.tracks, jax.process_index(), jax.process_count()
    films = datasets.of(config).sequences(split, c.sequences, c.frames, c.fps)
    mine = itertools.islice(films, part, None, parts)
    params = jax.device_put(jax.device_get(params), jax.local_devices()[0])
    quiet, total = config.quiet or not distributed.is_first(), -(-c.sequences // parts) * c.frames
    found = []
    with (
        distributed.together(),
        progress.bar(total, "frame", quiet, desc=f"{split}, tracks", leave=False) as bar,
    ):
        found = tracks.measure(task, params, streams.volume_of(config), mine, bar.update)
    # In the order of the sequences, so that sums are the same with any number of processes.
    numbered = distributed.gather([(part + i * parts, record) for i, record in enumerate(found)])
    return tracks.summarise([record for _, record in sorted(numbered, key=lambda pair: pair[0])])
