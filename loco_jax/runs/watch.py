"""The losses of a run, on the host: their means for the log, and odd steps.

A step is odd if it was skipped because a number was not finite, or if its loss is far above the usual one.
"""

import math
from collections.abc import Mapping
from typing import Any

_YOUNG = 20  # number of losses from which the usual one is known
_KEEP = 0.98  # decay of the running mean


class Watch:
    """Sees the scalars of every step. A loss is odd above `spike` times the usual one; 0 for no limit.

    Attributes:
      bad_step: the first step at which more than `most_skipped` steps in a row had been skipped, or 0.
      state: all that a resumed run needs, as JSON. `usual` is the running mean of the `seen` losses of the present
        stage; a loss above the limit counts as the limit. `sums`, `count` and `odd` are since the last `take`.
    """

    def __init__(self, spike: float, most_skipped: int):
        self._spike, self._most_skipped, self.bad_step = spike, most_skipped, 0
        self.state: dict[str, Any] = {"skipped": 0, "in_a_row": 0, "seen": 0, "usual": 0.0, "stage": 0}
        self.state |= {"sums": {}, "count": 0, "odd": []}

    def see(self, step: int, scalars: Mapping[str, float], stage: int) -> None:
        """Counts a step. `scalars` are those of `step.train_step`; a batch need not give all of them."""
        s, loss = self.state, scalars["loss"]
        if scalars["skipped"]:
            s["skipped"], s["in_a_row"] = s["skipped"] + 1, s["in_a_row"] + 1
            s["odd"].append({"odd_step": step} | ({"odd_step_loss": loss} if math.isfinite(loss) else {}))
            if s["in_a_row"] > self._most_skipped and not self.bad_step:
                self.bad_step = step
            return
        seen = s["seen"] if s["stage"] == stage else 0
        most = self._spike * s["usual"] if seen >= _YOUNG and self._spike else math.inf
        if loss > most:
            s["odd"].append({"odd_step": step, "odd_step_loss": loss, "odd_step_usual_loss": s["usual"]})
        keep = min(_KEEP, seen / (seen + 1))
        s.update(in_a_row=0, stage=stage, seen=seen + 1, usual=keep * s["usual"] + (1 - keep) * min(loss, most))
        s["count"] += 1
        for name, value in scalars.items():
            s["sums"][name] = s["sums"].get(name, 0.0) + value

    def take(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Since the last call: the means of scalars over the steps that were not skipped, and the log's odd steps."""
        sums, count, odd = (self.state[name] for name in ("sums", "count", "odd"))
        self.state |= {"sums": {}, "count": 0, "odd": []}
        finite = {name: total for name, total in sums.items() if name != "skipped" and math.isfinite(total)}
        return {name: total / count for name, total in finite.items()}, odd

    def describe(self, odd: list[dict[str, float]]) -> str:
        """Odd steps in one line."""
        listed = ", ".join(str(x["odd_step"]) for x in odd[:5]) + f" and {len(odd) - 5} more" * (len(odd) > 5)
        replay = f"--mode=replay --step={odd[0]['odd_step']} shows the first one's batch"
        return f"Odd steps, see log.jsonl: {listed}. {self.state['skipped']} skipped so far. {replay}"
