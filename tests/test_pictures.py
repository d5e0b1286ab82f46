"""Pictures of all kinds against arrays made by hand, and resampling against the pinhole camera's formulas."""

import math
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from loco_jax import pictures
from loco_jax.camera import Camera

RAMP = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 60)], axis=-1)


def saved(tmp_path, picture, name="p.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def deep(values, dtype):
    return Image.fromarray(np.asarray(values, dtype))


# ---- Kinds of pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "P"])
def test_colours_are_kept(tmp_path, mode):
    name = "p.tif" if mode in ("CMYK", "YCbCr") else "p.png"
    image, focal = pictures.read(saved(tmp_path, Image.fromarray(COLOURS).convert(mode), name))
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8 and focal is None
    assert np.abs(image.astype(int) - COLOURS).max() <= (51 if mode == "P" else 3)  # the palette has steps of 51


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (Image.fromarray(RAMP), "p.png"),
        (Image.fromarray(RAMP).convert("LA"), "p.png"),
        (deep(RAMP.astype(int) * 257, np.uint16), "p.png"),
        (deep(RAMP.astype(int) * 257, np.uint16), "p.tif"),
        (deep(RAMP, np.int32), "p.tif"),
        (deep(RAMP.astype(int) * 257, np.int32), "p.tif"),
        (deep(RAMP / 255, np.float32), "p.tif"),
        (deep(RAMP, np.float32), "p.tif"),
    ],
    ids=["8 bits", "with alpha", "16 bits", "16 bits, TIFF", "32 bits of 8", "32 bits of 16", "0 to 1", "0 to 255"],
)
def test_grey_of_any_depth_is_grey_in_three_channels(tmp_path, picture, name):
    image, _ = pictures.read(saved(tmp_path, picture, name))
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, np.repeat(RAMP[..., None], 3, axis=-1), atol=1)


def test_floats_that_are_no_numbers_are_black(tmp_path):
    values = np.ones((4, 5), np.float32)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -3
    image, _ = pictures.read(saved(tmp_path, deep(values, np.float32), "p.tif"))
    assert (image[0, 0] == 0).all() and (image[1, 1] == 0).all() and (image[2, 2] == 0).all() and image[3, 3, 0] == 255


def test_two_colours(tmp_path):
    image, _ = pictures.read(saved(tmp_path, Image.fromarray(RAMP > 100)))
    np.testing.assert_array_equal(image[..., 1], np.where(RAMP > 100, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_grey(tmp_path, mode):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[:, :4] = (255, 0, 0, 0)
    path = saved(tmp_path, Image.fromarray(rgba).convert(mode) if mode == "P" else Image.fromarray(rgba))
    if mode == "P":
        picture = Image.new("P", (8, 8), 0)
        picture.putpalette([255, 0, 0, 255, 255, 255])
        picture.paste(1, (4, 0, 8, 8))
        picture.save(path, transparency=0)
    image, _ = pictures.read(path)
    assert (image[:, :4] == pictures.GREY).all() and (image[:, 4:] == 255).all()


def test_half_transparent_is_half_grey(tmp_path):
    image, _ = pictures.read(saved(tmp_path, Image.new("RGBA", (3, 3), (255, 255, 255, 128))))
    assert np.abs(image.astype(int) - (pictures.GREY + 255) // 2).max() <= 1


def test_of_several_pictures_the_first_counts(tmp_path):
    first, second = Image.new("RGB", (5, 4), "red"), Image.new("RGB", (5, 4), "blue")
    image, _ = pictures.read(saved(tmp_path, first, "p.gif", save_all=True, append_images=[second]))
    assert (image == (255, 0, 0)).all()


# ---- EXIF


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_turns_pictures(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image, _ = pictures.read(saved(tmp_path, Image.fromarray(COLOURS), exif=exif))
    np.testing.assert_array_equal(image, TURNED[orientation](COLOURS))


def with_exif(tmp_path, size, orientation=1, **tags):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base[name]: value for name, value in tags.items()})
    return pictures.read(saved(tmp_path, Image.new("RGB", size), "p.jpg", exif=exif)).focal


@pytest.mark.parametrize("size", [(360, 240), (240, 360)])
def test_a_focal_length_on_film(tmp_path, size):
    """On film of 36 by 24 mm, a picture as long as wide as that has 10 pixels a millimetre."""
    focal = with_exif(tmp_path, size, FocalLengthIn35mmFilm=50, FocalLength=4.2)
    assert (focal.fx, focal.fy) == pytest.approx((500, 500)) and "50 mm" in focal.source


def test_other_shapes_compare_diagonals_with_film(tmp_path):
    focal = with_exif(tmp_path, (400, 300), FocalLengthIn35mmFilm=26)
    assert focal.fx == pytest.approx(26 * 500 / math.hypot(36, 24))


@pytest.mark.parametrize(("unit", "pixels"), [(2, 2540.0), (3, 1000.0), (4, 100.0)])
def test_a_focal_length_and_the_sensors_pixels(tmp_path, unit, pixels):
    """5 mm on a sensor of 100 (across) and 200 (down) pixels a millimetre; then the picture was halved."""
    tags = {"FocalLength": 5.0, "FocalPlaneXResolution": pixels, "FocalPlaneYResolution": 2 * pixels}
    tags |= {"FocalPlaneResolutionUnit": unit, "ExifImageWidth": 800, "ExifImageHeight": 600}
    focal = with_exif(tmp_path, (400, 300), **tags)
    assert (focal.fx, focal.fy) == pytest.approx((250, 500))
    focal = with_exif(tmp_path, (400, 300), orientation=6, **tags)  # as stored; the picture is 300 by 400
    assert (focal.fx, focal.fy) == pytest.approx((500, 250))


SENSOR = {"FocalLength": 5.0, "FocalPlaneXResolution": 100.0, "FocalPlaneResolutionUnit": 4}


@pytest.mark.parametrize("tags", [SENSOR, {"FocalLengthIn35mmFilm": 30}], ids=["sensor", "film"])
def test_pictures_that_were_turned_or_cut_after_they_were_taken(tmp_path, tags):
    """A cut picture's camera is not known, since it may have been resized too; pixels stay square."""
    tags = tags | {"ExifImageWidth": 800, "ExifImageHeight": 600}
    whole = with_exif(tmp_path, (400, 300), **tags)
    assert whole.fx == whole.fy == pytest.approx(250 if tags.keys() >= SENSOR.keys() else 30 * 500 / math.hypot(36, 24))
    assert with_exif(tmp_path, (300, 400), **tags) == whole
    assert with_exif(tmp_path, (401, 300), **tags).fx == pytest.approx(whole.fx, rel=0.01)
    if "FocalPlaneXResolution" in tags:
        other = with_exif(tmp_path, (300, 400), **tags, FocalPlaneYResolution=200.0)
        assert (other.fx, other.fy) == pytest.approx((500, 250))
    for size in ((300, 300), (400, 225), (200, 600)):
        assert with_exif(tmp_path, size, **tags) is None


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"FocalLengthIn35mmFilm": 0},
        {"FocalLengthIn35mmFilm": 60000},
        {"FocalLength": 5.0},
        {"FocalLength": 5.0, "FocalPlaneXResolution": 0.0},
        {"FocalLength": 5.0, "FocalPlaneXResolution": 1000.0, "FocalPlaneResolutionUnit": 77},
    ],
)
def test_exif_that_tells_no_focal_length(tmp_path, tags):
    assert with_exif(tmp_path, (40, 30), **tags) is None


