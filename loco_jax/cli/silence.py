"""Silences other software that prints more than users want to read."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(level: int) -> Iterator[None]:
    """While entered, nothing logs at `level` of `logging` or below, nothing warns, and nothing is printed."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
