"""Progress bars: lively on a terminal, a line every half minute in a log file."""

import sys

from tqdm import tqdm


class _Bar(tqdm):
    """Its clock starts when the first things are done: those waited for the compiler, and would spoil the estimate."""

    _begun = False

    def update(self, n: float = 1) -> bool | None:
        if self._begun or self.disable:
            return super().update(n)
        self._begun = True
        self.n += n
        self.initial = self.last_print_n = self.n
        self.start_t = self.last_print_t = self._time()
        return None


def bar(total: int | None, unit: str, quiet: bool = False, **options) -> tqdm:
    """A tqdm bar on stderr; its other options are passed on.

    What is compiled before the first `update` is left out of its estimates; `unpause()` leaves out later pauses.
    """
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return _Bar(total=total, unit=unit, disable=quiet, mininterval=interval, maxinterval=interval, **options)
