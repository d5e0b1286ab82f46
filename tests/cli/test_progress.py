"""Progress bars: what they tell of the time that is left."""

import io
import time

from loco_jax.cli import progress


def test_what_is_compiled_before_the_first_is_left_out_of_estimates():
    begin = time.time()
    bar = progress.bar(11, "step", initial=3, file=io.StringIO())
    time.sleep(0.3)  # compiling
    bar.update(2)
    time.sleep(0.1)
    bar.update(4)
    told, passed = bar.format_dict, time.time() - begin
    # The rate is that of what came after the first: four steps in a tenth of a second.
    assert (told["n"], told["initial"]) == (9, 5) and 0.1 <= told["elapsed"] <= passed - 0.3
    bar.close()


def test_pauses_are_left_out_too():
    begin = time.time()
    bar = progress.bar(10, "step", file=io.StringIO())
    bar.update()
    time.sleep(0.3)  # compiling for something else
    bar.unpause()
    assert bar.format_dict["elapsed"] <= time.time() - begin - 0.3
    bar.close()


def test_a_quiet_bar_says_nothing(capsys):
    with progress.bar(3, "step", quiet=True) as bar:
        bar.update()
        bar.unpause()
    assert capsys.readouterr().err == ""
