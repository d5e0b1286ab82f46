"""People are where they are in any camera's picture; `loco_jax.load` takes pictures in any form."""

import functools
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

import loco_jax
from loco_jax import cli
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project_on_host
from loco_jax.media import overlays
from loco_jax.predict import __main__ as predict
from loco_jax.predict import people
from loco_jax.predict.camera import Lens, camera_of
from tests.support import discs
from tests.support.discs import BODY, GREY, HEADS, USUAL, Discs, Nobody, scene


@pytest.fixture
def find(monkeypatch):
    monkeypatch.setattr(people, "load_predictor", lambda source, min_score: Discs())
    return loco_jax.load()


def test_a_picture_in_any_form(find, tmp_path):
    image = scene((240, 320), USUAL, HEADS)
    Image.fromarray(image).save(tmp_path / "p.png")
    forms = image, Image.fromarray(image), tmp_path / "p.png", str(tmp_path / "p.png")
    for found in map(find, forms):
        assert len(found) == 3 and isinstance(found, list)
        np.testing.assert_array_equal(found.image, image)
        for person, head in zip(found, HEADS):
            assert person.joints.shape == (14, 3) and person.pixels.shape == (14, 2) and person.scores.shape == (14,)
            np.testing.assert_allclose(person.joints[skeleton.JOINTS.index("head_top")], head, rtol=0.02, atol=0.01)
            np.testing.assert_allclose(person.joints - person.joints[0], BODY, atol=1e-5)
            np.testing.assert_allclose(
                person.pixels, USUAL.fx * person.joints[:, :2] / person.joints[:, 2:] + [160, 120]
            )


def test_the_camera_is_the_users_or_from_exif_or_assumed(find, tmp_path):
    image = Image.fromarray(scene((240, 320), USUAL, []))
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    image.save(tmp_path / "p.jpg", exif=exif)
    assert find(image).view.camera == USUAL and find(image).view.camera_from.startswith("assumed")
    assert find(tmp_path / "p.jpg").view.camera == pytest.approx((277.3, 277.3, 160, 120), rel=1e-3)
    given = Camera(150.0, 160.0, 170.0, 110.0)
    assert find(tmp_path / "p.jpg", given).view.camera == given == find(image, camera=given).view.camera
    assert find(image, fov=90.0).view.camera == pytest.approx((160, 160, 160, 120))
    for arguments in ({"camera": given, "fov": 90.0}, {"fov": 500.0}, {"camera": Camera(-1.0, 1.0, 0.0, 0.0)}):
        with pytest.raises(ValueError):
            find(image, **arguments)


def test_pictures_are_turned_as_exif_says(find):
    image = scene((320, 240), USUAL, [])
    image[:20] = 0
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(image)).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(find(Image.open(file)).image, image)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)]
)
def test_arrays_that_are_no_pictures(find, picture):
    with pytest.raises(ValueError, match="shape"):
        find(picture)


def test_jupyter_shows_the_overlay(find):
    image = scene((240, 320), USUAL, HEADS)
    shown = Image.open(io.BytesIO(find(image)._repr_jpeg_()))
    assert shown.format == "JPEG" and shown.size == (960, 720)
    drawn = overlays.draw(image, find(image))
    assert np.abs(np.asarray(shown).astype(int) - drawn).mean() < 5
    assert people.Finder(Nobody())(image)._repr_jpeg_()


def test_the_source_and_the_least_score_go_to_the_predictor(monkeypatch):
    given = []
    monkeypatch.setattr(people, "load_predictor", lambda *arguments: given.append(arguments) or Discs())
    loco_jax.load(), loco_jax.load("released"), loco_jax.load("runs/mine", 0.3), loco_jax.load(min_score=0.5)
    assert given == [("released", None), ("released", None), ("runs/mine", 0.3), ("released", 0.5)]


def test_the_package_is_imported_at_once():
    code = "import sys, loco_jax; loco_jax.load; print(sorted({'jax', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_released_weights_find_the_crowd(tmp_path, capsys, monkeypatch):
    """The nearest people stand where they stand, and the command writes what the function gives."""
    monkeypatch.setattr(people, "load_predictor", functools.cache(people.load_predictor))  # compiled once
    path, camera = pathlib.Path(__file__).parent / "crowd.jpg", Camera(289.5, 289.5, 240.0, 135.0)
    found = loco_jax.load("released")(path, camera)
    for head in ((-3.8, -0.1, 8.0), (3.6, 0.8, 5.4)):  # as the crowd has them; three more are 15 m away
        assert min(np.linalg.norm(person.joints[0] - head) for person in found) < 0.6
    lens = [f"--{name}={value}" for name, value in camera._asdict().items()]
    assert cli.run(predict.main, ["predict", str(path), *lens, "--output", str(tmp_path)], predict.FLAGS) == 0
    assert "the released weights, not suitable for photographs yet: " in capsys.readouterr().out
    written = json.loads((tmp_path / "crowd.json").read_text())["people"]
    assert [person["score"] for person in written] == pytest.approx([person.score for person in found], abs=1e-4)
    for person, other in zip(written, found):
        assert set(person["joints"]) == set(skeleton.JOINTS)
        np.testing.assert_allclose(
            person["joints"]["neck"]["xyz"], other.joints[skeleton.JOINTS.index("neck")], atol=1e-4
        )


# ---- Any size, any camera


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
    joints, scores = discs.find(scene(size, camera, heads), camera, Discs())
    assert len(heads) >= 1 and scores.shape == (len(heads), 14)
    np.testing.assert_allclose(joints[:, 0], heads, rtol=0.015, atol=0.01)
    np.testing.assert_allclose(joints - joints[:, :1], np.broadcast_to(BODY, joints.shape), atol=1e-5)
    for found, (x, y, z) in zip(project_on_host(camera, joints[:, 0]), heads):
        assert found == pytest.approx([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], abs=0.6)


def test_few_sizes_are_compiled():
    predictor = Discs()
    for height in range(30, 430, 37):
        for width in range(30, 430, 41):
            discs.find(np.zeros((height, width, 3), np.uint8), Camera(200.0, 200.0, 0.0, 0.0), predictor)
    assert len(predictor.sizes) <= 15  # of 110


def test_nobody_stands_in_the_padding():
    """Somebody may be found in the grey beside the picture, or be nowhere at all; neither is there."""
    in_picture, outside = BODY + [0, 0, 4], BODY + [2.4, 0, 4]
    nowhere = np.full((14, 3), np.nan)
    image = np.full((200, 200, 3), GREY, np.uint8)
    joints, _ = discs.find(image, Camera(200.0, 200.0, 100.0, 100.0), Discs([outside, in_picture, nowhere]))
    np.testing.assert_allclose(joints, in_picture[None], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 2000), (3000, 1), (10, 4000)])
def test_thin_pictures_have_a_camera(size):
    for lens in (Lens(), Lens(fx=3000.0)):
        camera, _ = camera_of(size, lens, None, USUAL, (240, 320))
        assert camera.fx == camera.fy
        assert len(discs.find(np.zeros((*size, 3), np.uint8), camera, Nobody())[0]) == 0
