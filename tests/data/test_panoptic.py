"""A tiny CMU Panoptic in the original files: values by joints' names, units, axes, pictures, scores, bad files."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image
from scipy.spatial.transform import Rotation

from loco_jax import evaluate, experiment
from loco_jax.data import datasets, panoptic, streams
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.media import videos
from loco_jax.ops import distributed
from tests.support import logged, quietly, tiny
from tests.support.oracles import Oracle

# In the order of the files, from the data set's own names.
NAMES = """
    neck nose mid_hip left_shoulder left_elbow left_wrist left_hip left_knee left_ankle right_shoulder right_elbow
    right_wrist right_hip right_knee right_ankle left_eye left_ear right_eye right_ear
""".split()
NAMES15 = """
    neck head_top mid_hip left_shoulder left_elbow left_wrist left_hip left_knee left_ankle right_shoulder right_elbow
    right_wrist right_hip right_knee right_ankle
""".split()
SIZE = (108, 192)
K = np.array([[140.0, 0, 95.2], [0, 141.0, 53.1], [0, 0, 1]])
DISTORTION = [-0.25, 0.12, 0.002, -0.001, 0.01]
DOT = skeleton.JOINTS.index("right_knee")  # where pictures have a dot
TEST, TRAIN, VALIDATION = ("160906_pizza1", "160226_haggling1"), "161029_sports1", "160422_mafia2"
TEST_WITHOUT = "160226_mafia1"  # whose people are not there


def pose_of(view: int) -> tuple[np.ndarray, np.ndarray]:
    """R and t in centimetres. World's y points down; the camera stands 4 m from the middle."""
    rotation = Rotation.from_euler("yx", [20.0 * view - 10, 8], degrees=True).as_matrix()
    return rotation, np.array([3.0, 30.0, 400.0])


def truth(name: str, frame: int, person: int) -> dict[str, np.ndarray]:
    """Joints in centimetres in world coordinates by name."""
    rng = np.random.default_rng([sum(map(ord, name)), frame, person])
    return {
        joint: np.array([-60.0 + 120 * person, -20, 10]) + rng.uniform(-40, 40, 3) for joint in [*NAMES, "head_top"]
    }


def seen(view: int, xyz: np.ndarray) -> np.ndarray:
    """Metres in camera coordinates."""
    rotation, t = pose_of(view)
    return (rotation @ xyz + t) / 100


def lens_pixel(xyz: np.ndarray) -> np.ndarray:
    """Where the lens shows a point, from the middle of the first pixel: OpenCV's model, written out."""
    x, y = xyz[:2] / xyz[2]
    k1, k2, p1, p2, k3 = DISTORTION
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    x, y = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return np.array([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]])


