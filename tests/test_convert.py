"""Saved results, and those of predict, as files for other software."""

import csv
import json
import os

import numpy as np
import pytest

from loco_jax import cli, convert
from loco_jax.predict import __main__ as predict
from loco_jax.predict import everything, people, saved
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
    (tmp_path / "half.json").write_text(json.dumps(text))
    text = json.loads(film.read_text())
    text["axes"] = text.pop("coordinates")
    (tmp_path / "older.json").write_text(json.dumps(text))
    text = json.loads(film.read_text())
    text["frames"].reverse()
    (tmp_path / "falling.json").write_text(json.dumps(text))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.json").write_bytes(film.read_bytes())
    (tmp_path / "v.trc").mkdir()
    cases = {
        (film, "--export=fbx"): "--export=fbx: there is no such format; formats are c3d, trc, bvh, gltf, csv",
        (film, "--export=trc"): "v.trc: is a folder; remove it, or name another --output",
        (film, "--export=csv", f"--output={film}"): f"--output={film}: cannot be written to",
        (tmp_path / "other.json", "--export=csv"): "other.json: is not JSON that predict wrote",
        (tmp_path / "half.json", "--export=csv"): "half.json: is not JSON that predict wrote (KeyError: 'neck')",
        (tmp_path / "older.json", "--export=csv"): "older.json: was written by an older version of predict",
        (tmp_path / "falling.json", "--export=csv"): "falling.json: the frames are not in order of time",
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
    (tmp_path / "V.json").write_bytes(film.read_bytes())  # some file systems ignore case
    assert run(film, tmp_path / "V.json", "--export=csv", f"--output={tmp_path / 'out'}") == 1
    assert "another input has the name V too" in capsys.readouterr().err and not os.listdir(tmp_path / "out")
    for arguments in ([film], ["--export=csv"], [film, "--export=,"]):
        assert run(*arguments) == 2
        assert "usage: python -m loco_jax.convert" in capsys.readouterr().err


def test_an_input_that_is_named_twice_is_converted_once(film, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("v.json", film, "./v.json", "--export=csv") == 0
    assert capsys.readouterr().out == "  v.csv\n"


def test_an_earlier_result_is_replaced_but_no_file_of_others(film, tmp_path, capsys):
    three = json.loads(film.read_text())
    for frame in three["frames"]:
        frame["people"] = [{**frame["people"][0], "id": number} for number in (1, 2, 3)]
    one, content = film.read_text(), json.dumps(three)
    film.write_text(content)
    assert run(film, "--export=bvh,csv") == 0
    film.write_text(one)
    capsys.readouterr()
    assert run(film, "--export=bvh,csv") == 0
    assert capsys.readouterr().out == (
        f"  {tmp_path / 'v_p1.bvh'}, v.csv; removed v_p2.bvh, v_p3.bvh of an earlier run\n"
    )
    assert {path.name for path in tmp_path.glob("*.bvh")} == {"v_p1.bvh"}
    (tmp_path / "v.csv").write_text("mine")
    assert run(film, "--export=trc,csv") == 1
    err = capsys.readouterr().err
    assert "v.csv: is not a file that predict or convert wrote; move it" in err and err.count("\n") == 1
    assert (tmp_path / "v.csv").read_text() == "mine" and not (tmp_path / "v.trc").exists()


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
    # Results that are there are exported without looking again, and without comparing each input with all others.
    with monkeypatch.context() as patch:
        patch.setattr(everything.Input, "__eq__", None)
        assert main("p.png", "v.mp4", "--export=csv", "--resume") == 0
    assert "2 of 2 inputs are done already" in capsys.readouterr().out
    assert {"p.csv", "v.csv"} <= set(os.listdir("out"))
    (tmp_path / "out" / "p.csv").unlink()
    (tmp_path / "out" / "p.csv").mkdir()
    assert main("p.png", "--export=csv", "--resume") == 1
    assert "p.csv: is a folder" in capsys.readouterr().err
    assert main("p.png", "--export=dae") == 1
    assert capsys.readouterr().err == (
        "loco_jax: --export=dae: there is no such format; formats are c3d, trc, bvh, gltf, csv\n"
    )


@pytest.fixture
def finder(tmp_path, monkeypatch):
    """A predictor, and a function that runs predict on p.png, with p.png in the working directory."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "p.png", heads=HEADS)

    def main(predictor, *arguments):
        monkeypatch.setattr(people, "load_predictor", lambda source, min_score: predictor)
        return cli.run(predict.main, ["predict", "p.png", *arguments, "--quiet"], predict.FLAGS)

    return main


@pytest.mark.parametrize(("name", "export"), [("p.csv", "csv"), ("p_p1.bvh", "bvh"), ("p_p1.bvh", "csv,bvh")])
@pytest.mark.parametrize("before", [False, True])
def test_files_of_others_stay(tmp_path, capsys, finder, name, export, before):
    """Also beside results of this command. They are told before the network looks at anything."""
    if before:
        assert finder(Discs()) == 0
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    capsys.readouterr()
    discs = Discs()
    assert finder(discs, f"--export={export}") == 1 and not discs.sizes
    assert capsys.readouterr().err == (
        f"loco_jax: p.png: out/{name}: is not a file that predict or convert wrote; move it, or name another --output\n"
    )
    assert (tmp_path / "out" / name).read_text() == "mine" and not list((tmp_path / "out").glob("p_2*"))
    assert finder(Discs()) == 0  # without --export nothing is in the way


def test_a_folder_in_the_way_is_told_first_and_stops_no_other_input(tmp_path, capsys, finder):
    (tmp_path / "out" / "p.csv").mkdir(parents=True)
    save(tmp_path / "q.png")
    assert finder(Discs(), "q.png", "--export=trc,csv") == 1
    said = capsys.readouterr()
    assert said.err == "loco_jax: p.png: out/p.csv: is a folder; remove it, or name another --output\n"
    assert "out/q.trc, q.csv\n" in said.out and not (tmp_path / "out" / "p.json").exists()


def test_files_of_people_who_are_not_found_again_are_removed(tmp_path, capsys, finder):
    assert finder(Discs(), "--export=csv,bvh") == 0
    assert len(list((tmp_path / "out").glob("p_p*.bvh"))) == 3
    capsys.readouterr()
    assert finder(Nobody(), "--export=csv,bvh") == 0
    assert (
        "out/p.json: nobody is found, so no file is written for csv, bvh; "
        "removed p.csv, p_p1.bvh, p_p2.bvh, p_p3.bvh of an earlier run\n"
    ) in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.bvh")) and not (tmp_path / "out" / "p.csv").exists()
