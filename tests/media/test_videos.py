"""Videos of the containers that people have: whole ones are whole, cut ones are noticed, times are the file's own, and
pictures have the colours and the orientation that the file tells."""

from fractions import Fraction

import av
import numpy as np
import pytest

from loco_jax.media import videos
from tests.support.films import film, tell_to_turn, timed

EVEN = [i / 25 for i in range(50)]
UNEVEN = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 50)).round(3).tolist()


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
    assert [time for *_, time in videos.read(path)] == pytest.approx(np.subtract(times, times[0]), abs=2e-3)
    path.write_bytes(path.read_bytes()[: round(0.6 * path.stat().st_size)])
    count = 0
    with pytest.raises(videos.VideoError, match=rf"{name}.*frame \d+ \(counted from 0\)"):
        for _ in videos.read(path):
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
    assert len(list(videos.read(part))) in (24, 25)  # FFmpeg 7 writes the second as one frame longer


def test_times_rise_whatever_the_clock_does(tmp_path, monkeypatch):
    """Two parts put together, and frames without a time or with the same one twice."""

    path = record(tmp_path / "v.mp4", EVEN[:3])
    given = [7.0, 7.1, 7.1, 7.2, None, 0.0, 0.5, None]
    monkeypatch.setattr(videos, "frames", lambda path: timed(given))
    times = [time for *_, time in videos.read(path)]
    assert times == pytest.approx([0, 0.1, 0.1, 0.2, 0.24, 0.28, 0.78, 0.82], abs=1e-4) and (np.diff(times) > 0).all()


def test_a_writer_keeps_times_and_shows_the_last_frame_as_long_as_the_others(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    for times, duration in (([0, 0.1, 0.2, 1.1], 1.1 * 4 / 3), ([0.0], 0.2)):
        with videos.Writer(tmp_path / "v.mp4", 5, (48, 64)) as writer:
            for time in times:
                writer.write(image, time)
        assert [time for *_, time in videos.read(tmp_path / "v.mp4")] == pytest.approx(times, abs=1e-4)
        with av.open(str(tmp_path / "v.mp4")) as container:
            assert container.duration / av.time_base == pytest.approx(duration, abs=2e-3)


def test_a_rate_that_is_a_clocks_is_not_believed(tmp_path):
    record(tmp_path / "v.ts", UNEVEN)
    with av.open(str(tmp_path / "v.ts")) as container:
        assert container.streams.video[0].guessed_rate > 500
    assert videos.info(tmp_path / "v.ts").fps == 30


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
    assert videos.is_video(path) == (name == "v.mkv")


# ---- Orientation, colours, and which video it is

TURNED = {
    "as it is": ((1, 0, 0, 1), lambda a: a),
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda a: a[::-1, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda a: a[::-1]),
    "transposed": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    "clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "transposed the other way": ((0, -1, -1, 0), lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
    "counterclockwise": ((0, -1, 1, 0), lambda a: np.rot90(a)),
}


@pytest.mark.parametrize(("matrix", "turn"), TURNED.values(), ids=TURNED)
def test_the_header_turns_and_mirrors_videos(tmp_path, matrix, turn):
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32], stored[:24, 32:], stored[24:, :32] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    path = tmp_path / "v.mp4"
    with videos.Writer(path, 10, (48, 64), quality=2) as writer:
        writer.write(stored)
    tell_to_turn(path, *matrix)
    ((_, image, _),) = videos.read(path)
    wanted = turn(stored).astype(int)
    assert image.shape == wanted.shape and image.flags.c_contiguous
    assert np.median(np.abs(image - wanted)) < 8


def rgb_of(planes, red, blue, full):
    """What H.273 makes of Y, U and V in 8 bits, by a matrix's weights of red and blue."""
    y, u, v = (np.asarray(plane, float) for plane in planes)
    y = y / 255 if full else (y - 16) / 219
    u, v = ((c - 128) / (255 if full else 224) for c in (u, v))
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=-1), 0, 255)


@pytest.mark.parametrize(
    ("pixels", "matrix", "full", "weights"),
    [
        ("yuv444p", None, None, (0.299, 0.114)),
        ("yuv444p", 1, False, (0.2126, 0.0722)),
        ("yuv444p", 5, False, (0.299, 0.114)),
        ("yuv444p", 6, False, (0.299, 0.114)),
        ("yuv444p", 7, False, (0.212, 0.087)),
        ("yuv444p", 9, False, (0.2627, 0.0593)),
        ("yuv444p", 1, True, (0.2126, 0.0722)),
        ("yuv444p", 6, True, (0.299, 0.114)),
        ("yuv420p", 1, False, (0.2126, 0.0722)),
        ("yuv420p", 1, True, (0.2126, 0.0722)),
    ],
)
def test_colours_are_those_that_the_file_tells(tmp_path, pixels, matrix, full, weights):
    """Untagged ones are BT.601's in the limited range, for every version of PyAV."""
    values = np.random.default_rng(0).integers(60, 190, (3, 6, 8), np.uint8)
    frame = av.VideoFrame(64, 48, pixels)
    for plane, blocks in zip(frame.planes, values):
        side = 8 * plane.width // 64
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = blocks.repeat(side, 0).repeat(side, 1)
        plane.update(rows.tobytes())
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for told in (frame, stream.codec_context) if matrix else ():
            told.colorspace, told.color_range = matrix, 1 + full
        for packets in (stream.encode(frame), stream.encode()):
            container.mux(packets)
    ((_, image, _),) = videos.read(tmp_path / "v.mp4")
    np.testing.assert_allclose(image[4::8, 4::8], rgb_of(values, *weights, full), atol=4)


