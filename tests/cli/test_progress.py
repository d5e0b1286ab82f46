"""Progress bars."""

from loco_jax.cli import progress


def test_a_quiet_bar_says_nothing(capsys):
    for quiet in (True, False):
        with progress.bar(3, "step", quiet=quiet) as bar:
            bar.update()
            bar.unpause()
        assert (capsys.readouterr().err == "") == quiet
