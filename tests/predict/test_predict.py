"""The predict command, with a predictor that is exact: it measures discs. Results are in the user's pixels and metres,
whatever the camera."""

import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import warnings

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import overlays, pictures, videos
from loco_jax.media.pictures import Focal
from loco_jax.predict import __main__ as predict
from loco_jax.predict import files, page, people, results
from loco_jax.predict.camera import Lens, camera_of
from loco_jax.predict.predictor import Predictor

RADIUS = 0.1  # metres, of the discs that stand for heads
BODY = np.array([[0, 0, 0], *np.random.default_rng(0).normal(0, 0.3, (13, 3))])
BODY[1:, 2] -= BODY[1:, 2].mean()
GREY = 90
PAINTS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]])
USUAL = Camera(200.0, 200.0, 160.0, 120.0)


class Discs(Predictor):
    """Finds a red, a green and a blue disc of 10 cm by their area, and hangs a body on each."""

    camera = USUAL
    image_size = (240, 320)
    description = "a finder of discs"

    def __init__(self, others=()):
        self.sizes, self.others = set(), others

    def __call__(self, image, camera):
        assert image.dtype == np.uint8 and image.ndim == 3
        assert all(n == t or (n > t and n % 32 == 0) for n, t in zip(image.shape, self.image_size))
        assert camera.fx == pytest.approx(200, rel=0.02) and camera.fy == pytest.approx(200, rel=0.02)
        self.sizes.add(image.shape)
        people = []
        for channel in range(3):
            others = np.delete(image.astype(float), channel, axis=-1).max(axis=-1)
            disc = np.clip((image[..., channel] - others) / 230, 0, 1)
            disc[disc < 0.05] = 0
            if disc.sum() < 3:
                continue
            v, u = (((axis + 0.5) * disc).sum() / disc.sum() for axis in np.indices(disc.shape))
            z = RADIUS * math.sqrt(math.pi * camera.fx * camera.fy / disc.sum())
            people.append(BODY + [(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
        people = np.array([*people, *self.others]).reshape(-1, 14, 3)
        return people.astype(np.float32), np.full((len(people), 14), 0.5, np.float32)


class Nobody(Discs):
    def __call__(self, image, camera):
        return np.zeros((0, 14, 3)), np.zeros((0, 14))


def scene(size, camera, heads):
    """A picture `[H, W, 3]` of discs at `heads` (metres), with smooth edges."""
    image = np.full((*size, 3), float(GREY))
    rows, columns = np.indices(size) + 0.5
    for (x, y, z), paint in zip(heads, PAINTS):
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        a, b = camera.fx * RADIUS / z, camera.fy * RADIUS / z
        away = np.hypot((columns - u) / a, (rows - v) / b)
        inside = np.clip((1 - away) * math.sqrt(a * b) + 0.5, 0, 1)[..., None]
        image += inside * (paint - image)
    return image.round().astype(np.uint8)


def save(path, size=(240, 320), camera=USUAL, heads=((0.2, -0.1, 3),), **options):
    Image.fromarray(scene(size, camera, heads)).save(path, **options)
    return path


def record(path, places, size=(240, 320), fps=10, options=None):
    """A video of one disc; returns its path."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        stream.options = {"crf": "4", "preset": "ultrafast", "g": "1"}
        for place in places:
            frame = av.VideoFrame.from_ndarray(scene(size, USUAL, place), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def head(person):
    return person["joints"]["head_top"]


def find(image, camera, predictor):
    """Joints and scores of the people in a picture by a known camera."""
    view = people.view_of(image.shape[:2], Lens(*camera), None, predictor)
    return people.find(image, view, predictor)


# ---- Any size, any camera


HEADS = [(0.2, -0.1, 3.0), (-0.9, 0.4, 4.0), (1.0, 0.6, 5.0)]


@pytest.mark.parametrize(
    ("size", "camera"),
    [
        ((240, 320), USUAL),
        ((481, 637), Camera(400.0, 400.0, 318.5, 240.5)),
        ((400, 250), Camera(250.0, 310.0, 100.0, 160.0)),
        ((1500, 2250), Camera(1600.0, 1600.0, 1125.0, 750.0)),
        ((700, 500), Camera(300.0, 300.0, 250.0, 350.0)),
        ((520, 700), Camera(900.0, 900.0, 349.0, 261.0)),
    ],
    ids=["as trained", "odd", "tall pixels, off centre", "large", "wide and upright", "narrow"],
)
def test_people_are_where_they_are_whatever_the_camera(size, camera):
    heads = [h for h in HEADS if all(0 < camera[i] * h[i] / h[2] + camera[i + 2] < size[1 - i] for i in range(2))]
    joints, scores = find(scene(size, camera, heads), camera, Discs())
    assert len(heads) >= 1 and scores.shape == (len(heads), 14)
    np.testing.assert_allclose(joints[:, 0], heads, rtol=0.015, atol=0.01)
    np.testing.assert_allclose(joints - joints[:, :1], np.broadcast_to(BODY, joints.shape), atol=1e-5)
    for found, (x, y, z) in zip(people.project(camera, joints[:, 0]), heads):
        assert found == pytest.approx([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], abs=0.6)


def test_a_field_of_view_too_wide_is_shrunk_and_people_still_are_where_they_are(tmp_path):
    camera = Camera(100.0, 100.0, 450.0, 300.0)  # 155 degrees
    joints, _ = find(scene((600, 900), camera, HEADS[:2]), camera, Discs())
    np.testing.assert_allclose(joints[:, 0], HEADS[:2], rtol=0.03)
    path = save(tmp_path / "p.png", (600, 900), camera, HEADS[:1])
    done = results.process(path, "p", tmp_path, Lens(fx=100.0), Discs())
    assert "wider than in training" in done.warnings[0] and read(tmp_path / "p.json")["warnings"] == list(done.warnings)


def test_few_sizes_are_compiled():
    predictor = Discs()
    for height in range(30, 430, 37):
        for width in range(30, 430, 41):
            find(np.zeros((height, width, 3), np.uint8), Camera(200.0, 200.0, 0.0, 0.0), predictor)
    assert len(predictor.sizes) <= 15  # of 110


def test_nobody_stands_in_the_padding():
    """Somebody may be found in the grey beside the picture, or be nowhere at all; neither is there."""
    in_picture, outside = BODY + [0, 0, 4], BODY + [2.4, 0, 4]
    nowhere = np.full((14, 3), np.nan)
    image = np.full((200, 200, 3), GREY, np.uint8)
    joints, _ = find(image, Camera(200.0, 200.0, 100.0, 100.0), Discs([outside, in_picture, nowhere]))
    np.testing.assert_allclose(joints, in_picture[None], atol=1e-6)


def test_holes_are_null_and_nothing_is_not_a_number(tmp_path):
    person = BODY + [0, 0, 4]
    person[3] = 0  # a hole
    person[5] = [0.1, 0.1, -1]  # behind the camera
    person[6] = np.nan
    path = save(tmp_path / "p.png", heads=())
    results.process(path, "p", tmp_path, Lens(), Discs([person]))
    (found,) = read(tmp_path / "p.json")["people"]
    assert list(found["joints"]) == list(skeleton.JOINTS)
    joints = list(found["joints"].values())
    assert joints[3]["xyz"] is None and joints[3]["pixel"] is None and joints[6]["xyz"] is None
    assert joints[5]["xyz"] == pytest.approx([0.1, 0.1, -1]) and joints[5]["pixel"] is None
    assert "NaN" not in (tmp_path / "p.json").read_text()


# ---- The camera


def test_where_the_camera_comes_from():
    size, film = (480, 640), Focal(555.0, 550.0, "EXIF: 31 mm on 35 mm film")

    def camera(lens=None, focal=None, size=size):
        return camera_of(size, lens or Lens(), focal, USUAL, (240, 320))

    assert camera()[0] == Camera(400.0, 400.0, 320.0, 240.0)
    assert camera()[1].startswith(f"assumed: {2 * math.degrees(math.atan(160 / 200)):.1f} degrees")
    assert camera(size=(640, 480))[0] == Camera(400.0, 400.0, 240.0, 320.0)  # held upright
    assert camera(focal=film) == (Camera(555.0, 550.0, 320.0, 240.0), film.source)
    assert camera(Lens(fov=90.0), film)[0] == pytest.approx(Camera(320.0, 320.0, 320.0, 240.0))
    assert camera(Lens(fov=90.0), film)[1] == "--fov=90"
    assert camera(Lens(fx=700.0, cx=300.0), film) == (Camera(700.0, 700.0, 300.0, 240.0), "--fx=700, --cx=300")
    assert camera(Lens(fy=700.0))[0] == Camera(700.0, 700.0, 320.0, 240.0)
    assert camera(Lens(fx=700.0, fy=600.0))[0] == Camera(700.0, 600.0, 320.0, 240.0)
    assert camera(Lens(cy=7.0), film) == (Camera(555.0, 550.0, 320.0, 7.0), f"{film.source}, --cy=7")


@pytest.mark.parametrize(
    ("lens", "words"),
    [
        (Lens(fov=90.0, fx=100.0), "--fov says the same as --fx"),
        (Lens(fov=180.0), "--fov=180"),
        (Lens(fov=0.1), "--fov=0.1"),
        (Lens(fx=-1.0), "--fx=-1"),
        (Lens(fy=0.0), "--fy=0"),
        (Lens(cy=float("nan")), "--cy=nan"),
        (Lens(fx=float("inf")), "--fx=inf"),
        (Lens(cx=1e6), "--cx=1e.06 is far outside"),
        (Lens(fx=1.2), "a focal length of 1.2 pixels cannot be"),
        (Lens(fx=500.0, fy=1e6), "a focal length of 1e.06 pixels cannot be"),
        (Lens(fov=120.0, cx=-600.0), "--fov=120 cannot be with --cx=-600"),
    ],
)
def test_cameras_that_cannot_be(lens, words):
    with pytest.raises(ValueError, match=words):
        camera_of((480, 640), lens, None, USUAL, (240, 320))


@pytest.mark.parametrize("size", [(1, 2000), (3000, 1), (10, 4000)])
def test_thin_pictures_have_a_camera(size):
    for lens in (Lens(), Lens(fx=3000.0)):
        camera, _ = camera_of(size, lens, None, USUAL, (240, 320))
        assert camera.fx == camera.fy
        assert len(find(np.zeros((*size, 3), np.uint8), camera, Nobody())[0]) == 0


@pytest.mark.parametrize(
    ("fov", "cx"), [(20.0, 10.0), (90.0, 500.0), (150.0, 320.0), (140.0, 200.0), (60.0, 640.0), (30.0, -50.0)]
)
def test_a_field_of_view_is_from_edge_to_edge(fov, cx):
    camera, _ = camera_of((480, 640), Lens(fov=fov, cx=cx), None, USUAL, (240, 320))
    assert math.degrees(math.atan(cx / camera.fx) + math.atan((640 - cx) / camera.fx)) == pytest.approx(fov)
    assert camera.cx == cx and camera.fy == camera.fx


def test_pixels_that_are_not_square():
    """A pixel twice as wide as high: angles are those of the picture as it is shown, 640 by 320 pixels."""

    def camera(lens):
        return camera_of((320, 320), lens, None, USUAL, (240, 320), pixel_aspect=2.0)[0]

    assert camera(Lens())[:2] == pytest.approx((200.0, 400.0))
    assert camera(Lens(fov=90.0))[:2] == pytest.approx((160.0, 320.0))
    assert camera(Lens(fx=500.0))[:2] == (500.0, 500.0)  # as it is given


def test_exif_counts(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    camera = Camera(300.0, 300.0, 120.0, 180.0)
    image = np.rot90(scene((360, 240), camera, HEADS[:1]))  # a telephone's picture, stored on its side
    Image.fromarray(image).save(tmp_path / "p.jpg", exif=exif, quality=98, subsampling=0)
    results.process(tmp_path / "p.jpg", "p", tmp_path, Lens(), Discs())
    result = read(tmp_path / "p.json")
    assert (result["width"], result["height"]) == (240, 360)
    assert result["camera"] == {**camera._asdict(), "from": "EXIF: 30 mm on 35 mm film"}
    assert head(result["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.03, abs=0.01)


# ---- What is written


def test_a_picture_leaves_json_an_overlay_and_a_page(tmp_path):
    path = save(tmp_path / "p.png", heads=HEADS)
    done = results.process(path, "p", tmp_path / ".", Lens(), Discs())
    assert (done.people, done.frames, done.warnings) == (3, 1, ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", "p.png", "p_3d.html", "p_overlay.jpg"]
    result = read(tmp_path / "p.json")
    assert result["file"] == "p.png" and result["weights"] == "a finder of discs"
    assert [p["id"] for p in result["people"]] == [1, 2, 3] and result["people"][0]["score"] == 0.5
    for person, (x, y, z) in zip(result["people"], HEADS):
        assert head(person)["pixel"] == pytest.approx([200 * x / z + 160, 200 * y / z + 120], abs=0.5)
        assert head(person)["xyz"] == pytest.approx([x, y, z], rel=0.02) and head(person)["score"] == 0.5
    drawn = np.asarray(Image.open(tmp_path / "p_overlay.jpg"))
    assert drawn.shape == (720, 960, 3)
    assert (np.abs(drawn[..., 2].astype(int) - 0xB2) < 30).sum() > 100  # the first person's blue
    assert '"p.png"' in (tmp_path / "p_3d.html").read_text()


def test_what_is_unusual_about_a_picture_is_told(tmp_path):
    values = scene((240, 320), USUAL, HEADS[:1])[..., 0].astype(np.uint16) * 16
    Image.fromarray(values).save(tmp_path / "p.png")
    done = results.process(tmp_path / "p.png", "p", tmp_path, Lens(fov=1.0), Nobody())
    assert read(tmp_path / "p.json")["warnings"] == list(done.warnings)
    assert "taken for white" in done.warnings[0] and "field of view is so narrow" in done.warnings[1]


def test_a_very_large_picture_has_its_own_pixels_and_an_overlay_of_half_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_LARGE", 2_000_000)
    camera = Camera(1000.0, 1000.0, 800.0, 700.0)
    path = save(tmp_path / "p.jpg", (1401, 1601), camera, HEADS[:1], quality=95)
    done = results.process(path, "p", tmp_path, Lens(fx=1000.0, cx=800.0, cy=700.0), Discs())
    assert "1601 x 1401 pixels" in done.warnings[0]
    result = read(tmp_path / "p.json")
    assert (result["width"], result["height"], result["camera"]["fx"]) == (1601, 1401, 1000)
    (x, y, z), found = HEADS[0], head(result["people"][0])
    assert found["xyz"] == pytest.approx([x, y, z], rel=0.02, abs=0.01)
    assert found["pixel"] == pytest.approx([1000 * x / z + 800, 1000 * y / z + 700], abs=3)
    drawn = np.asarray(Image.open(tmp_path / "p_overlay.jpg")).astype(int)
    assert drawn.shape == overlays.drawn_size((701, 801)) + (3,)
    blue = np.argwhere(np.abs(drawn - (0, 0x72, 0xB2)).max(axis=-1) < 30) * [701, 801] / drawn.shape[:2]
    joints = np.array([joint["pixel"][::-1] for joint in result["people"][0]["joints"].values()]) / 2
    assert (blue.min(axis=0) > joints.min(axis=0) - 60).all() and (blue.max(axis=0) < joints.max(axis=0) + 60).all()


def test_nobody_is_a_result(tmp_path):
    path = save(tmp_path / "empty.png", (1000, 1200), heads=())
    assert results.process(path, "empty", tmp_path, Lens(), Discs()).people == 0
    assert read(tmp_path / "empty.json")["people"] == []
    assert (np.abs(np.asarray(Image.open(tmp_path / "empty_overlay.jpg")).astype(int) - GREY) <= 1).all()
    assert "No people" in (tmp_path / "empty_3d.html").read_text()


def test_earlier_results_are_replaced_and_links_not_followed(tmp_path):
    path = save(tmp_path / "p.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p_overlay.jpg").symlink_to(path)
    (tmp_path / "out" / "p.json").write_text("old")
    before = path.read_bytes()
    results.process(path, "p", tmp_path / "out", Lens(), Discs())
    assert path.read_bytes() == before and read(tmp_path / "out" / "p.json")["people"]
    assert not (tmp_path / "out" / "p_overlay.jpg").is_symlink()


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
        results.process(picture, name, tmp_path, Lens(), Discs(), quiet=True)
    assert files.name_outputs([path, pathlib.Path("v.mkv")], tmp_path) == ["p_3", "v"]


def test_a_picture_longer_than_jpeg_can_be(tmp_path):
    path = tmp_path / "p.png"
    Image.new("RGB", (70000, 20)).save(path)
    results.process(path, "p", tmp_path, Lens(), Nobody())
    assert Image.open(tmp_path / "p_overlay.jpg").size == (16384, 5) and read(tmp_path / "p.json")["width"] == 70000


@pytest.mark.parametrize(
    "name", ["...jpg", "..jpg", " .jpg", "a\nb.jpg", "é" * 120 + ".jpg", "\udcff.jpg", "a:b*?.jpg"]
)
def test_results_stay_in_the_folder_whatever_the_name(tmp_path, name):
    path = save(tmp_path / name, format="JPEG")
    (tmp_path / "out").mkdir()
    (given,) = files.name_outputs([path], tmp_path / "out")
    results.process(path, given, tmp_path / "out", Lens(), Discs())
    assert sorted(os.listdir(tmp_path)) == sorted([os.fsdecode(os.fsencode(name)), "out"])
    assert len(os.listdir(tmp_path / "out")) == 3
    assert "/" not in given and given.isprintable() and len(given.encode()) <= 200


def test_inputs_are_never_overwritten(tmp_path):
    """A picture that has the name of another's overlay, in the very folder of the results."""
    first, second = save(tmp_path / "p.png"), save(tmp_path / "p_overlay.jpg", heads=())
    before = second.read_bytes()
    assert results.process_all([first, second], tmp_path, Lens(), Discs()) == []
    assert second.read_bytes() == before and (tmp_path / "p_2_overlay.jpg").exists()
    assert read(tmp_path / "p_overlay.json")["people"] == []


# ---- Videos


def test_a_video_is_done_frame_by_frame(tmp_path, capsys):
    walk = [[(-0.5 + 0.2 * t, 0, 3.0)] for t in range(6)] + [[]]
    path = record(tmp_path / "v.mp4", walk)
    predictor = Discs()
    done = results.process(path, "v", tmp_path, Lens(), predictor)
    assert (done.people, done.frames) == (6, 7) and len(predictor.sizes) == 1
    result = read(tmp_path / "v.json")
    assert result["fps"] == 10 and result["complete"] and "people" not in result
    assert [frame["frame"] for frame in result["frames"]] == list(range(7))
    assert [frame["time"] for frame in result["frames"]] == pytest.approx([t / 10 for t in range(7)])
    found = [head(frame["people"][0])["xyz"] for frame in result["frames"][:6]]
    np.testing.assert_allclose(found, [place[0] for place in walk[:6]], atol=0.05)
    assert {p["id"] for frame in result["frames"] for p in frame["people"]} == {1}
    assert result["frames"][6]["people"] == []
    written = videos.info(tmp_path / "v_overlay.mp4")
    assert (written.frames, written.fps, written.width, written.height) == (7, 10, 960, 720)
    assert "v.mp4" in capsys.readouterr().err  # the progress bar
    assert not list(tmp_path.glob(".*"))


def test_a_truncated_video_is_done_as_far_as_it_goes(tmp_path):
    path = record(tmp_path / "v.mp4", [[(0.1 * t, 0, 3.0)] for t in range(30)], options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(results.InputError, match=r"v\.mp4.*frame") as error:
        results.process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    done = len(result["frames"])
    assert 5 < done < 25 and not result["complete"] and error.value.done.frames == done
    assert f"the {done} frames before that were done" in str(error.value)
    assert videos.info(tmp_path / "v_overlay.mp4").frames == done and (tmp_path / "v_3d.html").exists()


def test_a_video_keeps_its_own_pace(tmp_path):
    times = [0.0, 0.1, 0.2, 1.7, 1.8, 2.4]
    with videos.Writer(tmp_path / "v.mp4", 10, (240, 320)) as writer:
        for time in times:
            writer.write(scene((240, 320), USUAL, HEADS[:1]), 3 + time)
    results.process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert [frame["time"] for frame in result["frames"]] == pytest.approx(times, abs=1e-4)
    assert result["fps"] == pytest.approx(5 / 2.4, abs=1e-3)
    assert [time for *_, time in videos.read(tmp_path / "v_overlay.mp4")] == pytest.approx(times, abs=1e-4)
    assert '"times":[0.0,0.1,0.2,1.7,1.8,2.4]' in (tmp_path / "v_3d.html").read_text()


def test_frames_are_saved_as_they_come(tmp_path, monkeypatch):
    """Memory holds none of them but what the page shows."""
    monkeypatch.setattr(page, "MOST_FRAMES", 3)
    lines = []

    class Watched(Discs):
        def __call__(self, image, camera):
            (part,) = tmp_path.glob(".v.json.part")
            lines.append(part.read_text().count('"frame": '))
            return super().__call__(image, camera)

    path = record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 7)
    results.process(path, "v", tmp_path, Lens(), Watched(), quiet=True)
    assert lines == list(range(7)) and len(read(tmp_path / "v.json")["frames"]) == 7
    assert '"numbers":[0,4]' in (tmp_path / "v_3d.html").read_text()


@pytest.mark.parametrize(
    ("later", "words"), [((480, 640), None), ((240, 240), r"frame 2 \(counted from 0\) has 240 x")]
)
def test_frames_that_change_their_size(tmp_path, monkeypatch, later, words):
    """As in recorded calls: larger or smaller is resized; of another shape, the camera is another."""
    frames = [scene((240, 320), USUAL, HEADS[:1])] * 2
    double = Camera(*(2 * f for f in USUAL)) if later == (480, 640) else USUAL
    frames += [scene(later, double, HEADS[:1])] * 2
    path = record(tmp_path / "v.mp4", [[]])
    monkeypatch.setattr(videos, "read", lambda path: ((i, image, i / 10) for i, image in enumerate(frames)))
    if words:
        with pytest.raises(results.InputError, match=words):
            results.process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
        result = read(tmp_path / "v.json")
        assert len(result["frames"]) == 2 and result["fps"] == 10
        return
    done = results.process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert result["complete"] and len(result["frames"]) == 4 and result["warnings"] == list(done.warnings)
    assert len(done.warnings) == 1 and "frame 2" in done.warnings[0] and "resized" in done.warnings[0]
    for frame in result["frames"]:
        assert head(frame["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.03, abs=0.02)


def test_pixels_of_a_video_that_are_not_square(tmp_path):
    """Twice as wide as high: the camera assumed is that of the picture as it is shown."""
    camera = Camera(100.0, 200.0, 80.0, 120.0)
    with videos.Writer(tmp_path / "v.mp4", 10, (240, 160), pixel_aspect=2.0, quality=2) as writer:
        for _ in range(2):
            writer.write(scene((240, 160), camera, HEADS[:1]))
    results.process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert (result["camera"]["fx"], result["camera"]["fy"]) == (100, 200)  # 320 x 240 pixels as shown
    assert head(result["frames"][0]["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.05, abs=0.02)
    assert videos.info(tmp_path / "v_overlay.mp4").pixel_aspect == 2.0


def test_damaged_frames_are_told(tmp_path, monkeypatch):
    def damaged(path):
        yield 0, scene((240, 320), USUAL, []), 0.0
        warnings.warn(f"{path}: frame 1 (counted from 0) is damaged", videos.DamageWarning, stacklevel=2)
        yield 1, scene((240, 320), USUAL, []), 0.1

    path = record(tmp_path / "v.mp4", [[]])
    monkeypatch.setattr(videos, "read", damaged)
    done = results.process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    assert len(done.warnings) == 1 and "frame 1 (counted from 0) is damaged" in read(tmp_path / "v.json")["warnings"][0]


def test_what_is_no_video_leaves_nothing(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"v\.mp4"):
        results.process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs())
    assert os.listdir(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("size", [(320, 240), (320, 320)])
def test_a_telephones_video_is_turned(tmp_path, size):
    """Its header says to turn by a quarter, clockwise: the matrix (0, 1, -1, 0) in place of (1, 0, 0, 1)."""
    upright = Camera(200.0, 200.0, size[1] / 2, 160.0)
    lying = np.rot90(scene(size, upright, HEADS[:1]))
    path = tmp_path / "v.mp4"
    with videos.Writer(path, 10, lying.shape[:2], quality=2, pixel_aspect=2.0) as writer:
        for _ in range(3):
            writer.write(lying)
    straight = np.array([0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000], ">i4").tobytes()
    quarter = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4").tobytes()
    content = path.read_bytes()
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(straight, quarter, 1))
    results.process(path, "v", tmp_path, Lens(fx=200.0), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert (result["height"], result["width"]) == size
    assert head(result["frames"][0]["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.05, abs=0.02)
    overlay_info = videos.info(tmp_path / "v_overlay.mp4")
    assert (overlay_info.height, overlay_info.pixel_aspect) == (3 * 320, 0.5)
    results.process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    camera = read(tmp_path / "v.json")["camera"]
    assert camera["fx"] == 2 * camera["fy"]  # pixels are twice as high as wide


# ---- The command


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command with the finder of discs, in an empty folder."""
    sources = []
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: sources.append(source) or Discs())
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: predict.main([*map(str, arguments)]), sources


def test_the_least_score_goes_to_the_predictor_if_it_can_be_one(command, tmp_path, capsys, monkeypatch):
    main, _ = command
    save(tmp_path / "p.png")
    given = []
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: given.append(min_score) or Discs())
    assert main("p.png", "--min_score=0.25", "--quiet") == 0 and given == [0.25]
    capsys.readouterr()
    for value in ("1.5", "-0.1", "nan"):
        assert main("p.png", f"--min_score={value}", "--quiet") == 1
        assert capsys.readouterr().err == f"loco_jax: --min_score={value} must be from 0 to 1\n"
    assert given == [0.25]


def test_files_and_folders_and_what_is_wrong_with_some(command, tmp_path, capsys):
    main, sources = command
    (tmp_path / "folder").mkdir()
    (tmp_path / "nothing").mkdir()
    for name in ("folder/b.png", "folder/a.png", "p.png"):
        save(tmp_path / name)
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    (tmp_path / "bad.png").write_text("no picture")
    record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 3)
    status = main(
        "p.png", "bad.png", "folder", "folder/a.png", "missing.jpg", "nothing", "v.mp4", "--output=out", "--quiet"
    )
    printed = capsys.readouterr()
    assert status == 1 and sources == ["released"]
    for name in ("bad.png", "missing.jpg", "nothing"):
        assert printed.err.count(name) == 1
    assert printed.err.count("loco_jax: ") == 3
    written = sorted(p.name for p in (tmp_path / "out").glob("*.json"))
    assert written == ["a.json", "b.json", "p.json", "v.json"]
    assert "Using a finder of discs" in printed.out and "v.mp4: 3 frames" in printed.out
    assert "camera assumed" in printed.out


def test_what_is_left_out_of_folders_is_told(command, tmp_path, capsys):
    main, _ = command
    for name in ("p.png", "q.png"):
        save(tmp_path / name)
    for name in ("a.CR3", "b.nef", "notes.txt", ".hidden.mp4", "w.ogv"):
        (tmp_path / name).write_bytes(b"")
    stereo = [Image.new("RGB", (320, 240), colour) for colour in ("red", "green")]
    stereo[0].save(tmp_path / "r.mpo", save_all=True, append_images=stereo[1:])
    record(tmp_path / "v.mp4", [[]])
    assert main("v.mp4", "--output=.", "--quiet") == 0  # its overlay is no video to miss
    capsys.readouterr()
    assert main(".", "--output=out") == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "left out a.CR3, b.nef: " in told[0] and "left out v.mp4, w.ogv: " in told[1]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == ["p.json", "q.json", "r.json"]


def test_videos_by_other_names_are_videos(command, tmp_path, capsys):
    main, _ = command
    for name in ("film.ogv", "film"):
        record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 3).rename(tmp_path / name)
    save(tmp_path / "p.png").rename(tmp_path / "picture")
    (tmp_path / "notes.txt").write_text("no video\n" * 100)
    (tmp_path / "a.heic").write_bytes(b"")
    assert main("film.ogv", "film", "picture", "notes.txt", "a.heic", "--quiet") == 1
    printed = capsys.readouterr()
    assert printed.out.count("3 frames, 1.0 people in each") == 2 and printed.out.count("_overlay.mp4") == 2
    assert "picture: 1 person" in printed.out and "picture_overlay.jpg" in printed.out
    assert "notes.txt: is not a picture" in printed.err and "a.heic: is empty" in printed.err


def test_names_that_the_terminal_cannot_show(command, monkeypatch, tmp_path):
    main, _ = command
    paths = [save(tmp_path / "é\udcff.png", format="PNG"), tmp_path / "ü\udcff.png"]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(*paths, "--quiet") == 1
    out.flush(), err.flush()
    assert b"1 person" in out.buffer.getvalue() and b"no such file" in err.buffer.getvalue()


def test_success(command, tmp_path, capsys):
    main, sources = command
    save(tmp_path / "p.png")
    assert main("p.png", "--weights=runs/mine", "--fov=77.3196") == 0
    assert sources == ["runs/mine"] and capsys.readouterr().err == ""
    result = read(tmp_path / "out" / "p.json")
    assert result["camera"]["from"] == "--fov=77.3196"
    assert head(result["people"][0])["xyz"] == pytest.approx([0.2, -0.1, 3], rel=0.02, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["p.png", "--fov=500"], "--fov=500"),
        (["p.png", "--fov=60", "--fy=200"], "--fov says the same"),
        (["p.png", "--output=p.png"], "is a file"),
        (["p.png", "--output="], "--output= names no folder"),
        (["p.png", "--output=p.png/out"], "--output=p.png/out: cannot be written to"),
        (["p.png", "--cx=-10000"], "p.png: --cx=-10000 is far outside"),
        (["nowhere.png"], "nowhere.png: no such file"),
    ],
)
def test_clear_errors(command, tmp_path, capsys, arguments, words):
    main, sources = command
    save(tmp_path / "p.png")
    assert main(*arguments) == 1
    assert sources == [] or not any("--output" in argument for argument in arguments)  # known before the work
    error = capsys.readouterr().err
    assert words in error and error.startswith("loco_jax: ") and error.count("\n") == 1


def test_weights_that_cannot_be(command, monkeypatch, tmp_path, capsys):
    main, _ = command
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "p.png")
    assert main("p.png", "--weights=nowhere.safetensors") == 1
    assert "nowhere.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt(), RuntimeError("RESOURCE_EXHAUSTED\nand more"), signal.SIGTERM], ids=repr
)
def test_what_was_done_of_a_video_is_kept_whatever_stops_it(
    command, monkeypatch, tmp_path, capsys, own_sigterm, after, raised
):
    main, _ = command
    calls = []

    def stops(self, image, camera):
        calls.append(1)
        if len(calls) > after and raised == signal.SIGTERM:
            os.kill(os.getpid(), raised)
        elif len(calls) > after:
            raise raised
        return np.zeros((0, 14, 3)), np.zeros((0, 14))

    monkeypatch.setattr(Discs, "__call__", stops)
    record(tmp_path / "v.mp4", [[]] * 5)
    failed = isinstance(raised, RuntimeError)
    assert main("v.mp4", "--output=out", "--quiet") == (1 if failed else 130)
    error = capsys.readouterr().err
    assert ("RESOURCE_EXHAUSTED" if failed else "stopped") in error
    assert error.count("\n") == 1
    if not after:
        assert os.listdir(tmp_path / "out") == []
        return
    assert sorted(os.listdir(tmp_path / "out")) == ["v.json", "v_3d.html", "v_overlay.mp4"]
    result = read(tmp_path / "out" / "v.json")
    assert len(result["frames"]) == 2 and not result["complete"] and "2 frames before that were done" in error
    assert result["fps"] == 10
    assert len(list(videos.read(tmp_path / "out" / "v_overlay.mp4"))) == 2


def test_ctrl_c_leaves_no_half_files(command, monkeypatch, tmp_path, capsys):
    main, _ = command

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "to_html", interrupted)
    assert main(save(tmp_path / "p.png"), "--output=out") == 130
    assert sorted(os.listdir(tmp_path / "out")) == ["p.json", "p_overlay.jpg"] and "stopped" in capsys.readouterr().err


def test_a_failing_device_is_told_for_its_file(command, monkeypatch, tmp_path, capsys):
    main, _ = command

    def fails(self, image, camera):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand much more")

    monkeypatch.setattr(Discs, "__call__", fails)
    assert main(save(tmp_path / "p.png")) == 1
    assert capsys.readouterr().err == f"loco_jax: {tmp_path / 'p.png'}: RESOURCE_EXHAUSTED: out of memory\n"


def test_without_arguments_it_says_how():
    ran = subprocess.run([sys.executable, "-m", "loco_jax.predict"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == ""
    for word in ("usage:", "--weights", "--output", "--fov", "--fx", "EXIF"):
        assert word in ran.stderr
