"""The predict command with a predictor that is known: results in the user's pixels and metres, whatever the camera."""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from loco_jax import pictures, predict, view3d
from loco_jax.camera import Camera
from loco_jax.data import video

PERSON = np.random.default_rng(0).normal(0, 0.3, (14, 3)).astype(np.float32) + [0.2, -0.1, 6]


class Dot:
    """Finds the red dot by its colour and puts a person's head 6 m away there; nobody if there is none."""

    camera = Camera(200.0, 200.0, 160.0, 120.0)
    image_size = (240, 320)
    description = "a dot finder"

    def __call__(self, image, camera):
        assert image.dtype == np.uint8 and image.shape[0] % 32 == 0 and image.shape[1] % 32 == 0
        red = (image[..., 0].astype(int) - image[..., 1] > 90).astype(float)
        if not red.any():
            return np.zeros((0, 14, 3), np.float32), np.zeros((0, 14), np.float32)
        v, u = ((axis * red).sum() / red.sum() + 0.5 for axis in np.indices(red.shape))
        ray = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0])
        head = 6 * ray / np.linalg.norm(ray)
        return (PERSON - PERSON[0] + head)[None].astype(np.float32), np.full((1, 14), 0.5, np.float32)


def dotted(size, u, v, radius):
    image = np.full((*size, 3), 90, np.uint8)
    rows, columns = np.indices(size) + 0.5
    image[(rows - v) ** 2 + (columns - u) ** 2 < radius**2] = (250, 20, 20)
    return image


@pytest.mark.parametrize(
    ("size", "camera"),
    [
        ((240, 320), Camera(200.0, 200.0, 160.0, 120.0)),
        ((481, 637), Camera(400.0, 400.0, 318.5, 240.5)),
        ((300, 200), Camera(250.0, 310.0, 90.0, 160.0)),
        ((2000, 3000), Camera(2100.0, 2100.0, 1500.0, 1000.0)),
    ],
)
def test_results_are_in_the_users_pixels_whatever_the_camera(size, camera):
    u, v = 0.6 * size[1], 0.4 * size[0]
    joints, scores = predict.find(dotted(size, u, v, 0.03 * size[1]), camera, Dot())
    assert scores.shape == (1, 14)
    x, y, z = joints[0, 0]
    assert camera.fx * x / z + camera.cx == pytest.approx(u, abs=0.006 * size[1])
    assert camera.fy * y / z + camera.cy == pytest.approx(v, abs=0.006 * size[1])
    assert np.linalg.norm(joints[0, 0]) == pytest.approx(6, rel=1e-3)


def test_a_field_of_view_too_wide_is_shrunk_and_brought_nearer():
    """Eight times the trained pixels at equal angles: shrunk by the root of two, and so are distances."""
    camera = Camera(200.0, 200.0, 480.0, 320.0)
    joints, _ = predict.find(dotted((640, 960), 500, 300, 20), camera, Dot())
    shrink = np.sqrt(4 * 240 * 320 / (640 * 960))
    assert np.linalg.norm(joints[0, 0]) == pytest.approx(6 * shrink, rel=1e-3)


def test_where_the_camera_comes_from():
    size = (480, 640)
    known = predict.Lens()
    assert predict.camera_of(size, known, None, Dot())[0] == Camera(400.0, 400.0, 320.0, 240.0)  # Dot's field of view
    camera, source = predict.camera_of(size, known, 555.0, Dot())
    assert (camera.fx, camera.fy, source) == (555.0, 555.0, "EXIF")
    camera, _ = predict.camera_of(size, predict.Lens(fov=90.0), 555.0, Dot())
    assert camera.fx == pytest.approx(320) and camera.cx == 320
    camera, _ = predict.camera_of(size, predict.Lens(fx=700.0, cx=300.0), 555.0, Dot())
    assert camera == Camera(700.0, 700.0, 300.0, 240.0)


@pytest.mark.parametrize(
    ("lens", "word"),
    [
        (predict.Lens(fov=90.0, fx=100.0), "--fov and --fx"),
        (predict.Lens(fov=180.0), "--fov"),
        (predict.Lens(fx=-1.0), "--fx"),
        (predict.Lens(cy=float("nan")), "--cy"),
    ],
)
def test_cameras_that_cannot_be(lens, word):
    with pytest.raises(ValueError, match=word):
        predict.camera_of((480, 640), lens, None, Dot())


