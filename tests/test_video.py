"""Videos of the containers that people have: whole ones are whole, cut ones are noticed, times are the file's own."""

from fractions import Fraction

import av
import numpy as np
import pytest

from loco_jax.data import video

EVEN = [i / 25 for i in range(50)]
UNEVEN = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 50)).round(3).tolist()


class TimedFrame:
    """What `video.frames` gives, as far as its reader looks."""

    rotation = 0

    def __init__(self, time):
        self.time = time

    def to_ndarray(self, format):
        return np.zeros((2, 2, 3), np.uint8)


def record(path, times, sound=0.0, codec="libx264"):
    """A video with a frame at each of `times`, and that many seconds of sound."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.options = {"g": "5"}
        silence = container.add_stream("libopus", rate=48000) if sound else None
        noise = np.random.default_rng(1)
        for time in times:
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for i in range(round(sound * 50)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * i, Fraction(1, 48000)
            container.mux(silence.encode(frame))
        if silence:
            container.mux(silence.encode())
    return path


@pytest.mark.parametrize("sound", [0.0, 5.0], ids=["mute", "longer sound"])
@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx")])
def test_whole_videos_are_whole_and_cut_ones_are_not(tmp_path, name, codec, times, sound):
    path = record(tmp_path / name, times, sound, codec)
    assert [time for *_, time in video.read(path)] == pytest.approx(np.subtract(times, times[0]), abs=2e-3)
    path.write_bytes(path.read_bytes()[: round(0.6 * path.stat().st_size)])
    count = 0
    with pytest.raises(video.VideoError, match=rf"{name}.*frame \d+ \(counted from 0\)"):
        for _ in video.read(path):
            count += 1
    assert 10 < count < 45


def test_a_video_of_which_the_header_shows_a_part(tmp_path):
    """As phones and lossless cutters leave them: all frames are there, and the first second is not to be shown."""
    whole, part = record(tmp_path / "whole.mp4", EVEN), tmp_path / "part.mp4"
    with av.open(str(whole)) as source, av.open(str(part), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = (t - round(1 / stream.time_base) for t in (packet.pts, packet.dts))
                packet.stream = copy
                target.mux(packet)
    with av.open(str(part)) as container:
        assert container.streams.video[0].frames == 50
    assert len(list(video.read(part))) == 25


def test_times_rise_whatever_the_clock_does(tmp_path, monkeypatch):
    """Two parts put together, and frames without a time or with the same one twice."""

    path = record(tmp_path / "v.mp4", EVEN[:3])
    given = [7.0, 7.1, 7.1, 7.2, None, 0.0, 0.5, None]
    monkeypatch.setattr(video, "frames", lambda path: ((i, TimedFrame(time)) for i, time in enumerate(given)))
    times = [time for *_, time in video.read(path)]
    assert times == pytest.approx([0, 0.1, 0.1, 0.2, 0.24, 0.28, 0.78, 0.82], abs=1e-4) and (np.diff(times) > 0).all()


def test_a_writer_keeps_times_and_shows_the_last_frame_as_long_as_the_others(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    for times, duration in (([0, 0.1, 0.2, 1.1], 1.1 * 4 / 3), ([0.0], 0.2)):
        with video.Writer(tmp_path / "v.mp4", 5, (48, 64)) as writer:
            for time in times:
                writer.write(image, time)
        assert [time for *_, time in video.read(tmp_path / "v.mp4")] == pytest.approx(times, abs=1e-4)
        with av.open(str(tmp_path / "v.mp4")) as container:
            assert container.duration / av.time_base == pytest.approx(duration, abs=2e-3)


def test_a_rate_that_is_a_clocks_is_not_believed(tmp_path):
    record(tmp_path / "v.ts", UNEVEN)
    with av.open(str(tmp_path / "v.ts")) as container:
        assert container.streams.video[0].guessed_rate > 500
    assert video.info(tmp_path / "v.ts").fps == 30


@pytest.mark.parametrize("name", ["v.mkv", "notes.txt", "cover.mp3", "p.png", "none"])
def test_what_moves_is_a_video(tmp_path, name):
    path = tmp_path / name
    if name == "v.mkv":
        path = record(path, EVEN[:5]).rename(tmp_path / "v")
    elif name == "notes.txt":
        path.write_text("text, which FFmpeg would show on a terminal\n" * 50)
    elif name == "p.png":
        with av.open(str(path), "w", format="image2") as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 4, 4, "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((4, 4, 3), np.uint8), format="rgb24")))
    elif name == "cover.mp3":
        with av.open(str(path), "w") as container:
            sound, cover = container.add_stream("mp3", rate=48000), container.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = 4, 4, "rgb24"
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((4, 4, 3), np.uint8), format="rgb24")))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            for packets in (sound.encode(frame), sound.encode(), cover.encode()):
                container.mux(packets)
    assert video.is_video(path) == (name == "v.mkv")
