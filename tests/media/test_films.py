"""Films of video files and of folders."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from loco_jax.media import films, pictures, videos
from tests.support.discs import record


def test_pictures_of_a_folder_are_a_film_in_the_order_of_their_numbers(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    for name, grey in {"1.jpg": 10, "2.jpg": 20, "10.jpg": 100, "a2.jpg": 120, "a10.jpg": 200}.items():
        Image.new("RGB", (320, 240), (grey, grey, grey)).save(tmp_path / name, exif=exif)
    film = films.of_pictures(tmp_path, 4.0)
    assert (film.fps, film.frames, film.pixel_aspect) == (4.0, 5, 1.0)
    assert film.focal == pictures.read(tmp_path / "1.jpg").focal is not None
    for _ in range(2):
        frames = list(film.read())
        assert [frame[0] for frame in frames] == [0, 1, 2, 3, 4]
        assert [int(frame[1].mean()) for frame in frames] == [10, 20, 100, 120, 200]
        assert [frame[2] for frame in frames] == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_picture_that_cannot_be_read(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_text("no picture")
    frames = films.of_pictures(tmp_path, 1.0).read()
    next(frames)
    with pytest.raises(pictures.PictureError, match=r"2\.jpg"):
        next(frames)
    with pytest.raises(pictures.PictureError, match="has no pictures"):
        films.of_pictures(tmp_path / "..", 1.0)


def test_a_film_warns_of_another_lens_and_of_what_is_odd(tmp_path):
    for number, millimetres in enumerate((30, 30, 85, 85)):
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
        Image.new("RGB", (320, 240)).save(tmp_path / f"{number}.jpg", exif=exif)
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[:-2])
    film = films.of_pictures(tmp_path, 1.0)
    with pytest.warns(videos.DamageWarning) as told:
        assert len(list(film.read())) == 4
    first, second = (str(warning.message) for warning in told)
    assert "1.jpg" in first and "end of its file is missing" in first
    assert "2.jpg: has another focal length in EXIF" in second


def test_a_video(tmp_path):
    path = record(tmp_path / "v.mp4", [[]] * 3, fps=5)
    film = films.of_video(path)
    assert (film.fps, film.frames, film.pixel_aspect, film.focal) == (5.0, 3, 1.0, None)
    for (a, image, time), (b, same, at) in zip(film.read(), videos.read(path), strict=True):
        assert (a, time) == (b, at)
        np.testing.assert_array_equal(image, same)
