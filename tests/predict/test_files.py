"""Names of results, in a folder that may hold other files."""

import os
import pathlib
import shutil

import pytest

from loco_jax.predict import everything, files
from loco_jax.predict.camera import Lens
from loco_jax.predict.results import Options
from tests.support.discs import Discs, process, read, record, save


def test_names_do_not_collide(tmp_path):
    paths = [
        pathlib.Path(p) for p in ("a/x.jpg", "b/x.png", "X.bmp", "x_2.jpg", "../y.jpg", "a/x_overlay.jpg", "x.mp4")
    ]
    names = files.name_outputs(paths, tmp_path)
    written = [file.lower() for name in names for file in files.outputs(name)]
    assert len(set(written)) == len(written) and names[0] == "x" and names[4] == "y"


def test_only_our_own_results_are_replaced(tmp_path):
    """A folder may hold somebody's notes by the name that ours would have, or a drawing."""
    path = pathlib.Path("p.png")
    assert files.name_outputs([path], tmp_path) == ["p"]
    (tmp_path / "p.json").write_text('{"notes": "of mine"}')
    (tmp_path / "p_2_overlay.jpg").write_text("a drawing")
    assert files.name_outputs([path], tmp_path) == ["p_3"]
    for name, picture in (("p_3", save(tmp_path / "p.png")), ("v", record(tmp_path / "v.mp4", [[]] * 2))):
        process(picture, name, tmp_path, Lens(), Discs(), quiet=True)
    assert files.name_outputs([path, pathlib.Path("v.mkv")], tmp_path) == ["p_3", "v"]


@pytest.mark.parametrize(
    "name", ["...jpg", "..jpg", " .jpg", "a\nb.jpg", "é" * 120 + ".jpg", "\udcff.jpg", "a:b*?.jpg"]
)
def test_results_stay_in_the_folder_whatever_the_name(tmp_path, name):
    path = save(tmp_path / name, format="JPEG")
    (tmp_path / "out").mkdir()
    (given,) = files.name_outputs([path], tmp_path / "out")
    process(path, given, tmp_path / "out", Lens(), Discs())
    assert sorted(os.listdir(tmp_path)) == sorted([os.fsdecode(os.fsencode(name)), "out"])
    assert len(os.listdir(tmp_path / "out")) == 3
    assert "/" not in given and given.isprintable() and len(given.encode()) <= 200


def test_inputs_are_never_overwritten(tmp_path):
    """A picture that has the name of another's overlay, in the very folder of the results."""
    first, second = save(tmp_path / "p.png"), save(tmp_path / "p_overlay.jpg", heads=())
    before = second.read_bytes()
    assert (
        everything.process_all(everything.inputs_of([first, second], tmp_path), tmp_path, Discs(), Options(Lens()))
        == []
    )
    assert second.read_bytes() == before and (tmp_path / "p_2_overlay.jpg").exists()
    assert read(tmp_path / "p_overlay.json")["people"] == []


def test_only_videos_of_a_folder_are_inputs(tmp_path):
    """No folder of such a name, no TypeScript, no dangling link, no overlay of ours, but an overlay of somebody's."""
    record(tmp_path / "a.mp4", [[]])
    (tmp_path / "b.mov").mkdir()
    (tmp_path / "c.ts").write_text("export const c = 3;")
    (tmp_path / "d.mp4").symlink_to("nowhere")
    shutil.copy(tmp_path / "a.mp4", tmp_path / "e_overlay.mp4")
    shutil.copy(tmp_path / "a.mp4", tmp_path / "f_overlay.mp4")
    (tmp_path / "f.json").write_text("{}")
    paths, failures, notes = files.collect([str(tmp_path)])
    assert [path.name for path in paths] == ["a.mp4", "e_overlay.mp4"] and not failures and not notes
    save(tmp_path / "g.png")
    save(tmp_path / "h_overlay.jpg")
    (tmp_path / "h.json").write_text("{}")
    assert [path.name for path in files.collect([str(tmp_path)])[0]] == ["a.mp4", "e_overlay.mp4", "g.png"]
    videos_and_folder = files.collect([str(tmp_path)], as_films=True)[0]
    assert [path.name for path in videos_and_folder] == ["a.mp4", "e_overlay.mp4", tmp_path.name]
