"""The log of a run: `log.jsonl`, with a line for each log step, and TensorBoard curves beside it."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from etils import epath

from loco_jax.runs import files
from loco_jax.runs.ending import TrainingError

FILE = "log.jsonl"


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, in order; none if there is no file. Incomplete lines are left out."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # the machine failed while it was written
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


class NoLog(contextlib.nullcontext):
    """The log of a process that writes none."""

    has_scores = False

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        pass


class Log(contextlib.AbstractContextManager):
    """Writes the log of a run in `folder` that is at step `step`.

    Lines of later steps are dropped, because those steps are repeated. When the log is closed, the figure that `draw`
    makes of the records becomes `curves.png`. All methods raise TrainingError if the disk cannot be written to.

    Attributes:
      has_scores: whether the log has validation scores of the step `step` itself.
    """

    def __init__(self, folder: epath.Path, step: int, draw: Callable[[list[dict[str, Any]]], Any]):
        self._path, self._draw, self.has_scores = folder / FILE, draw, False
        with self._writing():
            if self._path.exists():
                kept = [record for record in read(self._path) if record["step"] <= step]
                files.write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
                here = (name for record in kept if record["step"] == step for name in record)
                self.has_scores = any(name.startswith("validation/") for name in here)
            self._curves = _tensorboard().SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            with self._writing():
                self._curves.close()
                if kind is None:
                    with (self._path.parent / "curves.png").open("wb") as file:
                        self._draw(read(self._path)).savefig(file, format="png")
        except TrainingError:
            if kind is None:  # otherwise the first error is reported
                raise

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Adds a line. Values that are lists do not become curves."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        with self._writing():
            if "://" in str(self._path):  # buckets cannot append
                self._path.write_text((self._path.read_text() if self._path.exists() else "") + line)
            else:
                with self._path.open("a") as file:
                    file.write(line)
            for name, value in scalars.items():
                if not isinstance(value, list):
                    self._curves.add_scalar(name, value, step)
            self._curves.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self._path.parent}: the log cannot be written ({error.strerror or error}). If the disk is full, "
                "make room: the same command goes on from the newest checkpoint."
            ) from error


def _tensorboard() -> ModuleType:
    """The module tensorboardX, imported here because reading a log does not need it.

    tensorboardX imports PyTorch if it is installed, which takes time and memory and is not needed. So PyTorch is
    hidden during the import, also from other threads.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if hidden:
            sys.modules.pop("torch", None)
    return tensorboardX
