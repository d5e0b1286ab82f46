"""A budget of training time: its used share, and the learning rates that follow from that.

Only the loop of steps counts: waiting for batches, the steps, and the loop's own work. Setup, compilation, saving,
evaluation, and steps that were lost because the run was killed before it saved them do not count.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict

from loco_jax.ops import distributed
from loco_jax.runs import observation

_WHOLE = 2**30  # a used-up budget as an integer, which processes exchange


def rate_at(config: ConfigDict, step: int, used: float) -> float:
    """The learning rate after `step` steps, when a share `used` of the budget is used, 0 to 1.

    The warm-up counts steps. With the cosine schedule the rate falls to zero with the budget or with `config.steps`,
    whichever is nearer to its end.
    """
    c = config.optimizer
    rate = c.learning_rate * (min(1.0, step / c.warmup) if c.warmup else 1.0)
    done = max(used, min(1.0, step / config.steps))
    return rate * (1 + math.cos(math.pi * done)) / 2 if c.schedule == "cosine" else rate


def logged_rates(records: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The learning rates in the records of a log, by the number of the step, from 1; see `Budget.take`."""
    rates: dict[int, float] = {}
    for record in records:
        given = record.get("rates", ())
        rates.update(zip(range(record["step"] - len(given) + 1, record["step"] + 1), given))
    return rates


class Budget:
    """The used share of `config.budget_minutes`, over all starts of a run. All processes have the same value.

    The clock of the first process counts. All processes use its time from `delay` steps ago, so that none waits.
    Without a budget it is never over, and gives no rates.

    Attributes:
      used: the used share, from 0 to 1.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh, split: observation.Split, delay: int):
        self._config, self._split, self._seconds = config, split, 60 * config.budget_minutes
        self._place, self._agree = NamedSharding(mesh, PartitionSpec()), distributed.Agreement(mesh, delay)
        self._before, self.used = 0.0, 0.0
        self._rates: list[float] = []

    @property
    def state(self) -> dict[str, float]:
        """The used share for a checkpoint, as JSON."""
        return {"budget_used": self.used, "budget_minutes": self._seconds / 60} if self._seconds else {}

    @state.setter
    def state(self, saved: Mapping[str, Any]) -> None:
        if self._seconds:  # the budget, and with it the share, may have changed since
            longer = self._seconds / 60 / saved.get("budget_minutes", self._seconds / 60)
            self._before = self.used = min(1.0, saved.get("budget_used", 0.0) / longer)

    @property
    def is_over(self) -> bool:
        return self.used >= 1

    def __str__(self) -> str:
        """The used minutes, for progress lines; empty without a budget."""
        minutes = self._config.budget_minutes
        return f"{minutes * self.used:.3g} of {minutes:g} minutes, " if minutes else ""

    def look(self) -> None:
        """Reads the clock, after each step."""
        if self._seconds:
            mine = self._before + self._split.spent(observation.STEPS) / self._seconds
            agreed = self._agree(round(min(1.0, mine) * _WHOLE) if distributed.is_first() else 0)
            self.used = max(self.used, agreed / _WHOLE)  # at the beginning the agreed value is 0

    def rate(self, step: int) -> tuple[Float[jax.Array, ""], ...]:
        """The further argument of `train_step` for the step after `step`: the learning rate, or none."""
        if not self._seconds:
            return ()
        rate = np.float32(rate_at(self._config, step, self.used))
        self._rates.append(float(str(rate)))  # the shortest decimal that rounds to it in float32
        return (self.place(rate),)

    def place(self, rate: float | np.floating) -> Float[jax.Array, ""]:
        """A rate on the devices."""
        return distributed.put(np.float32(rate), self._place)

    def take(self) -> dict[str, Any]:
        """Scalars for a log line, with all rates since the last call, which --mode=replay reads."""
        rates, self._rates = self._rates, []
        return {"learning_rate": rates[-1], "budget_used": self.used, "rates": rates} if rates else {}