def test_exif_that_makes_no_sense(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOURS), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff nonsense")
    image, focal = pictures.read(path)
    np.testing.assert_array_equal(image, COLOURS)
    assert focal is None


# ---- What is no picture


def png_of(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 100))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not a picture", "is not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "p.png"),
        (png_of(40000, 40000), "too many pixels"),
        (png_of(50, 50), "damaged or cut off"),
    ],
    ids=["empty", "text", "header only", "bomb", "cut off"],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(pictures.PictureError, match=words) as error:
        pictures.read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.webp", "p.tif", "p.gif"])
def test_truncated_pictures(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(pictures.PictureError, match=name):
        pictures.read(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(pictures.PictureError, match=r"other\.png: no such file"):
        pictures.read(tmp_path / "other.png")
    with pytest.raises(pictures.PictureError, match="directory"):
        pictures.read(tmp_path)


def test_folders(tmp_path):
    names = ["b.png", "a.JPG", "c.tiff", "notes.txt", ".hidden.jpg", "film.mp4", "x_overlay.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [p.name for p in pictures.find(tmp_path)] == ["a.JPG", "b.png", "c.tiff", "x_overlay.jpg"]
    for name in ("x.json", "x_3d.html"):  # now it is one that we wrote
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in pictures.find(tmp_path)] == ["a.JPG", "b.png", "c.tiff"]
    for folder in (tmp_path / "folder.jpg", tmp_path / "nowhere"):
        with pytest.raises(pictures.PictureError, match=os.path.basename(folder)):
            pictures.find(folder)


def test_pictures_are_known_whatever_their_names(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOURS), "p.png").rename(tmp_path / "p")
    assert pictures.is_picture(path)
    path.write_text("this is none")
    assert not pictures.is_picture(path)


# ---- Resampling

TRAINED, TRAINED_SIZE = Camera(200.0, 210.0, 160.0, 120.0), (240, 320)
lengths = st.integers(1, 6000)
focals = st.floats(20, 9000)


@settings(max_examples=300, deadline=None)
@given(st.tuples(lengths, lengths), st.builds(Camera, focals, focals, st.floats(-50, 5000), st.floats(-50, 5000)))
def test_a_plan_keeps_angles_and_room(size, camera):
    canvas = pictures.plan(size, camera, TRAINED, TRAINED_SIZE)
    for inner, start, outer in zip(canvas.picture_size, canvas.origin, canvas.size):
        assert inner >= 1 and 0 <= start <= outer - inner
    assert all(n == t or (n > t and n % pictures.CELL == 0) for n, t in zip(canvas.size, TRAINED_SIZE))
    largest = pictures.MOST_PIXELS * math.prod(TRAINED_SIZE)
    rows, columns = (max(n, t) for n, t in zip(canvas.picture_size, TRAINED_SIZE))
    assert (rows - 1) * (columns - 1) <= largest
    assert 0 < canvas.shrink <= 1
    # A pixel of the picture and its place in the canvas lie on one ray; shrunk, only as far as the ray is shrunk too.
    for u in (0.0, 0.3, 1.0):
        x, y = (u * size[1] - camera.cx) / camera.fx, (u * size[0] - camera.cy) / camera.fy
        placed_x = (canvas.origin[1] + u * canvas.picture_size[1] - canvas.camera.cx) / canvas.camera.fx
        placed_y = (canvas.origin[0] + u * canvas.picture_size[0] - canvas.camera.cy) / canvas.camera.fy
        assert (placed_x, placed_y) == pytest.approx((x * canvas.shrink, y * canvas.shrink), rel=1e-6, abs=1e-6)
    # The optical axis is where it was in training, or the picture lies at the canvas's edge on that side.
    for own, trained, inner, start, outer in zip(
        canvas.camera[2:], TRAINED[2:], canvas.picture_size[::-1], canvas.origin[::-1], canvas.size[::-1]
    ):
        assert abs(own - trained) <= 0.51 or start == (0 if own > trained else outer - inner)
    # Focal lengths are those trained with, but for whole pixels.
    for inner, own, trained in (
        (canvas.picture_size[1], canvas.camera.fx, TRAINED.fx),
        (canvas.picture_size[0], canvas.camera.fy, TRAINED.fy),
    ):
        if inner > 1:
            assert own == pytest.approx(trained, rel=0.51 / (inner - 0.5))
    if canvas.shrink < 1:
        assert rows * columns > 0.8 * largest or min(canvas.picture_size) == 1


def test_the_trained_camera_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (*TRAINED_SIZE, 3), np.uint8)
    canvas = pictures.plan(TRAINED_SIZE, TRAINED, TRAINED, TRAINED_SIZE)
    assert canvas == (TRAINED_SIZE, (0, 0), TRAINED_SIZE, TRAINED, 1.0)
    np.testing.assert_array_equal(pictures.fill(canvas, image), image)


