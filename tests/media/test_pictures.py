"""Pictures of all kinds against arrays made by hand, and their EXIF."""

import math
import os
import re
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from loco_jax.media import pictures

RAMP = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 60)], axis=-1)


def saved(tmp_path, picture, name="p.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def png(width, height, bits, kind, data):
    """A PNG file's bytes, of compressed data."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)


def deep(values, dtype):
    return Image.fromarray(np.asarray(values, dtype))


# ---- Kinds of pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "P"])
def test_colours_are_kept(tmp_path, mode):
    name = "p.tif" if mode in ("CMYK", "YCbCr") else "p.png"
    packed = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}  # Pillow before 13 reads no other of that mode
    image, focal, *_ = pictures.read(saved(tmp_path, Image.fromarray(COLOURS).convert(mode), name, **packed))
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
    image = pictures.read(saved(tmp_path, picture, name)).image
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, np.repeat(RAMP[..., None], 3, axis=-1), atol=1)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_cameras_of_fewer_bits_than_their_files(tmp_path, name, bits):
    """Values in the low bits of 16, as cameras for machines and for heat write them; what is assumed is told."""
    values = RAMP.astype(int) * (2**bits - 1) // 255
    picture = pictures.read(saved(tmp_path, deep(values, np.uint16), name))
    np.testing.assert_allclose(picture.image, np.repeat(RAMP[..., None], 3, axis=-1), atol=1)
    (told,) = picture.warnings
    assert f"{2**bits - 1}, of {bits} bits, was taken for white" in told


def png_of_16_bits(path, values):
    """A PNG of colours `[H, W, 3 or 4]`, 16 bits each, which Pillow does not write."""
    kind = {3: 2, 4: 6}[values.shape[2]]
    data = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(values.shape[1], values.shape[0], 16, kind, zlib.compress(data)))
    return path


def tiff_of_16_bits(path, values, order, turn=1):
    """An uncompressed TIFF of colours `[H, W, 3]`, in either order of bytes."""
    data = values.astype(order + "u2").tobytes()
    height, width, _ = values.shape
    shorts = {256: width, 257: height, 259: 1, 262: 2, 274: turn, 277: 3, 278: height, 284: 1}
    longs = {258: (3, 8 + len(data)), 273: (1, 8 + len(data) + 6), 279: (1, len(data))}
    longs[273] = (1, 8)
    entries = [struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()]
    entries += [struct.pack(order + "HHII", tag, 3 if tag == 258 else 4, n, value) for tag, (n, value) in longs.items()]
    entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
    depths = struct.pack(order + "HHH", 16, 16, 16)
    header = {"<": b"II*\x00", ">": b"MM\x00*"}[order] + struct.pack(order + "I", 8 + len(data) + len(depths))
    table = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(header + data + depths + table)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >"])
def test_colours_of_16_bits_of_which_a_camera_fills_fewer(tmp_path, kind, bits):
    values = COLOURS.astype(int) * (2**bits - 1) // 255
    if kind == "png":
        path = png_of_16_bits(tmp_path / "p.png", values)
    else:
        path = tiff_of_16_bits(tmp_path / "p.tif", values, kind[-1])
    picture = pictures.read(path)
    np.testing.assert_allclose(picture.image, COLOURS, atol=1)
    assert len(picture.warnings) == (bits in (10, 12))


def test_a_turned_tiff_of_12_bits_with_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiff_of_16_bits(tmp_path / "a:b.tif", COLOURS.astype(int) * 4095 // 255, "<", turn=6)
    picture = pictures.read("a:b.tif")
    np.testing.assert_allclose(picture.image, np.rot90(COLOURS, -1), atol=1)
    assert picture.size == picture.image.shape[:2]


def test_dark_pictures_are_left_dark(tmp_path):
    dark = COLOURS // 8
    for name in ("p.png", "p.tif"):
        Image.fromarray(dark).save(tmp_path / name)
        np.testing.assert_array_equal(pictures.read(tmp_path / name).image, dark)


def test_transparent_colours_of_12_bits(tmp_path):
    values = np.concatenate([COLOURS, np.full_like(RAMP, 255)[..., None]], axis=-1).astype(int) * 4095 // 255
    values[:, :20, 3] = 0
    image = pictures.read(png_of_16_bits(tmp_path / "p.png", values)).image
    assert (image[:, :20] == pictures.GREY).all()
    np.testing.assert_allclose(image[:, 20:], COLOURS[:, 20:], atol=1)


def test_floats_that_are_no_numbers_are_black(tmp_path):
    values = np.ones((4, 5), np.float32)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -3
    image = pictures.read(saved(tmp_path, deep(values, np.float32), "p.tif")).image
    assert (image[0, 0] == 0).all() and (image[1, 1] == 0).all() and (image[2, 2] == 0).all() and image[3, 3, 0] == 255


def test_two_colours(tmp_path):
    image = pictures.read(saved(tmp_path, Image.fromarray(RAMP > 100))).image
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
    image = pictures.read(path).image
    assert (image[:, :4] == pictures.GREY).all() and (image[:, 4:] == 255).all()


def test_half_transparent_is_half_grey(tmp_path):
    image = pictures.read(saved(tmp_path, Image.new("RGBA", (3, 3), (255, 255, 255, 128)))).image
    assert np.abs(image.astype(int) - (pictures.GREY + 255) // 2).max() <= 1


def test_of_several_pictures_the_first_counts(tmp_path):
    first, second = Image.new("RGB", (5, 4), "red"), Image.new("RGB", (5, 4), "blue")
    image = pictures.read(saved(tmp_path, first, "p.gif", save_all=True, append_images=[second])).image
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


@pytest.mark.parametrize("name", ["p.heic", "p.jpg", "p"])
def test_heic_is_read_by_any_name(tmp_path, name):
    """A telephone's, stored on its side and, where it was sent on, called what it is not."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
    smooth = np.asarray(Image.fromarray(COLOURS).resize((360, 240)))
    encoded = pillow_heif.from_pillow(Image.fromarray(smooth))
    encoded.save(tmp_path / "x", quality=95, exif=exif.tobytes())
    path = (tmp_path / "x").rename(tmp_path / name)
    assert path.read_bytes()[4:12] == b"ftypheic" and pictures.is_picture(path)
    image, focal, size, _ = pictures.read(path)
    assert size == (360, 240) and image.shape == (360, 240, 3)
    assert np.abs(image.astype(int) - np.rot90(smooth, -1)).mean() < 3
    assert (focal.fx, focal.fy) == pytest.approx((500, 500))


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_turns_pictures(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = pictures.read(saved(tmp_path, Image.fromarray(COLOURS), exif=exif)).image
    np.testing.assert_array_equal(image, TURNED[orientation](COLOURS))


def with_exif(tmp_path, size, others=(), orientation=1, **tags):
    exif = Image.Exif()
    exif.update(others)
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


@pytest.mark.parametrize(
    ("tags", "maker", "length"),
    [
        ({"FocalLengthIn35mmFilm": 50}, None, 1000),
        ({"FocalLengthIn35mmFilm": 50}, "Apple", 500),  # taken to count the zoom
        ({"FocalLength": 5.0, "FocalPlaneXResolution": 100.0, "FocalPlaneResolutionUnit": 4}, None, 1000),
        ({"FocalLength": 5.0, "FocalPlaneXResolution": 100.0, "FocalPlaneResolutionUnit": 4}, "Apple", 1000),
    ],
)
def test_a_digital_zoom_is_counted_once_and_told(tmp_path, tags, maker, length):
    exif = {} if maker is None else {ExifTags.Base.Make: maker}
    focal = with_exif(tmp_path, (360, 240), exif, DigitalZoomRatio=2.0, **tags)
    assert focal.fx == focal.fy == pytest.approx(length)
    assert ("2 times as long by digital zoom" in focal.source) == (length == 1000)
    for zoom in (0.0, 1.0):
        assert "zoom" not in with_exif(tmp_path, (360, 240), exif, DigitalZoomRatio=zoom, **tags).source


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
    image, focal, *_ = pictures.read(path)
    np.testing.assert_array_equal(image, COLOURS)
    assert focal is None


# ---- What is no picture


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not a picture", "is not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "p.png"),
        (png(40000, 40000, 8, 2, zlib.compress(bytes(100))), "too many pixels"),
        (png(50, 50, 8, 2, zlib.compress(bytes(100))), "damaged or cut off"),
    ],
    ids=["empty", "text", "header only", "bomb", "cut off"],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(pictures.PictureError, match=words) as error:
        pictures.read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.webp", "p.tif", "p.gif", "p.heic"])
