"""Progress bars: updated often on a terminal, every half minute in a log file."""

import sys

from tqdm import tqdm


class _Bar(tqdm):
    """Starts its clock at the first update: the time before, for compilation, would spoil its estimates."""

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
    """A tqdm bar on stderr with these options; its method `unpause` leaves a pause out of the estimates."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return _Bar(total=total, unit=unit, disable=quiet, mininterval=interval, maxinterval=interval, **options)
