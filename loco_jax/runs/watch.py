"""Odd steps of training: steps that were skipped because a number was not finite, and losses far above the usual.

The record of them is part of the training state on the devices. The host therefore does not wait for it between log
lines, and a resumed run has the same record.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

_PLACES = 16  # odd steps that are remembered between two log lines; further ones are only counted
_YOUNG = 20  # after so many losses there is a usual one
_KEEP = 0.98  # decay of the running mean


class OddStep(NamedTuple):
    """An odd step: its number, its loss, the running mean of the losses before it, and whether it was skipped."""

    step: int
    loss: float
    usual: float
    skipped: bool

    def __str__(self) -> str:
        if self.skipped:
            return f"step {self.step} skipped (loss {self.loss:.4g}, and a number not finite)"
        return f"step {self.step} with loss {self.loss:.4g}, usually {self.usual:.4g}"


@flax.struct.dataclass
class Watch:
    """The odd steps so far; arrays, or their shapes and types.

    Attributes:
      skipped: number of skipped steps, int32.
      in_a_row: number of steps skipped in a row up to now.
      seen: number of losses in the mean.
      usual: running mean of the losses, float32; a loss above the limit counts as the limit.
      stage: the stage of training of these losses.
      count: number of odd steps since `cleared`.
      steps, losses, means, were_skipped: `[_PLACES]` the first of those steps.
    """

    skipped: Any
    in_a_row: Any
    seen: Any
    usual: Any
    stage: Any
    count: Any
    steps: Any
    losses: Any
    means: Any
    were_skipped: Any


def start() -> Watch:
    """The record before the first step."""
    zero, places = np.zeros((), np.int32), np.zeros(_PLACES, np.float32)
    usual = np.zeros((), np.float32)
    return Watch(zero, zero, zero, usual, zero, zero, places.astype(np.int32), places, places, places.astype(bool))


def observe(
    watch: Watch,
    step: Int[jax.Array, ""],
    loss: Float[jax.Array, ""],
    skipped: Bool[jax.Array, ""],
    spike: float,
    stage: int = 0,
) -> Watch:
    """The record with one more step. Its loss is odd above `spike` times the usual one; 0 for no limit.

    Each stage has its own usual loss.
    """
    seen = jnp.where(watch.stage == stage, watch.seen, 0)
    most = jnp.where((seen >= _YOUNG) & (spike > 0), spike * watch.usual, jnp.inf)
    place = jnp.where(skipped | (loss > most), watch.count, _PLACES)  # a place outside is ignored

    def remember(values, value):
        return jnp.asarray(values).at[place].set(value, mode="drop")

    number = seen.astype(jnp.float32)
    keep = jnp.minimum(_KEEP, number / (number + 1.0))
    usual = keep * watch.usual + (1 - keep) * jnp.minimum(loss, most)
    return Watch(
        skipped=watch.skipped + skipped,
        in_a_row=jnp.where(skipped, watch.in_a_row + 1, 0),
        seen=seen + ~skipped,
        usual=jnp.where(skipped, watch.usual, usual),
        stage=jnp.full_like(watch.stage, stage),
        count=watch.count + (skipped | (loss > most)),
        steps=remember(watch.steps, step),
        losses=remember(watch.losses, loss),
        means=remember(watch.means, watch.usual),
        were_skipped=remember(watch.were_skipped, skipped),
    )


def cleared(watch: Watch) -> Watch:
    """The record without the odd steps that were reported."""
    return dataclasses.replace(watch, count=jnp.zeros_like(watch.count))


def odd_steps(watch: Watch) -> list[OddStep]:
    """The first odd steps since `cleared`. The arrays must be NumPy's."""
    columns = (x[: int(watch.count)].tolist() for x in (watch.steps, watch.losses, watch.means, watch.were_skipped))
    return [OddStep(*row) for row in zip(*columns)]


def scalars(odd: OddStep) -> dict[str, float]:
    """The numbers of an odd step for the log."""
    named = {"odd_step": odd.step, "odd_step_loss": odd.loss, "odd_step_usual_loss": odd.usual}
    return {name: value for name, value in named.items() if math.isfinite(value)}


def describe(watch: Watch) -> str:
    """The odd steps since `cleared` in one line; "" if there are none. The arrays must be NumPy's."""
    odd = odd_steps(watch)
    if not odd:
        return ""
    more = int(watch.count) - 3
    listed = "; ".join(map(str, odd[:3])) + (f"; and {more} more" if more > 0 else "")
    return f"{listed}. {int(watch.skipped)} skipped so far. --mode=replay --step={odd[0].step} shows its batch"
