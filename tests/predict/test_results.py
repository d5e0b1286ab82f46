"""What is written for a picture and a video: in the user's pixels and metres, whatever the camera."""

import os
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import overlays, pictures, videos
from loco_jax.predict import page
from loco_jax.predict.camera import Lens
from tests.support.discs import BODY, GREY, HEADS, USUAL, Discs, Nobody, find, head, process, read, record, save, scene

# ---- Pictures


def test_a_field_of_view_too_wide_is_shrunk_and_people_still_are_where_they_are(tmp_path):
    camera = Camera(100.0, 100.0, 450.0, 300.0)  # 155 degrees
    joints, _ = find(scene((600, 900), camera, HEADS[:2]), camera, Discs())
    np.testing.assert_allclose(joints[:, 0], HEADS[:2], rtol=0.03)
    path = save(tmp_path / "p.png", (600, 900), camera, HEADS[:1])
    done = process(path, "p", tmp_path, Lens(fx=100.0), Discs())
    assert "wider than in training" in done.warnings[0] and read(tmp_path / "p.json")["warnings"] == list(done.warnings)


def test_holes_are_null_and_nothing_is_not_a_number(tmp_path):
    person = BODY + [0, 0, 4]
    person[3] = 0  # a hole
    person[5] = [0.1, 0.1, -1]  # behind the camera
    person[6] = np.nan
    path = save(tmp_path / "p.png", heads=())
    process(path, "p", tmp_path, Lens(), Discs([person]))
    (found,) = read(tmp_path / "p.json")["people"]
    assert list(found["joints"]) == list(skeleton.JOINTS)
    joints = list(found["joints"].values())
    assert joints[3]["xyz"] is None and joints[3]["pixel"] is None and joints[6]["xyz"] is None
    assert joints[5]["xyz"] == pytest.approx([0.1, 0.1, -1]) and joints[5]["pixel"] is None
    assert "NaN" not in (tmp_path / "p.json").read_text()


