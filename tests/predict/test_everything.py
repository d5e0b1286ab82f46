"""Many inputs: in order, together, again, and with what is wrong with some."""

import errno
import os
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from loco_jax.predict import everything, files
from loco_jax.predict.camera import Lens
from loco_jax.predict.everything import Input
from loco_jax.predict.results import Done, Options
from tests.support.discs import HEADS, Discs, head, process, read, record, save


class Counted(Discs):
    """Remembers the numbers of pictures that it got at once."""

    batch = 3

    def __init__(self):
        super().__init__()
        self.counts = []

    def find(self, images, cameras):
        self.counts.append(len(images))
        return super().find(images, cameras)


def inputs_of(paths, output):
    return [Input(path, os.path.join(output, path.stem)) for path in paths]


def test_pictures_are_looked_at_together_and_results_stay_in_order(tmp_path):
    """Canvases differ after the second and the sixth picture, and the fourth is none."""
    sizes = {"a": (240, 320), "b": (240, 320), "c": (480, 320), "d": None, "e": (480, 320), "f": (480, 320)}
    sizes |= {"g": (240, 320)}
    paths = [tmp_path / f"{name}.png" for name in sizes]
    for i, (path, size) in enumerate(zip(paths, sizes.values())):
        if size:
            save(path, size, heads=[(0.1 * i - 0.2, 0, 3.0)])
        else:
            path.write_text("no picture")
    predictor = Counted()
    lens = Lens(fx=200.0, cx=160.0, cy=120.0)
    found = list(everything.outcomes(inputs_of(paths, tmp_path), predictor, Options(lens)))
    assert [each.path for each, _ in found] == paths
    assert [isinstance(done, Done) for _, done in found] == [True, True, True, False, True, True, True]
    assert "d.png" in str(found[3][1]) and predictor.counts == [2, 1, 2, 1]
    for i, path in enumerate(paths):
        if i != 3:
            (person,) = read(tmp_path / f"{path.stem}.json")["people"]
            assert head(person)["xyz"] == pytest.approx([0.1 * i - 0.2, 0, 3.0], rel=0.02, abs=0.01)


def test_frames_of_a_video_are_looked_at_together(tmp_path):
    path = record(tmp_path / "v.mp4", [[(0.05 * t, 0, 3.0)] for t in range(7)])
    predictor = Counted()
    process(path, "v", tmp_path, Lens(), predictor, quiet=True)
    assert predictor.counts == [3, 3, 1] and len(read(tmp_path / "v.json")["frames"]) == 7


def test_pictures_for_which_memory_does_not_suffice_are_looked_at_one_by_one(tmp_path):
    class Small(Counted):
        def find(self, images, cameras):
            self.counts.append(len(images))
            if len(images) > 1 or images[0].mean() < 60:
                raise RuntimeError("out of memory")
            return Discs.find(self, images, cameras)

    paths = [save(tmp_path / f"{i}.png") for i in range(4)]
    Image.new("RGB", (320, 240)).save(paths[1])
    predictor = Small()
    found = [done for _, done in everything.outcomes(inputs_of(paths, tmp_path), predictor, Options())]
    assert [isinstance(done, RuntimeError) for done in found] == [False, True, False, False]
    assert predictor.counts == [3, 1, 1, 1, 1]