@pytest.mark.parametrize("pixels", ["gbrp", "gbrp10le", "rgb48le", "gray", "gray10le"])
def test_pixels_without_a_matrix_stay_as_they_are(pixels):
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))
    frame = av.VideoFrame(64, 48, pixels)
    for plane in frame.planes:
        bits = frame.format.components[0].bits
        values = ramp.repeat(3 if pixels == "rgb48le" else 1, axis=1).astype(int) * (2**bits - 1) // 255
        rows = np.zeros((48, plane.line_size // (2 if bits > 8 else 1)), np.uint16 if bits > 8 else np.uint8)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    image = videos.colours("v.mkv", 0, frame)
    np.testing.assert_allclose(image, ramp[..., None].repeat(3, axis=2), atol=2)


def test_what_is_written_is_tagged_bt709_and_has_its_colours(tmp_path):
    colours = [(220, 20, 20), (20, 200, 20), (20, 20, 230), (250, 250, 250)]
    with videos.Writer(tmp_path / "v.mp4", 10, (64, 256), quality=1) as writer:
        writer.write(np.repeat(np.array(colours, np.uint8), 64, axis=0)[None].repeat(64, axis=0))
    with av.open(str(tmp_path / "v.mp4")) as container:
        told = container.streams.video[0].codec_context
        assert (told.colorspace, told.color_primaries, told.color_trc, told.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    assert frame.format.name == "yuv420p"
    planes = [np.frombuffer(bytes(p), np.uint8).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    middle = [plane[plane.shape[0] // 2, plane.shape[1] // 8 :: plane.shape[1] // 4] for plane in planes]
    np.testing.assert_allclose(rgb_of(middle, 0.2126, 0.0722, full=False), colours, atol=4)
    ((_, image, _),) = videos.read(tmp_path / "v.mp4")
    np.testing.assert_allclose(image[32, 32::64], colours, atol=4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
@pytest.mark.parametrize(
    ("preview", "real"),
    [((2, 96, 128), (6, 48, 64)), ((6, 48, 64), (6, 96, 128))],
    ids=["fewer frames", "fewer pixels"],
)
def test_the_real_video_is_read_and_no_preview(tmp_path, suffix, preview, real):
    path = film(tmp_path / f"v.{suffix}", preview, real)
    images = [image for _, image, _ in videos.read(path)]
    assert [image.shape for image in images] == [(*real[1:], 3)] * 6
    assert images[0][20, 20, 1] > 200 and images[0][20, 20, 0] < 60  # the second, which is green
    assert videos.info(path)[:2] == real[1:] and videos.is_video(path)


def test_a_cover_is_no_video(tmp_path):
    path = film(tmp_path / "v.mp4", (3, 48, 64), cover=True)
    assert len(list(videos.read(path))) == 3 and videos.info(path)[:2] == (48, 64)
    film(path, cover=True)
    assert not videos.is_video(path)
    with pytest.raises(videos.VideoError, match=r"v\.mp4: has no video stream, only a cover picture"):
        videos.info(path)


def test_a_preview_is_not_taken_for_a_video_that_cannot_be_decoded(tmp_path):
    path = film(tmp_path / "v.mp4", (2, 96, 128), (6, 48, 64))
    content = path.read_bytes()
    real = content.rindex(b"avc1")
    path.write_bytes(content[:real] + b"what" + content[real + 4 :])
    with pytest.raises(videos.VideoError, match=r"v\.mp4: its codec is not known"):
        videos.info(path)


@pytest.mark.parametrize("name", ["run-12:30", "file:x", "pipe:1"])
def test_a_colon_is_a_part_of_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in (name, "x"):
        (tmp_path / folder).mkdir()
    with videos.Writer(f"{name}/v.mp4", 5, (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert [p.name for p in (tmp_path / name).iterdir()] == ["v.mp4"] and not list((tmp_path / "x").iterdir())
    assert len(list(videos.read(f"{name}/v.mp4"))) == 1


def test_single_frames_are_those_of_reading_all(tmp_path):
    path = tmp_path / "film.mp4"
    with videos.Writer(path, 29.97, (32, 48), quality=1) as writer:
        for number in range(40):
            writer.write(np.full((32, 48, 3), 6 * number, np.uint8))
    everything = {number: image for number, image, _ in videos.read(path)}
    for number in (0, 1, 17, 39, 5):
        np.testing.assert_array_equal(videos.read_one(path, number), everything[number])
    with pytest.raises(videos.VideoError, match="ends before frame 40"):
        videos.read_one(path, 40)
