"""Pictures by strangers; see support/strangers.py."""

import os
import struct
import time
import unittest.mock
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loco_jax.data import jta
from loco_jax.media import pictures
from tests.support.strangers import (
    KINDS,
    damaged,
    damages,
    fuzz,
    peak_megabytes,
    pictures_of_all_kinds,
    read_or_refused,
)


@pytest.fixture(scope="module")
def some_pictures(folder):
    return pictures_of_all_kinds(folder)


@fuzz(300)
@given(st.integers(0, len(KINDS) - 1), damages)
def test_damaged_pictures(folder, some_pictures, which, damage):
    name, content = some_pictures[which % len(some_pictures)]
    path = folder / f"damaged{name}"
    path.write_bytes(damaged(content, damage))
    pictures.is_picture(path)
    picture = read_or_refused(pictures.read, path, pictures.PictureError)
    if picture is not None:
        assert picture.image.ndim == 3 and picture.image.shape[2] == 3 and picture.image.dtype == np.uint8


def png_of(size: int) -> bytes:
    """A black picture, very well compressed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(3 * size + 1)
    data = b"".join(packer.compress(row) for _ in range(size)) + packer.flush()
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_takes_its_memory_twice(tmp_path):
    """In Pillow's 4 bytes a pixel and in our 3, also when its colours are converted; a bomb is refused by its header
    (`test_pictures.test_what_cannot_be_read_is_named`), so that this bounds what any picture takes."""
    (tmp_path / "p.png").write_bytes(png_of(6000))
    code = "import sys; from loco_jax.media import pictures\nprint(pictures.read(sys.argv[1]).image.shape)"
    megabytes, _, printed = peak_megabytes(code, tmp_path / "p.png")
    assert printed == "(6000, 6000, 3)" and megabytes < 1.35 * 36 * (4 + 3)


def test_a_picture_of_endless_scans_is_refused(tmp_path):
    """A scan that changes nothing takes a few bytes, and as long as the whole picture."""
    path = tmp_path / "frames" / "train" / "seq_0" / "1.jpg"
    path.parent.mkdir(parents=True)
    Image.new("L", (3000, 3000), 7).save(path, progressive=True)
    assert pictures.read(path).image.shape == (3000, 3000, 3)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 12_000 + content[-2:])
    start = time.perf_counter()
    with pytest.raises(pictures.PictureError, match="1.jpg: has 12,006 scans"):
        pictures.read(path)
    with pytest.raises(jta.AnnotationError, match="1.jpg: frame 1 is damaged .*12,006 scans"):
        jta.collect_pictures(tmp_path, "train", 0, [1], tmp_path / "out")
    assert time.perf_counter() - start < 5


def test_pictures_are_no_programs(tmp_path):
    """Pillow would give PostScript to Ghostscript to run, whatever the file's name."""
    path = tmp_path / "p.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as picture:
        assert picture.format == "EPS"
    with unittest.mock.patch("subprocess.Popen", side_effect=AssertionError("a program was started")):
        assert not pictures.is_picture(path)
        assert read_or_refused(pictures.read, path, pictures.PictureError) is None


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    assert read_or_refused(pictures.read, tmp_path / "p", pictures.PictureError) is None
