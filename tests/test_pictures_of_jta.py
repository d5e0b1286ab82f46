"""JTA with pictures: videos written and read, the builder and Grain, and what augmentation does to pixels."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from loco_jax import camera as cameras
from loco_jax.camera import Camera
from loco_jax.data import augment, jta, pipeline, video
from loco_jax.data.frames import Frames
from loco_jax.skeleton import JOINTS


def _moving(count=12, size=(64, 96)):
    """A bright square that moves right, on a colour that changes from frame to frame."""
    for t in range(count):
        image = np.full((*size, 3), 40, np.uint8)
        image[20:40, 4 * t : 4 * t + 20] = (220, 200, 20 * t)
        yield image


def test_a_video_comes_back_frame_by_frame(tmp_path):
    path = tmp_path / "v.mp4"
    with video.Writer(path, 25, (64, 96), quality=5) as writer:
        for image in _moving():
            writer.write(image)
    assert video.info(path) == (64, 96, 25.0, 12, 1.0)
    back = list(video.read(path))
    assert [number for number, *_ in back] == list(range(12))
    for (_, found, _), wanted in zip(back, _moving()):
        assert found.shape == (64, 96, 3) and np.abs(found.astype(int) - wanted).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(video.VideoError, match="shape"), video.Writer(tmp_path / "v.mp4", 25, (64, 96)) as writer:
        writer.write(np.zeros((10, 10, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_videos_that_are_none(tmp_path):
    with pytest.raises(video.VideoError, match="no such file"):
        video.info(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(video.VideoError, match="text.mp4: cannot be opened"):
        list(video.read(tmp_path / "text.mp4"))


def test_the_builder_takes_videos_and_extracted_frames(jta_with_pictures):
    folder, prepared = jta_with_pictures
    assert prepared.picture_size == (270, 480)
    assert {name: split["frames"] for name, split in prepared.splits.items()} == {
        "train_vha": 1, "train": 3, "validation": 1, "test": 1,
    }  # fmt: skip
    records = jta.load(folder / "data", "test", pictures=True)
    extracted = (folder / "jta" / "frames" / "test" / "seq_256" / "10.jpg").read_bytes()
    assert records[0]["frame"] == 10 and records[0]["image"] == extracted  # byte for byte
    frames = next(pipeline.read_jta(folder / "data", "train", 3, 8, shuffle=False, repeat=False, pictures=True))
    assert frames.image.shape == (3, 270, 480, 3) and frames.image.dtype == np.uint8
    for image, number in zip(frames.image, (1, 6, 11)):
        truth = np.asarray(Image.open(folder / "no_train_frames" / "seq_0" / f"{number}.jpg"))
        assert np.abs(image.astype(int) - truth).mean() < 8


def test_flags_of_the_miniature_are_the_renderers(jta_with_pictures):
    people = jta.read_sequence(jta_with_pictures[0] / "jta" / "annotations" / "test" / "seq_256.json", range(1, 12))
    assert people.occluded.any() or people.self_occluded.any()
    assert not (people.occluded & people.self_occluded).any()


def test_poses_can_be_read_from_data_with_pictures(jta_with_pictures):
    frames = next(pipeline.read_jta(jta_with_pictures[0] / "data", "test", 1, 8))
    assert frames.image is None and frames.present.any()


def test_augmentation_resumes_exactly_and_changes_from_epoch_to_epoch(jta_with_pictures):
    reader = pipeline.read_jta(jta_with_pictures[0] / "data", "train", 1, 8, pictures=True, augment=True, shuffle=False)
    start = reader.get_state()
    first = [next(reader) for _ in range(6)]  # two epochs
    reader.set_state(start)
    for one, other in zip(first, (next(reader) for _ in range(6))):
        for x, y in zip(one[:3], other[:3]):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(one.image, other.image)
    assert (first[0].image != first[3].image).any()


def test_smaller_pictures_have_a_smaller_camera_and_smaller_pixels(jta_with_pictures, tmp_path):
    folder, whole = jta_with_pictures
    half = jta.prepare(folder / "jta", tmp_path, pictures=True, picture_height=135)
    assert half.picture_size == (135, 240)
    np.testing.assert_allclose(half.camera, np.array(whole.camera) / 2)
    one, other = (jta.load(data, "test", pictures=True)[0] for data in (folder / "data", tmp_path))
    np.testing.assert_allclose(other["people"]["pixels"], one["people"]["pixels"] / 2, rtol=1e-5)
    np.testing.assert_array_equal(other["people"]["joints"], one["people"]["joints"])
    image, small = pipeline.decode(one), pipeline.decode(other)
    assert small.shape == (135, 240, 3)
    assert np.abs(image.reshape(135, 2, 240, 2, 3).mean(axis=(1, 3)) - small).mean() < 4
    with pytest.raises(FileExistsError, match="135 pixels high, not 90"):
        jta.prepare(folder / "jta", tmp_path, pictures=True, picture_height=90)


def test_changed_videos_are_noticed(jta_with_pictures, tmp_path):
    shutil.copytree(jta_with_pictures[0] / "jta", tmp_path / "jta")
    jta.prepare(tmp_path / "jta", tmp_path / "data", pictures=True)
    assert jta.prepare(tmp_path / "jta", tmp_path / "data", pictures=True).reused
    os.utime(tmp_path / "jta" / "videos" / "train" / "seq_0.mp4", (1, 1))
    with pytest.raises(FileExistsError, match="before its files changed"):
        jta.prepare(tmp_path / "jta", tmp_path / "data", pictures=True)


def test_throughput_is_counted(jta_with_pictures):
    rates = pipeline.throughput(jta_with_pictures[0] / "data", "train", workers=0, seconds=0.2)
    assert len(rates) == 2 and all(1 < rate < 1e5 for rate in rates.values())


@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_bad_videos_are_named(tmp_path, damage):
    movie = tmp_path / "videos" / "train" / "seq_0.mp4"
    movie.parent.mkdir(parents=True)
    if damage == "short":
        with video.Writer(movie, 30, (64, 96)) as writer:
            for image in _moving(7):
                writer.write(image)
    elif damage == "garbage":
        movie.write_bytes(b"\x00\x01" * 500)
    with pytest.raises(jta.AnnotationError, match="seq_0.mp4") as error:
        jta.collect_pictures(tmp_path, "train", 0, range(1, 11), tmp_path / "out")
    if damage == "short":
        assert "frame 10" in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "size"])
def test_bad_frames_are_named(tmp_path, damage):
    folder = tmp_path / "frames" / "train" / "seq_3"
    folder.mkdir(parents=True)
    for number, image in enumerate(_moving(3), start=1):
        Image.fromarray(image).save(folder / f"{number}.jpg")
    bad = folder / "2.jpg"
    if damage == "missing":
        bad.unlink()
    elif damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:300])
    else:
        Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(bad)
    with pytest.raises(jta.AnnotationError, match="frame 2"):
        jta.collect_pictures(tmp_path, "train", 3, [1, 2, 3], tmp_path / "out")


# ---- Augmentation

CAMERA = Camera(*map(np.float32, (100.0, 100.0, 70.0, 55.0)))


def _dotted():
    """A person of fourteen joints, and a picture with a dot of its own colour at each."""
    rng = np.random.default_rng(0)
    z = rng.uniform(4, 6, 14)
    u = np.array([25 + 17 * (j % 7) for j in range(14)])
    v = np.array([40 + 40 * (j // 7) for j in range(14)])
    joints = np.stack([(u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z, z], axis=-1)
    image = np.zeros((120, 160, 3), np.uint8)
    for j in range(14):
        image[v[j] - 3 : v[j] + 3, u[j] - 3 : u[j] + 3] = (250 - 15 * j, 15 * j + 20, 100)
    return Frames(joints[None].astype(np.float32), np.ones((1, 14), bool), CAMERA, image)


def _centres(frames, colours):
    """Pixels of the dots by their colours."""
    distance = np.abs(frames.image[None].astype(int) - colours[:, None, None]).max(axis=-1)
    rows, columns = np.indices(frames.image.shape[:2]) + 0.5
    near = distance < 8
    assert near.any(axis=(1, 2)).all()
    return np.stack([(axis * near).sum((1, 2)) / near.sum((1, 2)) for axis in (columns, rows)], axis=-1)


COLOURS = np.array([(250 - 15 * j, 15 * j + 20, 100) for j in range(14)])


def test_a_mirror_swaps_left_and_right():
    before, after = _dotted(), augment.flip(_dotted())
    pixels = np.asarray(cameras.project(after.camera, after.joints[0]))
    dots = _centres(after, COLOURS)
    for j, name in enumerate(JOINTS):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        np.testing.assert_allclose(pixels[JOINTS.index(other)], dots[j], atol=0.6)
    twice = augment.flip(after)
    np.testing.assert_array_equal(twice.image, before.image)
    np.testing.assert_allclose(twice.joints, before.joints)
    assert twice.camera == before.camera


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_scaled_joints_stay_on_their_dots(factor):
    after = augment.scale(_dotted(), factor)
    pixels = np.asarray(cameras.project(CAMERA, after.joints[0]))
    inside = (pixels > 4).all(axis=-1) & (pixels < [156, 116]).all(axis=-1)
    assert inside.sum() >= 8
    np.testing.assert_allclose(pixels[inside], _centres(after, COLOURS[inside]), atol=0.8)
    np.testing.assert_allclose(after.joints[..., 2], _dotted().joints[..., 2] / factor, rtol=1e-6)


def test_colours():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    same = augment.change_colours(image, 1, 1, 1, np.ones(3))
    assert np.abs(same.astype(int) - image).max() <= 1
    grey = augment.change_colours(image, 1, 1, 0, np.ones(3)).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert augment.change_colours(image, 0.5, 1, 1, np.ones(3)).mean() == pytest.approx(image.mean() / 2, abs=1)
