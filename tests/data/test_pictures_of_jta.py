"""JTA with pictures: videos written and read, the builder and Grain, and what augmentation does to pixels."""

import io
import json
import os
import warnings

import av
import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from tensorflow_datasets.core import shuffle

from loco_jax.data import augment, jta, pipeline, scratch
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames, Origin
from loco_jax.data.jta import annotations, builder, pictures, writing
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JOINTS
from loco_jax.media import videos
from tests.support.annotations import random_rows, read_jta, write_jta
from tests.support.films import film, tell_to_turn


def _moving(count=12, size=(64, 96)):
    """A bright square that moves right, on a colour that changes from frame to frame."""
    for t in range(count):
        image = np.full((*size, 3), 40, np.uint8)
        image[20:40, 4 * t : 4 * t + 20] = (220, 200, 20 * t)
        yield image


def test_a_video_comes_back_frame_by_frame(tmp_path):
    path = tmp_path / "v.mp4"
    with videos.Writer(path, 25, (64, 96), quality=5) as writer:
        for image in _moving():
            writer.write(image)
    assert videos.info(path) == (64, 96, 25.0, 12, 1.0)
    back = list(videos.read(path))
    assert [number for number, *_ in back] == list(range(12))
    for (_, found, _), wanted in zip(back, _moving()):
        assert found.shape == (64, 96, 3) and np.abs(found.astype(int) - wanted).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(videos.VideoError, match="shape"), videos.Writer(tmp_path / "v.mp4", 25, (64, 96)) as writer:
        writer.write(np.zeros((10, 10, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_writer_whose_last_frames_fail_leaves_what_was_there(tmp_path):
    """Encoders hold frames back: when those cannot be written, what has been is no whole video."""

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def encode(self, frame=None):
            if frame is None:
                raise OSError("no space left")
            return self.stream.encode(frame)

    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space left"), videos.Writer(path, 25, (64, 96)) as writer:
        for image in 10 * list(_moving()):
            writer.write(image)
        assert len(os.listdir(tmp_path)) == 2  # some are on disk
        writer._stream = Full(writer._stream)
    assert os.listdir(tmp_path) == ["v.mp4"] and path.read_bytes() == b"old"


def test_a_video_needs_a_frame(tmp_path):
    with (
        pytest.raises(videos.VideoError, match=r"v\.mp4.*none was written"),
        videos.Writer(tmp_path / "v.mp4", 25, (64, 96)),
    ):
        pass
    assert not os.listdir(tmp_path)


def test_a_video_needs_pixels(tmp_path):
    with pytest.raises(videos.VideoError, match="1 x 9 pixels is too small"):
        videos.Writer(tmp_path / "v.mp4", 25, (1, 9))


def test_sound_longer_than_the_pictures_is_no_damage(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=48000)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        for image in _moving(12):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(pictures.encode(None))
        for second in np.arange(0, 1, 0.02):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, round(48000 * second)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert videos.info(path).frames > 20  # what the container says: the sound's length
    assert len(list(videos.read(path))) == 12


def test_damage_inside_a_video_is_a_warning_or_with_strict_an_error(tmp_path):
    path = tmp_path / "v.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with videos.Writer(path, 30, noise.shape[:2]) as writer:
        for t in range(100):
            writer.write(np.roll(noise, 3 * t, 1))
    good, seen = path.read_bytes(), 0
    assert len(list(videos.frames(path, strict=True))) == 100
    for place in np.linspace(0.2, 0.8, 13):
        start = int(place * len(good))
        path.write_bytes(good[:start] + bytes(16) + good[start + 16 :])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                count = len(list(videos.read(path)))
            except videos.VideoError:
                continue  # too much for the decoder: an error either way
        if told:
            seen += 1
            assert count == 100 and told[0].category is videos.DamageWarning and "v.mp4: frame " in str(told[0].message)
            with pytest.raises(videos.VideoError, match=r"v\.mp4.*frame \d+"):
                list(videos.frames(path, strict=True))
    assert seen > 2


def test_videos_that_are_none(tmp_path):
    with pytest.raises(videos.VideoError, match="no such file"):
        videos.info(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(videos.VideoError, match="text.mp4: cannot be opened"):
        list(videos.read(tmp_path / "text.mp4"))


def test_the_builder_takes_videos_and_extracted_frames(jta_with_pictures):
    folder, prepared = jta_with_pictures
    assert prepared.picture_size == (270, 480)
    assert {name: split["frames"] for name, split in prepared.splits.items()} == {
        "train_vha": 1, "train": 3, "validation": 1, "test": 1,
    }  # fmt: skip
    records = jta.load(folder / "data", "test", pictures=True)
    extracted = (folder / "jta" / "frames" / "test" / "seq_256" / "10.jpg").read_bytes()
    assert records[0]["frame"] == 10 and records[0]["image"] == extracted  # byte for byte
    frames = next(read_jta(folder / "data", "train", 3, 8, training=False, pictures=True))
    assert frames.image.shape == (3, 270, 480, 3) and frames.image.dtype == np.uint8
    for image, number in zip(frames.image, (1, 6, 11)):
        truth = np.asarray(Image.open(folder / "no_train_frames" / "seq_0" / f"{number}.jpg"))
        assert np.abs(image.astype(int) - truth).mean() < 8


# ---- Preparing


def _small_jta(folder, with_videos=()):
    """A JTA of 11 frames a sequence, 64 x 96 pixels: 0 and 1 for training, 257, 256; extracted, or a video if named."""
    write_jta(folder, {n: random_rows(n, range(1, 12)) for n in (0, 1)})
    camera = {"fx": 60.0, "fy": 60.0, "cx": 48.0, "cy": 32.0, "num_frames": 11}
    (folder / "camera.json").write_text(json.dumps(camera))
    for split, number in (("train", 0), ("train", 1), ("val", 257), ("test", 256)):
        if number in with_videos:
            movie = folder / "videos" / split / f"seq_{number}.mp4"
            movie.parent.mkdir(parents=True, exist_ok=True)
            with videos.Writer(movie, 30, (64, 96)) as writer:
                for image in _moving(11):
                    writer.write(image)
            continue
        extracted = folder / "frames" / split / f"seq_{number}"
        extracted.mkdir(parents=True)
        for frame, image in enumerate(_moving(11), start=1):
            Image.fromarray(image).save(extracted / f"{frame}.jpg")
    return folder


def test_large_data_goes_through_in_small_files(tmp_path, monkeypatch):
    """However little TFDS may hold in memory; what is written leaves the scratch, and what is not ours stays."""
    folder = _small_jta(tmp_path / "jta", with_videos=(0, 257))
    whole = jta.prepare(folder, tmp_path / "whole", pictures=True)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
    monkeypatch.setattr(builder, "_SEQUENCES_A_FILE", 1)
    left, replace_folder = [], scratch.replace_folder

    def look(*folders):
        assert list((tmp_path / "parts").glob(".preparing_frames/work/sequences"))
        left.extend((tmp_path / "parts").glob(".preparing_frames/work/sequences/**/*.jpg"))
        replace_folder(*folders)

    monkeypatch.setattr(scratch, "replace_folder", look)
    parts = jta.prepare(folder, tmp_path / "parts", pictures=True)
    assert parts.splits == whole.splits and not left
    assert len(list(parts.folder.glob("jta-train.*"))) > len(list(whole.folder.glob("jta-train.*"))) == 1
    for split in jta.SPLITS:
        one, other = (jta.load(tmp_path / name, split, pictures=True) for name in ("whole", "parts"))
        for x, y in zip(one, other, strict=True):
            np.testing.assert_equal(x, y)
    assert [(x["sequence"], x["frame"]) for x in other] == [(256, 10)]
    assert len(list(folder.glob("frames/**/*.jpg"))) == 22  # nobody's pictures are removed
    used = [(s.folder, frame) for s in jta.SPLITS.values() for frame in s.frames]
    assert len(used) == len(set(used))  # or one split would remove another's


def test_bad_pictures_are_all_named_and_can_be_skipped(tmp_path):
    folder = _small_jta(tmp_path / "jta", with_videos=(1, 257))
    movie = folder / "videos" / "train" / "seq_1.mp4"
    movie.write_bytes(movie.read_bytes()[:500])
    with pytest.raises(jta.AnnotationError, match=r"1 of 4 sequences are bad[^$]*train/seq_1\.mp4") as error:
        jta.prepare(folder, tmp_path / "data", pictures=True)
    assert "--skip_bad" in str(error.value) and not os.listdir(tmp_path / "data")
    prepared = jta.prepare(folder, tmp_path / "data", pictures=True, skip_bad=True)
    assert len(prepared.left_out) == 1 and "seq_1.mp4" in prepared.left_out[0]
    assert [x["sequence"] for x in jta.load(tmp_path / "data", "train", pictures=True)] == [0, 0, 0]


def test_a_damaged_picture_in_the_data_is_named():
    file = io.BytesIO()
    Image.fromarray(next(_moving())).save(file, "JPEG")
    record = {"sequence": 3, "frame": 6, "image": file.getvalue()}
    assert pipeline.decode(record).shape == (64, 96, 3)
    for damaged in (file.getvalue()[:-200], b"no picture"):
        with pytest.raises(ValueError, match="sequence 3, frame 6.*prepare the data again"):
            pipeline.decode({**record, "image": damaged})


def test_what_would_be_prepared_otherwise_is_not_reused(tmp_path):
    folder, data = _small_jta(tmp_path / "jta"), tmp_path / "data"

    def prepare(**options):
        return jta.prepare(folder, data, pictures=True, **{"picture_height": 32, **options})

    prepared = prepare()
    assert prepare().reused and prepared.camera == Camera(30.0, 30.0, 24.0, 16.0)
    with pytest.raises(FileExistsError, match="with fx=60.0, not 70.0; replace"):
        prepare(camera=Camera(70.0, 60.0, 48.0, 32.0))
    with pytest.raises(FileExistsError, match="picture_height=32, not 0"):
        prepare(picture_height=0)
    (folder / "camera.json").write_text((folder / "camera.json").read_text().replace("11", "10"))
    with pytest.raises(FileExistsError, match="num_frames=11, not 10"):
        prepare()


def first_only(read):
    """`read`, for the first call only."""
    calls = []

    def once(*arguments):
        assert not calls
        calls.append(arguments)
        return read(*arguments)

    return once


@pytest.mark.parametrize("middle", [(48.0, 60.0), (80.0, 32.0)])
def test_a_camera_of_other_pictures_is_told(tmp_path, middle, monkeypatch):
    folder = _small_jta(tmp_path / "jta", with_videos=(0,))
    monkeypatch.setattr(annotations, "read_sequence", first_only(annotations.read_sequence))
    with pytest.raises(jta.AnnotationError, match="96 x 64 pixels.*--fx.*--picture_height"):
        jta.prepare(folder, tmp_path / "data", pictures=True, picture_height=32, camera=Camera(60.0, 60.0, *middle))
    assert not os.listdir(tmp_path / "data")


def test_the_camera_of_jta_is_for_pictures_of_its_size():
    """Assumed without being given, so even a little less is told: 1600 x 900 came from somewhere else."""
    pictures.check_middle(cameras.JTA, (1080, 1920))
    pictures.check_middle(Camera(900.0, 900.0, 790.0, 460.0), (900, 1600))
    with pytest.raises(jta.AnnotationError, match="1600 x 900"):
        pictures.check_middle(cameras.JTA, (900, 1600))


@pytest.mark.parametrize("frame", [1, 10])
def test_pictures_and_flags_of_the_miniature_are_the_renderers(jta_with_pictures, frame):
    folder, key = jta_with_pictures[0] / "jta", crowds.scene_key("test", 0)
    scene = writing.sample(key, crowds.DEMO, 11)
    stage_key, noise_key = jax.random.split(jax.random.fold_in(key, 1))
    stage = writing.set_up(stage_key, scene, crowds.DEMO)
    picture = jax.device_get(writing.shoot(stage, scene, crowds.DEMO, noise_key, frame - 1))
    image = Image.open(folder / "frames" / "test" / "seq_256" / f"{frame}.jpg")
    assert np.abs(np.asarray(image).astype(int) - picture.image).mean() < 4
    people = jta.read_sequence(folder / "annotations" / "test" / "seq_256.json", [frame])
    ids = np.asarray(scene.person_id).tolist()
    rows = [ids.index(id) for id in people.id]
    assert len(rows) > 1 and people.occluded.any() and people.self_occluded.any()
    for found, true in ((people.occluded, picture.occluded), (people.self_occluded, picture.self_occluded)):
        np.testing.assert_array_equal(found, true[rows] & people.present)


# ---- Reading


def test_poses_can_be_read_from_data_with_pictures(jta_with_pictures):
    frames = next(read_jta(jta_with_pictures[0] / "data", "test", 1, 8))
    assert frames.image is None and frames.present.any()


def test_augmentation_resumes_exactly_and_changes_from_epoch_to_epoch(jta_with_pictures):
    data = jta_with_pictures[0] / "data"
    reader = read_jta(data, "train", 1, 8, pictures=True, augment=True)
    first = [next(reader) for _ in range(6)]  # two epochs
    for done in (0, 4):
        reader.set_state({"batches": done})
        for one, other in zip(first[done:], reader):
            for x, y in zip(one[:3], other[:3]):
                np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(one.image, other.image)
    same = read_jta(data, "test", 1, 8, pictures=True, augment=True)  # an epoch has one frame
    assert (next(same).image != next(same).image).any()


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
    with pytest.raises(FileExistsError, match="picture_height=135, not 90"):
        jta.prepare(folder / "jta", tmp_path, pictures=True, picture_height=90)


@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_bad_videos_are_named(tmp_path, damage):
    movie = tmp_path / "videos" / "train" / "seq_0.mp4"
    movie.parent.mkdir(parents=True)
    if damage == "short":
        with videos.Writer(movie, 30, (64, 96)) as writer:
            for image in _moving(7):
                writer.write(image)
    elif damage == "garbage":
        movie.write_bytes(b"\x00\x01" * 500)
    with pytest.raises(jta.AnnotationError, match="seq_0.mp4") as error:
        jta.collect_pictures(tmp_path, "train", 0, range(1, 11), tmp_path / "out")
    if damage == "short":
        assert "frame 10" in str(error.value)


def test_sequences_of_several_sizes_are_told(tmp_path):
    folder = _small_jta(tmp_path / "jta")
    for path in folder.glob("frames/val/**/*.jpg"):
        Image.new("RGB", (48, 32)).save(path)
    with pytest.raises(jta.AnnotationError, match="val/seq_257 has pictures of 48 x 32 pixels.*before have 96 x 64"):
        jta.prepare(folder, tmp_path / "data", pictures=True)


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


@pytest.mark.parametrize("ending", ["png", "JPG", "jpeg", "PNG", "webp"])
def test_extracted_frames_of_other_endings(tmp_path, ending):
    """JPEGs are taken byte for byte, others become JPEGs; beside another file, F.jpg is the one that is meant."""
    folder, out = tmp_path / "frames" / "train" / "seq_3", tmp_path / "out"
    folder.mkdir(parents=True)
    images = list(_moving(3))
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / f"{number}.{ending}", quality=95, subsampling=0)
    Image.fromarray(images[0]).save(folder / "3.jpg")
    Image.fromarray(images[0]).save(folder / "2.bmp.txt", "BMP")
    files, size = jta.collect_pictures(tmp_path, "train", 3, [1, 2, 3], out)
    assert size == (64, 96) and files[3] == folder / "3.jpg"
    for number in (1, 2):
        same = files[number] == folder / f"{number}.{ending}"
        assert same if ending in ("JPG", "jpeg") else files[number] == out / f"{number}.jpg"
        with Image.open(files[number]) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB"
            assert np.abs(np.asarray(picture, int) - images[number - 1]).mean() < 3


@pytest.mark.parametrize("kind", ["grey", "colours"])
def test_frames_whose_white_is_not_known_are_refused(tmp_path, kind):
    """12 bits in files of 16: alone, each frame would be as bright as its own brightest pixel lets it."""
    folder = tmp_path / "frames" / "train" / "seq_3"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / "1.png")
    deep = np.full((64, 96), 2000, np.uint16)
    if kind == "grey":
        Image.fromarray(deep).save(folder / "2.png")
    else:
        frame = av.VideoFrame.from_ndarray(deep[..., None].repeat(3, -1), format="rgb48le").reformat(format="rgb48be")
        with av.open(str(folder / "2.png"), "w", format="image2", options={"update": "1"}) as file:
            stream = file.add_stream("png", rate=1)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "rgb48be"
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
    with pytest.raises(jta.AnnotationError, match=r"2\.png: has more than 8 bits a value.*; save all frames with 8"):
        jta.collect_pictures(tmp_path, "train", 3, [1, 2], tmp_path / "out")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pngs_are_prepared_also_if_they_are_called_jpg(tmp_path, suffix):
    folder = _small_jta(tmp_path / "jta")
    for path in sorted(folder.glob("frames/**/*.jpg")):
        picture = Image.open(path).copy()
        path.unlink()
        picture.save(path.with_suffix(suffix), "PNG")
    prepared = jta.prepare(folder, tmp_path / "data", pictures=True)
    assert prepared.picture_size == (64, 96) and prepared.splits["train"]["frames"] == 6
    image = pipeline.decode(jta.load(tmp_path / "data", "test", pictures=True)[0])
    truth = np.asarray(Image.open(folder / "frames" / "test" / "seq_256" / f"10{suffix}"))
    assert np.abs(image.astype(int) - truth).mean() < 3


def test_videos_of_jta_are_read_as_a_player_shows_them(tmp_path):
    """Turned as the header says, and without taking a preview for the video."""
    folder = tmp_path / "videos" / "train"
    folder.mkdir(parents=True)
    with videos.Writer(folder / "seq_0.mp4", 30, (64, 96), quality=5) as writer:
        for image in _moving(11):
            writer.write(image)
    tell_to_turn(folder / "seq_0.mp4", -1, 0, 0, -1)
    film(folder / "seq_1.mp4", (1, 64, 96), (11, 64, 96))
    turned, real = (
        jta.collect_pictures(tmp_path, "train", number, [11], tmp_path / str(number))[0][11] for number in (0, 1)
    )
    assert np.abs(np.asarray(Image.open(turned), int)[::-1, ::-1] - image).mean() < 6
    assert (np.asarray(Image.open(real))[..., 1] > 200).all()  # the second is green


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


def test_changed_frames_keep_what_is_known_of_them():
    annotated, occluded = np.arange(14) != JOINTS.index("left_knee"), np.zeros((1, 14), bool)
    occluded[0, JOINTS.index("left_wrist")] = True
    origin = Origin(np.array(3, np.int32), np.array(0.5, np.float32), annotated, occluded)
    before = _dotted()._replace(origin=origin, ground=np.ones(4, np.float32))
    mirrored, nearer = augment.flip(before), augment.scale(before, 1.2)
    assert nearer.origin is origin and nearer.ground is before.ground
    assert mirrored.origin.group == 3 and mirrored.origin.zoom == 0.5
    assert [JOINTS[i] for i in np.flatnonzero(~mirrored.origin.annotated)] == ["right_knee"]
    assert [JOINTS[i] for i in np.flatnonzero(mirrored.origin.occluded[0])] == ["right_wrist"]


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_scaled_joints_stay_on_their_dots(factor):
    after = augment.scale(_dotted(), factor)
    pixels = np.asarray(cameras.project(CAMERA, after.joints[0]))
    inside = (pixels > 4).all(axis=-1) & (pixels < [156, 116]).all(axis=-1)
    assert inside.sum() >= 8
    np.testing.assert_allclose(pixels[inside], _centres(after, COLOURS[inside]), atol=0.8)
    np.testing.assert_allclose(after.joints[..., 2], _dotted().joints[..., 2] / factor, rtol=1e-6)


def test_who_was_outside_the_picture_is_not_on_its_border():
    """Shrunk pictures end in grey: nobody is to be found there, though the joints would be inside now."""
    before = _dotted()
    joints = before.joints.copy()
    joints[0, 0, 0] = (165 - CAMERA.cx) / CAMERA.fx * joints[0, 0, 2]  # five pixels right of the picture
    joints[0, 1, 1] = (-5 - CAMERA.cy) / CAMERA.fy * joints[0, 1, 2]
    joints[0, 2, 2] = -1
    after = augment.scale(before._replace(joints=joints), 0.8)
    u, v = np.asarray(cameras.project(CAMERA, after.joints[0]))[0]
    assert u < 160 and (after.image[int(v), int(u)] == 128).all()
    assert not after.present[0, :3].any() and after.present[0, 3:].all()
    missing = before._replace(present=np.zeros((1, 14), bool))
    assert not augment.scale(missing, 1.2).present.any()


def test_colours():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    same = augment.change_colours(image, 1, 1, 1, np.ones(3))
    assert np.abs(same.astype(int) - image).max() <= 1
    grey = augment.change_colours(image, 1, 1, 0, np.ones(3)).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert augment.change_colours(image, 0.5, 1, 1, np.ones(3)).mean() == pytest.approx(image.mean() / 2, abs=1)
    middling = image // 2 + 60  # nothing is cut off at either end
    changed = augment.change_colours(middling, 1.2, 0.9, 1.3, np.array([1.0, 0.95, 1.05]))
    wanted = middling * 1.2 * np.array([1.0, 0.95, 1.05])
    grey = (middling[::8, ::8] * 1.2 * np.array([1.0, 0.95, 1.05])).mean(axis=(0, 1)) @ [0.299, 0.587, 0.114]
    wanted = Image.fromarray(np.uint8(np.rint(grey + 0.9 * (wanted - grey))))
    assert np.abs(changed.astype(int) - np.asarray(ImageEnhance.Color(wanted).enhance(1.3))).max() <= 2