def picture(name: str, view: int, frame: int) -> np.ndarray:
    column, row = (round(float(v)) for v in lens_pixel(seen(view, truth(name, frame, 0)[skeleton.JOINTS[DOT]])))
    image = np.full((*SIZE, 3), 128, np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 255
    return image


def people(name: str, frame: int, field: str = "joints19") -> dict:
    bodies, names = [], NAMES if field == "joints19" else NAMES15
    for person in range(2):
        joints = truth(name, frame, person)
        rows = [[*joints[joint], -1.0 if joint == "left_wrist" and person else 0.5] for joint in names]
        bodies.append({"id": 10 + person, field: np.ravel(rows).tolist()})
    return {"version": 0.7, "univTime": 1.0, "fpsType": "hd_29_97", "bodies": bodies}


def calibration(views=(16, 30)) -> dict:
    listed = [{"name": "01_01", "type": "vga", "panel": 1, "node": 1, "resolution": [640, 480]}]
    for index, node in enumerate(views):
        rotation, t = pose_of(index)
        listed.append(
            {
                "name": f"00_{node:02d}",
                "type": "hd",
                "resolution": [SIZE[1], SIZE[0]],
                "panel": 0,
                "node": node,
                "K": K.tolist(),
                "distCoef": DISTORTION,
                "R": rotation.tolist(),
                "t": t[:, None].tolist(),
            }
        )
    return {"calibDataSource": "160906_calib_norm", "cameras": listed}


def write(root, name: str, frames, film: bool, poses="hdPose3d_stage1_coco19"):
    folder, field = root / name, "joints19" if "coco19" in poses else "joints15"
    (folder / poses).mkdir(parents=True)
    (folder / f"calibration_{name}.json").write_text(json.dumps(calibration()))
    for frame in frames:
        (folder / poses / f"body3DScene_{frame:08d}.json").write_text(json.dumps(people(name, frame, field)))
    for index, view in enumerate(("00_16", "00_30")):
        if film:
            (folder / "hdVideos").mkdir(exist_ok=True)
            with videos.Writer(folder / "hdVideos" / f"hd_{view}.mp4", 29.97, SIZE, quality=5) as writer:
                for frame in range(max(frames) + 1):
                    writer.write(picture(name, index, frame))
            continue
        place = folder / "hdImgs" / view
        place.mkdir(parents=True)
        for frame in frames:
            Image.fromarray(picture(name, index, frame)).save(place / f"{view}_{frame:08d}.jpg", quality=98)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("panoptic")
    write(root, TEST[0], range(5, 8), film=True)
    write(root, TEST[1], range(2), film=False, poses="hdPose3d_stage1_coco19/hd")
    write(root, VALIDATION, range(1), film=False, poses="hdPose3d_stage1")  # that has no 19 joints
    (root / TEST_WITHOUT).mkdir()
    (root / TEST_WITHOUT / f"calibration_{TEST_WITHOUT}.json").write_text(json.dumps(calibration()))
    write(root, TRAIN, range(100, 112), film=False)
    return root


def config_of(folder, **changes):
    data = {"source": "panoptic", "dir": str(folder), "max_people": 4, "pictures": True, "augment": True}
    volume = {"image_size": (108, 192), "stride": 8, "depth_bins": 80}
    return tiny(data=data, volume=volume, test_frames=100, **changes)


def sharding():
    return NamedSharding(Mesh(np.array(jax.devices()[:1]), "batch"), PartitionSpec("batch"))


def test_values_come_back_by_the_joints_names(folder):
    data = datasets.of(config_of(folder))
    examples = data.examples("test")
    # Two cameras of each sequence; sequences by name.
    films = [(TEST[1], 0, range(2)), (TEST[1], 1, range(2)), (TEST[0], 0, range(5, 8)), (TEST[0], 1, range(5, 8))]
    places = [(name, view, frame) for name, view, frames in films for frame in frames]
    assert len(examples) == len(places) == 10 and data.groups("test") == ["haggling", "pizza"]
    assert data.name == "CMU Panoptic (2 of 6 test sequences)"
    for example, (name, view, frame) in zip(examples, places):
        assert example.ids.tolist() == [10, 11] and example.size == SIZE
        assert example.time == pytest.approx(frame / 29.97) and example.group == (name == TEST[0])
        np.testing.assert_allclose(example.camera, (140, 141, 95.7, 53.6))
        for person in range(2):
            for joint, xyz, there in zip(skeleton.JOINTS, example.joints[person], example.present[person]):
                assert there == (joint != "head_top" and not (joint == "left_wrist" and person))
                if there:
                    np.testing.assert_allclose(xyz, seen(view, truth(name, frame, person)[joint]), rtol=1e-5)
        assert [skeleton.JOINTS[i] for i in np.flatnonzero(~example.annotated)] == ["head_top"]


def test_older_sequences_have_head_tops(folder):
    examples = datasets.of(config_of(folder)).examples("validation")
    assert len(examples) == 2
    for view, example in enumerate(examples):
        assert example.annotated.all() and example.ids.tolist() == [10, 11]
        for person in range(2):
            for joint, xyz, there in zip(skeleton.JOINTS, example.joints[person], example.present[person]):
                assert there == (not (joint == "left_wrist" and person))
                if there:
                    np.testing.assert_allclose(xyz, seen(view, truth(VALIDATION, 0, person)[joint]), rtol=1e-5)


def test_sequences_without_people_are_told_of_and_left_out(folder, caplog):
    panoptic._tell_of_skipped.cache_clear()
    with caplog.at_level("WARNING"):
        assert datasets.of(config_of(folder)).groups("test") == ["haggling", "pizza"]
    assert f"{TEST_WITHOUT}: is skipped because it has no hdPose3d_stage1_coco19 or hdPose3d_stage1" in caplog.text


def test_training_tells_of_a_missing_validation_split_before_its_first_step(toy, folder, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / TRAIN).symlink_to(folder / TRAIN)
    write(root, VALIDATION, range(0), film=False)
    config = config_of(root, steps=3, eval_every=2)
    with pytest.raises(FileNotFoundError, match=f"{VALIDATION} has no hdPose3d_stage1_coco19 or hdPose3d_stage1 with"):
        quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, wanted",
    [
        (lambda bodies: bodies[1].update(id=10), r"two people have the same id among \[10, 10\]"),
        (lambda bodies: bodies[1]["joints19"].__setitem__(5, float("nan")), "numbers that are not finite"),
    ],
)
def test_people_who_cannot_be_are_refused(tmp_path, change, wanted):
    path = tmp_path / "body3DScene_00000000.json"
    content = people("160906_pizza1", 0)
    change(content["bodies"])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"body3DScene_00000000.json: .*{wanted}"):
        panoptic.read_people(path)


