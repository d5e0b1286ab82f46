"""What is silent, and until when."""

import logging
import warnings

import pytest

from loco_jax.cli import silence


@pytest.mark.parametrize("level, heard", [(logging.INFO, ["warning"]), (logging.WARNING, [])])
def test_what_is_said_below_a_level_is_not_heard(capsys, caplog, level, heard):
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as given, silence.quiet(level):
        print("printed")
        warnings.warn("given", stacklevel=1)
        logging.info("info")
        logging.warning("warning")
    assert caplog.messages == heard and not given and not capsys.readouterr().out
    logging.warning("again")
    assert caplog.messages == [*heard, "again"]


def test_errors_end_the_silence():
    with pytest.raises(ValueError), silence.quiet(logging.WARNING), silence.quiet(logging.INFO):
        assert not logging.getLogger().isEnabledFor(logging.WARNING)  # the greater silence counts
        raise ValueError
    assert logging.getLogger().isEnabledFor(logging.WARNING)