def test_resuming_does_only_what_is_missing(tmp_path, capsys):
    paths = [save(tmp_path / f"{i}.png") for i in range(4)]
    paths.append(record(tmp_path / "v.mp4", [[]] * 2))
    out = tmp_path / "out"
    out.mkdir()

    everything.process_all(everything.inputs_of(paths, out), out, Discs(), Options(), resume=True, quiet=True)
    assert all(f"{path}: " in line for path, line in zip(paths, capsys.readouterr().out.splitlines()[::2]))

    def done(**arguments):
        capsys.readouterr()
        predictor, resume = arguments.pop("predictor", Discs()), arguments.pop("resume", True)
        assert (
            everything.process_all(
                everything.inputs_of(paths, out), out, predictor, Options(**arguments), resume, quiet=True
            )
            == []
        )
        said = capsys.readouterr().out
        return [i for i, path in enumerate(paths) if f"{path}: " in said]

    assert done() == [] and done(resume=False) == [0, 1, 2, 3, 4]
    (out / "1_3d.html").unlink()  # killed before the last file
    os.utime(out / "2_overlay.jpg", ns=(0, 0))  # the overlay is that of an earlier run
    save(paths[3], heads=HEADS)  # another picture by the same name
    assert done() == [1, 2, 3] and len(read(out / "3.json")["people"]) == 3
    text = (out / "v.json").read_text()
    (out / "v.json").write_text(text.replace('"complete": true', '"complete": false'))
    for ending in ("_overlay.mp4", "_3d.html"):
        os.utime(out / f"v{ending}")
    assert done() == [4] and done() == []
    # A picture from another folder, of the same name and age.
    where = tmp_path / "elsewhere"
    where.mkdir()
    save(where / "0.png", heads=HEADS[1:2])
    stat = os.stat(paths[0])
    os.utime(where / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    mine, paths[0] = paths[0], where / "0.png"
    assert done() == [0]
    paths[0] = mine
    assert done() == [0]
    # Other wishes, other results.
    assert done(lens=Lens(fov=60.0)) == [0, 1, 2, 3, 4] == done()
    assert done(smooth=False) == [4] == done()
    other = Discs()
    other.min_score = 0.3
    assert done(predictor=other) == [0, 1, 2, 3, 4] and done(predictor=other) == []
    other.checksum = 7
    assert done(predictor=other) == [0, 1, 2, 3, 4]


def test_a_folder_is_a_film(tmp_path):
    folder = tmp_path / "my frames.of.today"
    folder.mkdir()
    for t in range(12):
        save(folder / f"{t}.png", heads=[(0.1 * t - 0.6, 0, 3.0)])
    done = process(folder, "f", tmp_path, Lens(), Discs(), quiet=True, fps=5.0)
    result = read(tmp_path / "f.json")
    assert (done.frames, done.people, done.tracks) == (12, 12, 1) and result["fps"] == 5
    xs = [head(frame["people"][0])["xyz"][0] for frame in result["frames"]]
    np.testing.assert_allclose(xs, 0.1 * np.arange(12) - 0.6, atol=0.03)
    assert (tmp_path / "f_overlay.mp4").exists() and result["file"] == "my frames.of.today"
    # One of another size ends it.
    Image.new("RGB", (100, 50)).save(folder / "7.png")
    failed = process(folder, "f", tmp_path, Lens(), Discs(), quiet=True, fps=5.0)
    assert "frame 7 (counted from 0) has another size" in failed.failure and failed.frames == 7


def test_smoothing_can_be_off(tmp_path):
    """Somebody trembles, and is away for three frames."""
    places = [[(0.03 * (-1) ** t, 0, 3.0)] if not 6 <= t < 9 else [] for t in range(15)]
    path = record(tmp_path / "v.mp4", places)
    assert process(path, "v", tmp_path, Lens(), Discs(), quiet=True, smooth=False).people == 12
    raw = read(tmp_path / "v.json")
    assert process(path, "v", tmp_path, Lens(), Discs(), quiet=True).people == 12
    smooth = read(tmp_path / "v.json")

    def xs(result, frames):
        return np.array([head(result["frames"][t]["people"][0])["xyz"][0] for t in frames])

    assert np.abs(xs(raw, range(6))).min() > 0.02 and np.abs(xs(smooth, range(15))).max() < 0.015
    bridged = [frame["people"][0]["score"] for frame in smooth["frames"]]
    assert bridged == [0.5] * 6 + [0] * 3 + [0.5] * 6
    assert not raw["made_of"]["smooth"] and smooth["made_of"]["smooth"] and "score 0" in smooth["ids"]


def test_videos_with_little_in_them(tmp_path, capsys):
    """Empty, without frames, of one frame, without people, with somebody in one frame; names have spaces."""
    where = tmp_path / "my films"
    where.mkdir()
    (where / "a empty.mp4").write_bytes(b"")
    with av.open(str(where / "b no frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        container.start_encoding()
    record(where / "c one frame.mp4", [[(0, 0, 3.0)]])
    record(where / "d nobody.mp4", [[]] * 4)
    record(where / "e one moment.mp4", [[], [(0, 0, 3.0)], [], []])
    out = tmp_path / "my results"
    out.mkdir()
    paths, failures, _ = files.collect([str(where)])
    assert not failures
    failed = everything.process_all(everything.inputs_of(paths, out), out, Discs(), Options(), quiet=True)
    printed = capsys.readouterr()
    assert [name for line in failed for name in ("a empty.mp4", "b no frames.mp4") if name in line] == [
        "a empty.mp4",
        "b no frames.mp4",
    ]
    assert printed.err.count("\n") == 2 == len(failed)
    said = [line.split(": ")[1].split(" (")[0] for line in printed.out.splitlines()[::2]]
    assert said == [
        "1 frame, 1.0 people in each, 1 track",
        "4 frames, 0.0 people in each, 0 tracks",
        "4 frames, 0.2 people in each, 1 track",
    ]
    names = [f"{name}{ending}" for name in ("c one frame", "d nobody", "e one moment") for ending in
             (".json", "_3d.html", "_overlay.mp4")]  # fmt: skip
    assert sorted(os.listdir(out)) == names
    found = [[len(frame["people"]) for frame in read(out / f"{name}.json")["frames"]] for name in
             ("c one frame", "d nobody", "e one moment")]  # fmt: skip
    assert found == [[1], [0] * 4, [0, 1, 0, 0]]


def test_a_folder_of_results_that_cannot_be_written_to(tmp_path, monkeypatch, capsys):
    """The disk is full, or the folder is gone, after some inputs: each has its line, and no file is half there."""
    paths = [save(tmp_path / f"{name}.png") for name in "ab"] + [record(tmp_path / "v.mp4", [[]] * 2)]
    out = tmp_path / "out"
    out.mkdir()

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    failed = everything.process_all(everything.inputs_of(paths, out), out, Discs(), Options(), quiet=True)
    assert len(failed) == 3 and all("No space left" in line for line in failed)
    assert capsys.readouterr().err.count("\n") == 3
    assert {path.suffix for path in out.iterdir()} <= {".json"} and not list(out.glob(".*"))