def test_outliers_are_left_out(tmp_path):
    path = tmp_path / "body3DScene_00000000.json"
    content = people("160906_pizza1", 0)
    content["bodies"][0]["id"] = -1
    path.write_text(json.dumps(content))
    ids, joints, _ = panoptic.read_people(path)
    assert ids.tolist() == [11]
    np.testing.assert_allclose(joints[0, 1], truth("160906_pizza1", 0, 1)["nose"] / 100)


def dot_of(image, grey=128.0):
    bright = (image.astype(float).sum(axis=-1) - 3 * grey - 60).clip(0)
    rows, columns = (np.arange(n) + 0.5 for n in bright.shape)
    return np.array([bright.sum(axis=0) @ columns, bright.sum(axis=1) @ rows]) / bright.sum()


def test_pictures_of_jpegs_and_films_show_joints_where_a_pinhole_camera_does(folder):
    examples = datasets.of(config_of(folder)).examples("test")
    for index in (0, 3, 4, 6, 9):  # JPEGs, then the films' first, last and another camera's
        example = examples[index]
        image = example.picture()
        wanted = np.asarray(cameras.project(example.camera, example.joints[0, DOT]))
        np.testing.assert_allclose(dot_of(image), wanted, atol=0.8)  # the dot is on whole pixels


def test_undistorting_undoes_the_lens():
    lens = panoptic.Lens(cameras.Camera(140.0, 141, 95.7, 53.6), tuple(DISTORTION), np.eye(3), np.zeros(3), SIZE)
    for xyz in np.random.default_rng(0).uniform([-2, -1, 4], [2, 1, 5], (20, 3)):
        pinhole = np.asarray(cameras.project(lens.camera, xyz))
        np.testing.assert_allclose(panoptic.distort(pinhole, lens), lens_pixel(xyz) + 0.5, rtol=1e-5)
    # Of a picture whose values are its columns and rows, each pixel has the place that the lens moved it to.
    rows, columns = np.indices(SIZE)
    image = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    shown = panoptic.undistort(image, lens)[20:90, 30:160, :2]
    places = np.stack([columns, rows], axis=-1)[20:90, 30:160] + 0.5
    # Pillow cuts off fractions: on average half a grey level. The rest is the bend within cells of a small picture.
    assert np.abs(shown - (panoptic.distort(places, lens) - 1)).max() < 1.1
    assert np.abs(shown - (places - 1)).max() > 3


def test_batches_of_training_have_pictures_and_go_on_exactly(folder):
    config = config_of(folder)
    config.data.batch_size = 3
    stream = datasets.of(config).training_stream(sharding())
    batches = [jax.device_get(next(stream)) for _ in range(3)]
    state = stream.get_state()
    wanted = jax.device_get(next(stream))
    for batch in batches:
        assert batch.image.shape == (3, 108, 192, 3) and batch.image.std() > 0
        assert batch.present[:, :2, 1:].any() and not batch.present[:, :, 0].any() and not batch.present[:, 2:].any()
    again = datasets.of(config).training_stream(sharding())
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(next(again)), wanted)


def test_a_run_trains_and_is_scored_on_it(toy, folder, tmp_path):
    config = config_of(folder, steps=3, eval_every=2, log_every=1)
    summary, said = quietly(config, tmp_path)
    assert len(summary["marks"]) == 2  # the validation split: a frame, seen by two cameras
    assert np.isfinite([line["loss"] for line in logged(tmp_path) if "loss" in line]).all(), said