@pytest.mark.parametrize(
    ("axis", "origin"),
    [((25.0, 50.0), (95, 148)), ((625.0, 50.0), (95, 0)), ((25.0, 500.0), (0, 148)), ((-300.0, -300.0), (190, 295))],
    ids=["of its own", "left of it", "above it", "right of it and below"],
)
def test_a_smaller_picture_lies_where_its_axis_was_in_training(axis, origin):
    """A picture of 50 by 100 pixels, at half their size, cut from one that was as in training or larger."""
    canvas = pictures.plan((100, 50), Camera(400.0, 420.0, *axis), TRAINED, TRAINED_SIZE)
    assert canvas.picture_size == (50, 25) and canvas.origin == origin
    filled = pictures.fill(canvas, np.full((100, 50, 3), 7, np.uint8))
    assert filled.shape == (240, 320, 3)
    inside = np.zeros((240, 320), bool)
    inside[origin[0] : origin[0] + 50, origin[1] : origin[1] + 25] = True
    assert (filled[inside] == 7).all() and (filled[~inside] == pictures.GREY).all()


def test_who_was_shrunk_comes_nearer_as_a_whole():
    rng = np.random.default_rng(0)
    camera = Camera(70.0, 60.0, 300.0, 210.0)
    canvas = pictures.plan((480, 640), camera, TRAINED, TRAINED_SIZE)
    assert canvas.shrink < 0.7
    joints = rng.normal(0, 0.3, (3, 14, 3)) + np.array([[0, 0, 12], [8, -1, 20], [-3, 2, 9]])[:, None]
    known = rng.random((3, 14)) < 0.7
    moved = pictures.to_user(canvas, np.where(known[..., None], joints, 0), known)
    assert (moved[~known] == 0).all()
    for person, before, there in zip(moved, joints, known):
        middle, was = person[there, 2].mean(), before[there, 2].mean()
        assert middle == pytest.approx(canvas.shrink * was)
        np.testing.assert_allclose(person[there, 2] - middle, before[there, 2] - was, atol=1e-9)
        # Everything stays where it is in the picture.
        own = person[there, :2] / person[there, 2:] * camera[:2] + camera[2:]
        inside = before[there, :2] / before[there, 2:] * canvas.camera[:2] + canvas.camera[2:]
        placed = own * np.array(canvas.picture_size[::-1]) / [640, 480] + canvas.origin[::-1]
        np.testing.assert_allclose(placed, inside, atol=1e-6)


def test_nobody_gets_behind_the_camera():
    canvas = pictures.plan((480, 640), Camera(30.0, 30.0, 320.0, 240.0), TRAINED, TRAINED_SIZE)
    joints = np.stack([np.zeros(14), np.zeros(14), np.linspace(0.5, 3, 14)], axis=-1)[None]
    assert (pictures.to_user(canvas, joints, np.ones((1, 14), bool))[..., 2] > 0).all()
