"""Videos by strangers; see support/strangers.py."""

import os
import struct

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_jax.media import videos
from tests.support.films import timed
from tests.support.strangers import (
    CODECS,
    damaged,
    damages,
    fuzz,
    peak_megabytes,
    read_or_refused,
    record,
    videos_of_all_kinds,
)


@pytest.fixture(scope="module")
def some_videos(folder):
    return videos_of_all_kinds(folder)


@fuzz(300)
@given(st.integers(0, len(CODECS) - 1), damages)
def test_damaged_videos(folder, some_videos, which, damage):
    name, content = some_videos[which]
    path = folder / f"damaged_{name}"
    path.write_bytes(damaged(content, damage))
    assert videos.is_video(path) in (True, False)
    read_or_refused(videos.info, path, videos.VideoError)

    def times(path):
        return [time for _, image, time in videos.read(path) if image.shape[2] == 3 and image.dtype == np.uint8]

    seconds = read_or_refused(times, path, videos.VideoError)
    if seconds is not None:
        assert seconds[0] == 0 and (np.diff(seconds) > 0).all() and seconds[-1] < 1e6 * len(seconds)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("v.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
    ],
    ids=["playlist", "list"],
)
def test_videos_that_are_lists_of_others_are_refused(tmp_path, name, content):
    """FFmpeg would read the others."""
    secret = record(tmp_path / "secret.ts", "mpeg2video")
    path = tmp_path / name
    path.write_text(content.format(secret=secret))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 4
    assert not videos.is_video(path)
    assert read_or_refused(lambda path: list(videos.read(path)), path, videos.VideoError) is None


def test_names_of_videos_are_no_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "a.ts", "mpeg2video")
    assert read_or_refused(lambda path: list(videos.read(path)), "concat:a.ts|a.ts", videos.VideoError) is None
    (tmp_path / "a.ts").rename("http:a.ts")
    assert len(list(videos.read("http:a.ts"))) == 4


def test_a_title_in_another_encoding_spoils_no_video(tmp_path):
    path = record(tmp_path / "v.mp4", title="XXXX\xe9")
    path.write_bytes(path.read_bytes().replace("XXXX\xe9".encode(), b"XXXX\xe9\xe9"))
    assert len(list(videos.read(path))) == 4


def test_a_frame_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = record(tmp_path / "v.mov", "png", "rgb24")
    content = bytearray(path.read_bytes())
    at = content.index(b"IHDR") + 4
    content[at : at + 8] = struct.pack(">II", 9000, 9000)
    path.write_bytes(content)
    code = """import sys; from loco_jax.media import videos
try:
    list(videos.read(sys.argv[1]))
except videos.VideoError as error:
    print(error)"""
    megabytes, _, printed = peak_megabytes(code, path)
    assert megabytes < 100 and str(path) in printed  # the frame would be 243


def test_clocks_that_leap_are_set_right(tmp_path, monkeypatch):
    path, given_times = record(tmp_path / "v.mp4"), [-1e14, 0.0, 0.04, 2.0**52, 2.0**52 + 1]
    monkeypatch.setattr(videos, "frames", lambda path: timed(given_times))
    times = [time for *_, time in videos.read(path)]
    assert (np.diff(times) > 0).all() and times[-1] < 86_400


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    assert read_or_refused(videos.info, tmp_path / "p", videos.VideoError) is None