def test_a_head_top_of_ears_is_for_training_only(folder):
    config = config_of(folder)
    config.task = "loco"
    with pytest.raises(ValueError, match="no head_top, .*task=loco needs; let --config.data.head_of_ears=True"):
        datasets.of(config).training_stream(sharding())
    config.task = "refiner"
    with pytest.raises(ValueError, match="no head_top, which config.task=refiner needs; take another data set"):
        next(datasets.of(config).evaluation_batches("test", 1, 1, sharding()))
    next(datasets.of(config).evaluation_batches("validation", 1, 1, sharding()))  # its sequence has head tops
    config.data.head_of_ears, config.data.augment = True, False
    batch = jax.device_get(next(datasets.of(config).training_stream(sharding())))
    assert batch.present[:, :2, 0].all() and batch.origin.annotated.all()
    examples = datasets.of(config).examples("train")
    for view, example in enumerate((examples[0], examples[4])):
        joints = truth(TRAIN, 100, 1)
        ears = (joints["left_ear"] + joints["right_ear"]) / 2
        top = seen(view, ears + 0.75 * (ears - joints["neck"]))
        np.testing.assert_allclose(example.joints[1, 0], top, rtol=1e-5)
    assert not datasets.of(config).examples("test")[0].present[:, 0].any()


def test_a_run_with_such_head_tops_is_evaluated_by_the_usual_command(toy, folder, tmp_path):
    config = config_of(folder, steps=1)
    config.data.head_of_ears = True
    quietly(config, tmp_path)
    summary = evaluate.evaluate(config_of(folder), str(tmp_path), lambda _: None)
    assert summary["step"] == 1 and len(summary["marks"]) == 10