def test_truncated_pictures(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(pictures.PictureError, match=name):
        pictures.read(path)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("missing", "rows"), [(1, 0), (2, 0), (3, 16), (300, 32)])
def test_a_jpeg_without_its_last_bytes_is_read(tmp_path, missing, rows, progressive):
    noise = np.random.default_rng(0).integers(0, 256, (640, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "p.jpg", progressive=progressive, subsampling=0)
    whole = pictures.read(path)
    assert whole.warnings == ()
    path.write_bytes(path.read_bytes()[:-missing])
    picture = pictures.read(path)
    there = len(noise) - rows
    np.testing.assert_array_equal(picture.image[:there], whole.image[:there])
    (told,) = picture.warnings
    assert "the end of its file is missing" in told
    count = re.search("its last ([0-9]+) of 640 rows are incomplete", told)
    assert int(count[1]) <= rows if count else missing < 4
    path.write_bytes(path.read_bytes()[: round(0.9 * path.stat().st_size)])
    if not progressive:  # of those, all rows are there, in less detail
        with pytest.raises(pictures.PictureError, match="p.jpg.*cut off"):
            pictures.read(path)


@pytest.mark.parametrize("size", [(10_001, 9_001), (16_320, 12_240)])
def test_very_large_pictures_are_halved_while_they_are_decoded(tmp_path, size):
    """As telephones of 200 million pixels take them; where Pillow would only warn, and where it would refuse."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 24
    picture = Image.new("L", size, 90)
    picture.paste(200, (0, 0, size[0] // 4, size[1]))
    image, focal, upright, told = pictures.read(saved(tmp_path, picture, "p.jpg", exif=exif))
    assert upright == size and image.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)
    assert (image[: size[0] // 8 - 9] == 200).all() and (image[size[0] // 8 + 9 :] == 90).all()
    assert focal.fx == pytest.approx(24 * math.hypot(*size) / math.hypot(36, 24))
    assert told == (f"it has {size[0]} x {size[1]} pixels, and was read at half its size",)


def test_what_is_not_there(tmp_path):
    with pytest.raises(pictures.PictureError, match=r"other\.png: no such file"):
        pictures.read(tmp_path / "other.png")
    with pytest.raises(pictures.PictureError, match="directory"):
        pictures.read(tmp_path)


def test_folders(tmp_path):
    names = ["b.png", "a.JPG", "c.tiff", "d.mpo", "e.HEIC", "notes.txt", ".hidden.jpg", "film.mp4", "x_overlay.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [p.name for p in pictures.find(tmp_path)] == ["a.JPG", "b.png", "c.tiff", "d.mpo", "e.HEIC", "x_overlay.jpg"]
    (tmp_path / "x_3d.html").write_bytes(b"")  # now it is one that we wrote
    assert [p.name for p in pictures.find(tmp_path)] == ["a.JPG", "b.png", "c.tiff", "d.mpo", "e.HEIC"]
    for folder in (tmp_path / "folder.jpg", tmp_path / "nowhere"):
        with pytest.raises(pictures.PictureError, match=os.path.basename(folder)):
            pictures.find(folder)


def test_pictures_are_known_whatever_their_names(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOURS), "p.png").rename(tmp_path / "p")
    assert pictures.is_picture(path)
    path.write_text("this is none")
    assert not pictures.is_picture(path)
