"""The table of options off and on: what is compared, what is said, and what of it outlasts a failure."""

import types

import pytest

from loco_jax import train
from loco_jax.benchmark import options
from loco_jax.data import streams
from loco_jax.experiment import create_task


def rows(path) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines()[4:]]


def test_each_option_is_measured_off_and_on(tmp_path, monkeypatch, capsys):
    ran = []

    def compile_it(config):
        seconds = 0.08 if config.model.pad_channels else 0.04
        return options.Program(lambda: ran.append(seconds), 2, 6, 3_000_000_000)

    def fail(config):
        raise RuntimeError("no such unit\nand more")

    monkeypatch.setattr(options, "time", types.SimpleNamespace(perf_counter=lambda: sum(ran)))
    for name, function in (("model.pad_channels", compile_it), ("model.volume_dtype", fail)):
        monkeypatch.setitem(options.OPTIONS, name, options.OPTIONS[name]._replace(compile=function))
    file = tmp_path / "table.md"
    arguments = ["model.volume_dtype", "model.pad_channels", "--scale=demo", "--iterations=2", f"--output={file}"]
    assert options.main(arguments) == 1
    failed, off, on = rows(file)
    assert failed[0] == "model.volume_dtype" and failed[-1] == "failed: RuntimeError: no such unit"
    assert off[:3] == ["model.pad_channels", "training VHA(2), published", "False"] and on[2] == "True"
    assert ran == 4 * [0.04, 0.08]  # in turns, two of them to warm up
    assert off[3:] == ["20", "150", "3.00 GB", "1.00"] and on[3:] == ["40", "75", "3.00 GB", "2.00"]  # of a step
    assert file.read_text().strip() in capsys.readouterr().out


@pytest.mark.parametrize("name", options.OPTIONS)
@pytest.mark.parametrize("scale", ["full", "demo"])
def test_options_are_off_by_default_and_on_makes_sense(name, scale):
    option = options.OPTIONS[name]
    off, on = options.configs_of(option, name, scale, 4)
    assert options.value_of(off, name) == options.value_of(option.config(scale), name) != option.on
    assert options.value_of(on, name) == option.on
    changed = on.copy_and_resolve_references()
    changed.update_from_flattened_dict({name: options.value_of(off, name)})
    assert changed == off
    create_task(on)
    train.make_optimizer(on)
    streams.crowd_of(on)


def test_bad_arguments_are_told(capsys):
    assert options.main(["model.pad"]) == 1
    assert "loco_jax: no option model.pad; there are optimizer.orthogonalise_every," in capsys.readouterr().err
    assert options.main(["--iterations=0"]) == 1
    assert "loco_jax: --iterations=0 must be at least 1" in capsys.readouterr().err