def test_a_refiner_learns_from_people_whom_a_predictor_finds_in_it(folder, monkeypatch):
    config = config_of(folder)
    config.data.head_of_ears = True
    config.spoil = {"predictor": "some.safetensors", "found": 3}
    theirs, task = config_of("", task="loco"), Oracle(volume=streams.volume_of(config))
    theirs.data.update(source="crowd", max_people=1)
    camera = cameras.Camera(110.0, 110, 96, 54)
    monkeypatch.setattr(experiment, "load", lambda source: (task, {"a": np.zeros(1, np.float32)}, theirs, camera))
    seen = []
    monkeypatch.setattr(experiment, "find", lambda _, params, batches, *rest: seen.append(next(batches)) or {})
    assert experiment.find_people(config) == {}
    batch = jax.device_get(seen[0])
    assert batch.present.shape == (4, 4, 14) and batch.present[:, :2, 0].all()
    np.testing.assert_allclose(batch.camera.fx, 110, rtol=0.02)
    camera = cameras.Camera(150.0, 150, 96, 54)
    with pytest.raises(experiment.WeightsError, match=r"spoil.predictor=some.safetensors: .*need \(128, 256\) pixels"):
        experiment.find_people(config)


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_scores_of_known_people(folder, offset):
    """The oracle's head tops, which are not annotated, cost nothing."""
    config = streams.fitted(config_of(folder), "test")
    task = Oracle(volume=streams.volume_of(config), offset=offset)
    summary = evaluate.Evaluator(task, config, distributed.make_mesh(1), "test").run({}, 100)
    evaluate._name_groups(summary, datasets.of(config).groups("test"))
    found = summary["systems"]["oracle"]
    scores = found["protocols"]
    assert [(g["name"], g["people"]) for g in scores["by_group"]] == [("haggling", 8), ("pizza", 12)]
    assert scores["matched"] == 20 and scores["relative"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert scores["absolute"]["mpjpe_mm"] == pytest.approx(1000 * offset, abs=1e-2)
    assert scores["absolute"]["pck_all"] == (not offset)
    assert found["hungarian"]["0.4 m"]["precision"] == found["hungarian"]["0.4 m"]["f1"] == 1


def test_sequences_have_identities(folder):
    films = [list(film) for film in datasets.of(config_of(folder)).sequences("test", 9, 9, 30.0)]
    assert [len(film) for film in films] == [2, 2, 3, 3]
    assert all(instant.ids.tolist() == [10, 11, -1, -1] for film in films for instant in film)
    assert np.diff([instant.time for instant in films[2]]) == pytest.approx(1 / 29.97)


@pytest.mark.parametrize(
    "name, wanted", [("160906_pizza1", "pizza"), ("170407_haggling_a2", "haggling"), ("171204_pose6", "pose")]
)
def test_activities_are_in_the_names(name, wanted):
    assert panoptic.activity(name) == wanted


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def older(folder):
    change_json(
        folder / "hdPose3d_stage1_coco19" / "body3DScene_00000000.json",
        lambda c: c["bodies"].append({"id": 0, "joints15": [0.0] * 60}) or c["bodies"].reverse(),
    )


def other_count(folder):
    path = folder / "hdPose3d_stage1_coco19" / "body3DScene_00000000.json"
    change_json(path, lambda c: c["bodies"][0]["joints19"].pop())


def no_poses(folder):
    (folder / "hdPose3d_stage1_coco19").rename(folder / "hdPose3d_stage1")


def only_a_copy(folder):
    place = folder / "hdPose3d_stage1_coco19"
    (place / "body3DScene_00000000.json").rename(place / "body3DScene_copy.json")


def bodies_by_name(folder):
    path = folder / "hdPose3d_stage1_coco19" / "body3DScene_00000000.json"
    change_json(path, lambda c: c.update(bodies={"first": c["bodies"][0]}))


def no_camera(folder):
    change_json(folder / f"calibration_{TEST[0]}.json", lambda c: c["cameras"].pop())


def no_rotation(folder):
    change_json(folder / f"calibration_{TEST[0]}.json", lambda c: c["cameras"][1].update(R=[[1, 2, 3]] * 3))


def no_lens(folder):
    change_json(folder / f"calibration_{TEST[0]}.json", lambda c: c["cameras"][1].pop("K"))


def cut(folder):
    path = folder / f"calibration_{TEST[0]}.json"
    path.write_text(path.read_text()[:100])


def no_picture(folder):
    (folder / "hdImgs" / "00_16" / "00_16_00000000.jpg").unlink()


def no_calibration(folder):
    (folder / f"calibration_{TEST[0]}.json").unlink()


@pytest.mark.parametrize(
    "change, wanted",
    [
        (older, "body3DScene_00000000.json: .* its people have id, joints15, not joints19; get hdPose3d_stage1_coco19"),
        (other_count, "body3DScene_00000000.json: .* joints19 has 75 numbers, not 76"),
        (no_poses, "its people have id, joints19, not joints15; get hdPose3d_stage1$"),
        (only_a_copy, "160906_pizza1 has no hdPose3d_stage1_coco19 or hdPose3d_stage1 with body3DScene"),
        (bodies_by_name, "body3DScene_00000000.json: .* bodies is not a list"),
        (no_camera, "calibration_160906_pizza1.json: has no HD camera 00_30"),
        (no_rotation, "calibration_160906_pizza1.json: .* R of camera 00_16 is not a rotation matrix"),
        (no_lens, "calibration_160906_pizza1.json: is not a calibration of CMU Panoptic .*'K'.*; get the file again$"),
        (cut, "calibration_160906_pizza1.json: is not JSON"),
        (no_picture, "00_16_00000000.jpg: no such picture, and .*hd_00_16.mp4 does not exist either"),
        (no_calibration, "160906_pizza1/calibration_160906_pizza1.json: no such file"),
        (lambda folder: folder.rename(folder.parent / "other"), "has no folder of a sequence of .*160906_pizza1"),
    ],
)
def test_bad_files_are_named_in_a_line(unchecked, tmp_path, change, wanted):
    change(write(tmp_path, TEST[0], range(1), film=False))
    with pytest.raises((ValueError, FileNotFoundError), match=wanted) as error:
        datasets.of(config_of(tmp_path)).examples("test")[0].picture()
    assert "\n" not in str(error.value)


def test_a_film_that_is_too_short_is_named(tmp_path):
    folder = write(tmp_path, TEST[0], range(2), film=True)
    (folder / "hdPose3d_stage1_coco19" / "body3DScene_00000001.json").rename(
        folder / "hdPose3d_stage1_coco19" / "body3DScene_00000009.json"
    )
    with pytest.raises(videos.VideoError, match=r"hd_00_16.mp4: ends before frame 9"):
        datasets.of(config_of(tmp_path)).examples("test")[1].picture()
