"""Progress bars: updated often on a terminal, every half minute in a log file."""

import sys

from tqdm import tqdm


def bar(total: int | None, unit: str, quiet: bool = False, **options) -> tqdm:
    """A tqdm bar on stderr with these options."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit=unit, disable=quiet, mininterval=interval, maxinterval=interval, **options)
