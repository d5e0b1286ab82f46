"""Odd steps of training: those that were skipped, since a number was not finite, and losses far above the usual.

All of it is kept on the devices, as part of the training state, so that nobody waits for it between log lines and a
resumed run sees what it would have seen.
"""

import math
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_PLACES = 16  # odd steps remembered between two log lines; more are counted, not named
_YOUNG = 20  # losses, before which none is above the usual
_KEEP = 0.98  # of the running mean, at each step


class OddStep(NamedTuple):
    """A step to look at again: its number, loss, and the running mean of the losses before it."""

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
    """What was odd so far; arrays, or their shapes.

    Attributes:
      skipped: steps skipped in all, int32.
      in_a_row: the last so many steps were skipped.
      seen: losses in the mean.
      usual: running mean of the losses, float32; what is far above counts only as far as it may go.
      stage: of training, that these losses are of.
      count: odd steps since `cleared`.
      steps, losses, means, were_skipped: `[_PLACES]` the first of those.
    """

    skipped: jax.Array
    in_a_row: jax.Array
    seen: jax.Array
    usual: jax.Array
    stage: jax.Array
    count: jax.Array
    steps: jax.Array
    losses: jax.Array
    means: jax.Array
    were_skipped: jax.Array


def start() -> Watch:
    """Before the first step."""
    zero, places = np.int32(0), np.zeros(_PLACES, np.float32)
    return Watch(
        zero, zero, zero, np.float32(0), zero, zero, places.astype(np.int32), places, places, places.astype(bool)
    )


def observe(watch: Watch, step: jax.Array, loss: jax.Array, skipped: jax.Array, spike: float, stage: int = 0) -> Watch:
    """With one more step; its loss is odd above `spike` times the usual, if that is not 0.

    In each stage another loss may be usual.
    """
    seen = jnp.where(watch.stage == stage, watch.seen, 0)
    most = jnp.where((seen >= _YOUNG) & (spike > 0), spike * watch.usual, jnp.inf)
    place = jnp.where(skipped | (loss > most), watch.count, _PLACES)  # what lies outside is dropped

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
    """With no odd steps to tell."""
    return watch.replace(count=jnp.zeros_like(watch.count))


def odd_steps(watch: Watch) -> list[OddStep]:
    """The first odd steps since `cleared`; arrays of NumPy in."""
    columns = (x[: int(watch.count)].tolist() for x in (watch.steps, watch.losses, watch.means, watch.were_skipped))
    return [OddStep(*row) for row in zip(*columns)]


def scalars(odd: OddStep) -> dict[str, float]:
    """An odd step as numbers to log."""
    named = {"odd_step": odd.step, "odd_step_loss": odd.loss, "odd_step_usual_loss": odd.usual}
    return {name: value for name, value in named.items() if math.isfinite(value)}


def describe(watch: Watch) -> str:
    """The odd steps since `cleared` in one line, or ""; arrays of NumPy in."""
    odd = odd_steps(watch)
    if not odd:
        return ""
    more = int(watch.count) - 3
    listed = "; ".join(map(str, odd[:3])) + (f"; and {more} more" if more > 0 else "")
    return f"{listed}. {int(watch.skipped)} skipped so far. --mode=replay --step={odd[0].step} shows its batch"
