"""Progress bars: what they tell of the time that is left."""

import io
import time

from loco_jax import progress


def test_what_is_compiled_before_the_first_is_left_out_of_estimates():
    bar = progress.bar(11, "step", initial=3, file=io.StringIO())
    time.sleep(0.6)  # compiling
    bar.update(2)
    told = bar.format_dict
    assert told["n"] == 5 and told["initial"] == 5 and told["elapsed"] < 0.5
    time.sleep(0.2)
    bar.update(4)
    told = bar.format_dict
    rate = (told["n"] - told["initial"]) / told["elapsed"]
    assert told["n"] == 9 and 4 < rate <= 20  # with the compiling it would be 6 / 0.8 at most, and is 4 / 0.2
    bar.close()


def test_pauses_are_left_out_too():
    bar = progress.bar(10, "step", file=io.StringIO())
    bar.update()
    time.sleep(0.6)  # compiling for something else
    bar.unpause()
    assert bar.format_dict["elapsed"] < 0.5
    bar.close()


def test_a_quiet_bar_says_nothing(capsys):
    with progress.bar(3, "step", quiet=True) as bar:
        bar.update()
        bar.unpause()
    assert capsys.readouterr().err == ""