def test_exif_counts(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    camera = Camera(300.0, 300.0, 120.0, 180.0)
    image = np.rot90(scene((360, 240), camera, HEADS[:1]))  # a telephone's picture, stored on its side
    Image.fromarray(image).save(tmp_path / "p.jpg", exif=exif, quality=98, subsampling=0)
    process(tmp_path / "p.jpg", "p", tmp_path, Lens(), Discs())
    result = read(tmp_path / "p.json")
    assert (result["width"], result["height"]) == (240, 360)
    assert result["camera"] == {**camera._asdict(), "from": "EXIF: 30 mm on 35 mm film"}
    assert head(result["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.03, abs=0.01)


def test_a_picture_leaves_json_an_overlay_and_a_page(tmp_path):
    path = save(tmp_path / "p.png", heads=HEADS)
    done = process(path, "p", tmp_path / ".", Lens(), Discs())
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
    done = process(tmp_path / "p.png", "p", tmp_path, Lens(fov=1.0), Nobody())
    assert read(tmp_path / "p.json")["warnings"] == list(done.warnings)
    assert "taken for white" in done.warnings[0] and "field of view is so narrow" in done.warnings[1]


def test_a_very_large_picture_has_its_own_pixels_and_an_overlay_of_half_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_LARGE", 2_000_000)
    camera = Camera(1000.0, 1000.0, 800.0, 700.0)
    path = save(tmp_path / "p.jpg", (1401, 1601), camera, HEADS[:1], quality=95)
    done = process(path, "p", tmp_path, Lens(fx=1000.0, cx=800.0, cy=700.0), Discs())
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
    assert process(path, "empty", tmp_path, Lens(), Discs()).people == 0
    assert read(tmp_path / "empty.json")["people"] == []
    assert (np.abs(np.asarray(Image.open(tmp_path / "empty_overlay.jpg")).astype(int) - GREY) <= 1).all()
    assert "No people" in (tmp_path / "empty_3d.html").read_text()


def test_earlier_results_are_replaced_and_links_not_followed(tmp_path):
    path = save(tmp_path / "p.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p_overlay.jpg").symlink_to(path)
    (tmp_path / "out" / "p.json").write_text("old")
    before = path.read_bytes()
    process(path, "p", tmp_path / "out", Lens(), Discs())
    assert path.read_bytes() == before and read(tmp_path / "out" / "p.json")["people"]
    assert not (tmp_path / "out" / "p_overlay.jpg").is_symlink()


def test_a_picture_longer_than_jpeg_can_be(tmp_path):
    path = tmp_path / "p.png"
    Image.new("RGB", (70000, 20)).save(path)
    process(path, "p", tmp_path, Lens(), Nobody())
    assert Image.open(tmp_path / "p_overlay.jpg").size == (16384, 5) and read(tmp_path / "p.json")["width"] == 70000


# ---- Videos


def test_a_video_is_done_frame_by_frame(tmp_path, capsys):
    walk = [[(-0.5 + 0.2 * t, 0, 3.0)] for t in range(6)] + [[]]
    path = record(tmp_path / "v.mp4", walk)
    predictor = Discs()
    done = process(path, "v", tmp_path, Lens(), predictor)
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
    failed = process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    done = len(result["frames"])
    assert 5 < done < 25 and not result["complete"] and failed.frames == done
    assert "v.mp4" in failed.failure and f"the {done} frames before that were done" in failed.failure
    assert videos.info(tmp_path / "v_overlay.mp4").frames == done and (tmp_path / "v_3d.html").exists()


def test_a_video_keeps_its_own_pace(tmp_path):
    times = [0.0, 0.1, 0.2, 1.7, 1.8, 2.4]
    with videos.Writer(tmp_path / "v.mp4", 10, (240, 320)) as writer:
        for time in times:
            writer.write(scene((240, 320), USUAL, HEADS[:1]), 3 + time)
    process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert [frame["time"] for frame in result["frames"]] == pytest.approx(times, abs=1e-4)
    assert result["fps"] == pytest.approx(5 / 2.4, abs=1e-3)
    assert [time for *_, time in videos.read(tmp_path / "v_overlay.mp4")] == pytest.approx(times, abs=1e-4)
    assert '"times":[0.0,0.1,0.2,1.7,1.8,2.4]' in (tmp_path / "v_3d.html").read_text()


def test_the_page_of_a_long_video_has_some_of_its_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_FRAMES", 3)
    path = record(tmp_path / "v.mp4", [[(0, 0, 3.0)]] * 7)
    process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    assert len(read(tmp_path / "v.json")["frames"]) == 7
    assert '"numbers":[0,4]' in (tmp_path / "v_3d.html").read_text()


def test_frames_that_change_their_size(tmp_path, monkeypatch):
    """As in recorded calls: the frames before are done."""
    frames = [scene(size, USUAL, HEADS[:1]) for size in ((240, 320), (240, 320), (480, 640))]
    path = record(tmp_path / "v.mp4", [[]])
    monkeypatch.setattr(videos, "read", lambda path: ((i, image, i / 10) for i, image in enumerate(frames)))
    failed = process(path, "v", tmp_path, Lens(), Discs(), quiet=True).failure
    assert f"{path}: frame 2 (counted from 0) has another size; cut the video there" in failed
    result = read(tmp_path / "v.json")
    assert len(result["frames"]) == 2 and result["fps"] == 10


def test_pixels_of_a_video_that_are_not_square(tmp_path):
    """Twice as wide as high: the camera assumed is that of the picture as it is shown."""
    camera = Camera(100.0, 200.0, 80.0, 120.0)
    with videos.Writer(tmp_path / "v.mp4", 10, (240, 160), pixel_aspect=2.0, quality=2) as writer:
        for _ in range(2):
            writer.write(scene((240, 160), camera, HEADS[:1]))
    process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs(), quiet=True)
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
    done = process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    assert len(done.warnings) == 1 and "frame 1 (counted from 0) is damaged" in read(tmp_path / "v.json")["warnings"][0]


def test_what_is_no_video_leaves_nothing(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"v\.mp4"):
        process(tmp_path / "v.mp4", "v", tmp_path, Lens(), Discs())
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
    process(path, "v", tmp_path, Lens(fx=200.0), Discs(), quiet=True)
    result = read(tmp_path / "v.json")
    assert (result["height"], result["width"]) == size
    assert head(result["frames"][0]["people"][0])["xyz"] == pytest.approx(HEADS[0], rel=0.05, abs=0.02)
    overlay_info = videos.info(tmp_path / "v_overlay.mp4")
    assert (overlay_info.height, overlay_info.pixel_aspect) == (3 * 320, 0.5)
    process(path, "v", tmp_path, Lens(), Discs(), quiet=True)
    camera = read(tmp_path / "v.json")["camera"]
    assert camera["fx"] == 2 * camera["fy"]  # pixels are twice as high as wide
