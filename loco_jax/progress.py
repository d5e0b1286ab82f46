"""Progress bars: lively on a terminal, a line every half minute in a log file."""

import sys

from tqdm import tqdm


def bar(total: int, unit: str, quiet: bool = False, **options) -> tqdm:
    """A tqdm bar on stderr; its other options are passed on."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit=unit, disable=quiet, mininterval=interval, maxinterval=interval, **options)