def test_a_picture_leaves_json_an_overlay_and_a_page(tmp_path):
    Image.fromarray(dotted((240, 320), 100, 80, 9)).save(tmp_path / "p.png")
    assert predict.process(tmp_path / "p.png", "p", tmp_path, predict.Lens(), Dot()) == 1
    result = json.loads((tmp_path / "p.json").read_text())
    assert result["file"] == "p.png" and result["camera_from"].startswith("assumed")
    (person,) = result["people"]
    assert person["joints"]["head_top"]["pixel"] == pytest.approx([100, 80], abs=1) and len(person["joints"]) == 14
    assert Image.open(tmp_path / "p_overlay.jpg").size == (320, 240)
    assert "p.png" in (tmp_path / "p_3d.html").read_text()


def test_nobody_is_a_result(tmp_path):
    Image.fromarray(np.full((50, 70), 99, np.uint8)).save(tmp_path / "grey.png")
    assert predict.process(tmp_path / "grey.png", "grey", tmp_path, predict.Lens(), Dot()) == 0
    assert json.loads((tmp_path / "grey.json").read_text())["people"] == []


def test_a_video_is_done_frame_by_frame(tmp_path):
    with video.Writer(tmp_path / "v.mp4", 10, (240, 320), quality=5) as writer:
        for t in range(4):
            writer.write(dotted((240, 320), 60 + 40 * t, 100, 12))
    assert predict.process(tmp_path / "v.mp4", "v", tmp_path, predict.Lens(), Dot(), quiet=True) == 4
    frames = json.loads((tmp_path / "v.json").read_text())["frames"]
    found = [frame["people"][0]["joints"]["head_top"]["pixel"][0] for frame in frames]
    np.testing.assert_allclose(found, [60, 100, 140, 180], atol=2)
    assert video.info(tmp_path / "v_overlay.mp4").frames == 4


def test_names_do_not_collide():
    paths = [pathlib.Path(p) for p in ("a/x.jpg", "b/x.png", "X.bmp", "x_2.jpg", "../y.jpg")]
    names = list(predict.name_outputs(paths))
    assert len({name.lower() for name in names}) == 5 and not any("/" in name or ".." in name for name in names)


def test_without_arguments_it_says_how(capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main([])
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


# ---- Pictures


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_all_kinds(tmp_path, mode):
    grey = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "p.png")
    else:
        Image.fromarray(grey).convert(mode).save(tmp_path / ("p.tif" if mode == "CMYK" else "p.png"))
    image, focal = pictures.read(next(tmp_path.iterdir()))
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8 and focal is None
    if mode != "1":
        assert np.abs(image.astype(int) - grey[..., None]).max() <= 3


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "p.png")
    assert (pictures.read(tmp_path / "p.png")[0] == 255).all()


def test_exif_turns_the_picture_and_tells_the_focal_length(tmp_path):
    picture = Image.fromarray(dotted((60, 100), 20, 30, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    exif.get_ifd(0x8769)[0xA405] = 50
    picture.save(tmp_path / "p.jpg", exif=exif, quality=95)
    image, focal = pictures.read(tmp_path / "p.jpg")
    assert image.shape == (100, 60, 3) and focal == pytest.approx(100 * 50 / 36)
    assert image[20, 30, 0] > 200 and image[20, 30, 1] < 80


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\x00" * 30])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(pictures.PictureError, match="p.png"):
        pictures.read(tmp_path / "p.png")
    with pytest.raises(pictures.PictureError, match="no such file"):
        pictures.read(tmp_path / "other.png")


def test_folders(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in pictures.find(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(pictures.PictureError, match="no picture"):
        pictures.find(tmp_path / "empty")


# ---- The page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "</script><script>console.error('x')</script> & \"quotes\" ü\u2028"


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("people", [0, 1])
def test_the_page_opens_without_errors_and_shows_people(tmp_path, people):
    joints = np.repeat(PERSON[None], people, axis=0)
    frames = [(joints, np.full((people, 14), 0.5))] * 3
    (tmp_path / "page.html").write_text(
        view3d.page(NASTY, frames, Dot.camera, Dot.image_size, fps=10), encoding="utf-8"
    )
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --window-size=800,600 --hide-scrollbars"
    )
    ran = subprocess.run(
        [
            BROWSER,
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={tmp_path / 'shot.png'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in ran.stderr, ran.stderr
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    blue = np.abs(shot - [0x00, 0x72, 0xB2]).max(axis=-1) < 12
    assert (blue.sum() > 300) == (people > 0)
    assert (np.abs(shot - 0xDD).max(axis=-1) < 12).sum() > 300  # the ground


def test_the_page_needs_no_network():
    text = view3d.page("a picture", [(PERSON[None], np.ones((1, 14)))], Dot.camera, Dot.image_size)
    assert "http" not in text and "src=" not in text and "@import" not in text
