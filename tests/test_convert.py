"""Saved results, and those of predict, as files for other software."""

import csv
import json
import os

import numpy as np
import pytest

from loco_jax import cli, convert
from loco_jax.predict import __main__ as predict
from loco_jax.predict import people, saved
from loco_jax.predict.camera import Lens
from tests.support.discs import HEADS, Discs, Nobody, process, record, save


def run(*arguments) -> int:
    return cli.run(convert.main, ["convert", *map(str, arguments)], convert.FLAGS)


@pytest.fixture
def film(tmp_path):
    """Results of a film of one person."""
    record(tmp_path / "v.mp4", [[(0.1 * t, 0, 3.0)] for t in range(4)])
    process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
    return tmp_path / "v.json"


def test_results_are_converted_beside_them_or_into_a_folder(film, tmp_path, capsys):
    assert run(film, "--export=trc,bvh,csv,trc") == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out == f"  {tmp_path / 'v.trc'}, v_p1.bvh, v.csv\n"
    assert run(film, "--export=csv", f"--output={tmp_path / 'new' / 'folder'}") == 0
    assert os.listdir(tmp_path / "new" / "folder") == ["v.csv"]
    with open(tmp_path / "v.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    heads = np.array([[float(row[c]) for c in "xyz"] for row in rows if row["joint"] == "head_top"])
    np.testing.assert_allclose(heads, [frame.joints[0, 0] for frame in saved.read(film)], atol=1e-4)


def test_all_formats(film, tmp_path):
    pytest.importorskip("ezc3d")
    pytest.importorskip("pygltflib")
    assert run(film, "--export=c3d,trc,bvh,gltf,csv", f"--output={tmp_path / 'out'}") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["v.c3d", "v.csv", "v.glb", "v.trc", "v_p1.bvh"]


def test_nobody_is_told(tmp_path, capsys):
    save(tmp_path / "p.png")
    process(tmp_path / "p.png", "p", tmp_path, Lens(), Nobody())
    assert run(tmp_path / "p.json", "--export=csv,trc", f"--output={tmp_path / 'out'}") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'p.json'}: nobody is found, so no file is written for csv, trc\n"
    assert os.listdir(tmp_path / "out") == []


def test_what_is_wrong_is_told_in_a_line(film, tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"version": 0, "persons": []}')
    text = json.loads(film.read_text())
    del text["frames"][1]["people"][0]["joints"]["neck"]
    (tmp_path / "older.json").write_text(json.dumps(text))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.json").write_bytes(film.read_bytes())
    (tmp_path / "v.trc").mkdir()
    cases = {
        (film, "--export=fbx"): "--export=fbx: there is no such format; formats are c3d, trc, bvh, gltf, csv",
        (film, "--export=trc"): "v.trc: is a folder; remove it, or name another --output",
        (film, "--export=csv", f"--output={film}"): f"--output={film}: cannot be written to",
        (tmp_path / "other.json", "--export=csv"): "other.json: is not JSON that predict wrote",
        (tmp_path / "older.json", "--export=csv"): "older.json: is not JSON that predict wrote (KeyError: 'neck')",
        (tmp_path / "nowhere.json", "--export=csv"): "nowhere.json",
    }
    for arguments, words in cases.items():
        assert run(*arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("loco_jax: ") and words in err and err.count("\n") == 1
    # One that fails does not stop the others.
    assert run(tmp_path / "other.json", film, "--export=csv") == 1 and (tmp_path / "v.csv").exists()
    assert run(film, tmp_path / "a" / "v.json", "--export=csv", f"--output={tmp_path / 'out'}") == 1
    assert "another input has the name v too" in capsys.readouterr().err
    for arguments in ([film], ["--export=csv"], [film, "--export=,"]):
        assert run(*arguments) == 2
        assert "usage: python -m loco_jax.convert" in capsys.readouterr().err


def test_a_folder_without_permission(film, tmp_path, capsys):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "shut").mkdir(mode=0o555)
    assert run(film, "--export=csv", f"--output={tmp_path / 'shut'}") == 1
    assert "shut: cannot be written to (Permission denied)" in capsys.readouterr().err


def test_predict_exports_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: Discs())
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        return cli.run(predict.main, ["predict", *arguments, "--quiet"], predict.FLAGS)

    save(tmp_path / "p.png", heads=HEADS)
    record(tmp_path / "v.mp4", [[(0.1 * t, 0, 3.0)] for t in range(4)])
    assert main("p.png", "v.mp4", "--export=trc,bvh") == 0
    assert "  out/p.trc, p_p1.bvh, p_p2.bvh, p_p3.bvh\n" in capsys.readouterr().out
    made = {"p.trc", "p_p1.bvh", "p_p2.bvh", "p_p3.bvh", "v.trc", "v_p1.bvh"}
    assert made <= set(os.listdir("out"))
    assert "\nFrames: 1\n" in (tmp_path / "out" / "p_p2.bvh").read_text()
    assert "\nFrames: 4\n" in (tmp_path / "out" / "v_p1.bvh").read_text()
    # Results that are there are exported without looking again.
    assert main("p.png", "v.mp4", "--export=csv", "--resume") == 0
    assert "2 of 2 inputs are done already" in capsys.readouterr().out
    assert {"p.csv", "v.csv"} <= set(os.listdir("out"))
    (tmp_path / "out" / "p.csv").unlink()
    (tmp_path / "out" / "p.csv").mkdir()
    assert main("p.png", "--export=csv") == 1
    assert "p.csv: is a folder" in capsys.readouterr().err
    assert main("p.png", "--export=dae") == 1
    assert capsys.readouterr().err == (
        "loco_jax: --export=dae: there is no such format; formats are c3d, trc, bvh, gltf, csv\n"
    )


def test_files_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: Discs())
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "p.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p.csv").write_text("mine")
    for _ in range(2):  # also when this command's own are there
        assert cli.run(predict.main, ["predict", "p.png", "--export=csv", "--quiet"], predict.FLAGS) == 0
    assert (tmp_path / "out" / "p.csv").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["p.csv", "p_2.csv"]
