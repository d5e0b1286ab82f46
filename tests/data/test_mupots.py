"""A tiny MuPoTS-3D in the original files: values by joint's name, units, cameras, pictures, scores, and bad files."""

import jax
import numpy as np
import pytest
import scipy.io
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from loco_jax import evaluate
from loco_jax.data import datasets, mupots, streams
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.ops import distributed
from tests.support import tiny
from tests.support.oracles import Oracle

# In the order of the files, from the data set's own names.
NAMES = """
    head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee
    right_ankle left_hip left_knee left_ankle pelvis spine head
""".split()
SIZES = {True: (80, 80), False: (54, 96)}  # in rooms and in the open: height and width
FX = {True: 70.0, False: 62.0}
DOT = skeleton.JOINTS.index("left_knee")  # where pictures have a dot


def camera_of(number: int) -> cameras.Camera:
    height, width = SIZES[number <= 5]
    f = FX[number <= 5]
    return cameras.Camera(f, f + 1, width / 2 + 1.5, height / 2 - 2)


def truth(number: int, frame: int, person: int) -> dict[str, np.ndarray]:
    """Joints in metres by name, around somebody who is about 4 m away."""
    rng = np.random.default_rng([number, frame, person])
    middle = np.array([-0.8 + 1.6 * person, 0.1, 4 + 0.3 * person])
    return {name: middle + rng.uniform(-0.4, 0.4, 3) for name in NAMES}


def project(camera, xyz):
    return np.array([camera.fx * xyz[0] / xyz[2] + camera.cx, camera.fy * xyz[1] / xyz[2] + camera.cy])


def write(folder, frames: int = 2):
    for number in range(1, 21):
        place, camera = folder / f"TS{number}", camera_of(number)
        place.mkdir(parents=True)
        annotations, labels = np.empty((frames, 2), object), np.empty((frames, 2), object)
        for t in range(frames):
            image = np.zeros((*SIZES[number <= 5], 3), np.uint8)
            for p in range(2):
                joints = truth(number, t, p)
                pixels = np.stack([project(camera, joints[name]) for name in NAMES], axis=-1)
                metres = np.stack([joints[name] for name in NAMES], axis=-1)
                annotations[t, p] = {
                    "annot2": pixels,
                    "annot3": 1000 * metres,
                    "univ_annot3": 900 * metres,
                    "isValidFrame": np.array([[int((t, p) != (1, 1))]], np.uint8),
                }
                labels[t, p] = (np.arange(17) == 4 + p)[None].astype(np.uint8)
                column, row = (int(v) for v in project(camera, joints[skeleton.JOINTS[DOT]]))
                if p == 0:
                    image[row - 1 : row + 2, column - 1 : column + 2] = 255
            Image.fromarray(image).save(place / f"img_{t:06d}.jpg", quality=98)
        scipy.io.savemat(place / "annot.mat", {"annotations": annotations})
        scipy.io.savemat(place / "occlusion.mat", {"occlusion_labels": labels})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    mupots.read_sequence.cache_clear()
    return write(tmp_path_factory.mktemp("mupots"))


def config_of(folder, **changes):
    data = {"source": "mupots", "dir": str(folder), "max_people": 4, "pictures": True}
    volume = {"image_size": (54, 96), "stride": 8, "depth_bins": 80}
    return tiny(data=data, volume=volume, test_frames=100, **changes)


def test_values_come_back_by_the_joints_names(folder):
    data = datasets.of(config_of(folder))
    examples = data.examples("test")
    assert len(examples) == 40 and data.name == "MuPoTS-3D" and data.groups("test")[6] == "TS7"
    for number in (1, 7, 20):
        for t, ids in ((0, [0, 1]), (1, [0])):
            example = examples[2 * (number - 1) + t]
            assert example.ids.tolist() == ids and example.present.all() and example.group == number - 1
            assert example.size == SIZES[number <= 5] and example.annotated is None
            np.testing.assert_allclose(example.camera, camera_of(number), rtol=1e-6)
            for row, person in enumerate(ids):
                for joint, name in enumerate(skeleton.JOINTS):
                    np.testing.assert_allclose(example.joints[row, joint], truth(number, t, person)[name], rtol=1e-5)
                np.testing.assert_allclose(example.universal[row], 0.9 * example.joints[row], rtol=1e-5)
                hidden = [NAMES[i] for i in range(17) if i == 4 + person]
                assert [skeleton.JOINTS[i] for i in np.flatnonzero(example.occluded[row])] == hidden


def sharding():
    return NamedSharding(Mesh(np.array(jax.devices()[:1]), "batch"), PartitionSpec("batch"))


def test_pictures_have_the_angle_a_pixel_of_training(folder):
    config = config_of(folder)
    fitted = streams.fitted(config, "test")
    assert tuple(config.volume.image_size) == (54, 96) and fitted.volume.image_size == (128, 96)
    trained = cameras.JTA.scaled(96 / 1920)
    np.testing.assert_allclose(fitted.data.camera, trained)
    assert streams.fitted(fitted, "test") is fitted
    frames = [jax.device_get(batch) for batch, _ in datasets.of(fitted).evaluation_batches("test", 1, 40, sharding())]
    assert len(frames) == 40
    for number in (3, 12):
        frame = jax.tree.map(lambda x: x[0], frames[2 * (number - 1)])
        assert frame.image.shape == (128, 96, 3)
        camera = camera_of(number)
        assert [frame.camera.fx, frame.camera.fy] == pytest.approx([trained.fx] * 2, rel=0.02)
        assert frame.origin.zoom == pytest.approx(trained.fx / camera.fx, rel=0.02)
        # The dot is where the frame's camera shows the joint.
        u, v = np.asarray(cameras.project(frame.camera, frame.joints[0, DOT]))
        bright = (frame.image.astype(float).sum(axis=-1) - 3 * 128).clip(0)
        rows, columns = (np.arange(n) + 0.5 for n in bright.shape)
        middle = (bright.sum(axis=0) @ columns, bright.sum(axis=1) @ rows) / bright.sum()
        np.testing.assert_allclose(middle, (u, v), atol=1)
    with pytest.raises(ValueError, match=r"TS1/img_000000.jpg: its pictures need config.volume.image_size=\(128, 96\)"):
        next(datasets.of(config).evaluation_batches("test", 1, 40, sharding()))


def test_tracks_have_sequences(folder):
    config = streams.fitted(config_of(folder), "test")
    films = [list(film) for film in datasets.of(config).sequences("test", 2, 9, 3.0)]
    assert [[instant.time for instant in film] for film in films] == [[0, 1 / 30], [0, 1 / 60]]  # TS1 and TS11
    assert films[1][1].ids[:2].tolist() == [0, -1]


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_scores_of_known_people(folder, offset):
    config = streams.fitted(config_of(folder), "test")
    task = Oracle(volume=streams.volume_of(config), offset=offset)
    summary = evaluate.Evaluator(task, config, distributed.make_mesh(1), "test").run({}, 100)
    scores = summary["systems"]["oracle"]["protocols"]
    assert (scores["people"], scores["matched"]) == (60, 60) and len(scores["by_group"]) == 20
    assert scores["bones"]["pck_all"] == 1 and scores["bones"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert 10 < scores["relative"]["mpjpe_mm"] < 100  # the oracle's people are not of the universal size
    assert scores["absolute_bones"]["mpjpe_mm"] == pytest.approx(1000 * offset, abs=1e-2)
    assert scores["absolute"]["pck_all"] == scores["absolute"]["pck_matched"] == (not offset)
    assert scores["absolute"]["mpjpe_mm"] == pytest.approx(1000 * offset, abs=1e-2)
    assert summary["systems"]["oracle"]["people"]["found"] == 60


def damaged(tmp_path, change):
    """A folder whose TS3 has another annot.mat; the others are not looked at before."""
    for number in (1, 2, 3):
        place = tmp_path / f"TS{number}"
        place.mkdir()
        cells = np.empty((1, 1), object)
        points = np.stack([truth(1, 0, 0)[name] for name in NAMES], axis=-1)
        pixels = np.stack([project(camera_of(1), points[:, i]) for i in range(17)], axis=-1)
        cells[0, 0] = {
            "annot2": pixels,
            "annot3": 1000 * points,
            "univ_annot3": 900 * points,
            "isValidFrame": np.ones((1, 1)),
        }
        labels = np.empty((1, 1), object)
        labels[0, 0] = np.zeros((1, 17))
        files = {"annotations": cells, "occlusion_labels": labels}
        if number == 3:
            change(files, place)
        if files["annotations"] is not None:
            scipy.io.savemat(place / "annot.mat", {files.get("name", "annotations"): files["annotations"]})
        scipy.io.savemat(place / "occlusion.mat", {"occlusion_labels": files["occlusion_labels"]})
        if "picture" not in files:
            Image.new("RGB", (80, 80)).save(place / "img_000000.jpg")


def no_file(files, place):
    files["annotations"] = None


def text(files, place):
    files["annotations"] = None
    (place / "annot.mat").write_text("no matrix")


def other_name(files, place):
    files["name"] = "univ_annot3"


def fifteen(files, place):
    files["annotations"][0, 0]["annot3"] = np.ones((3, 15))


def no_field(files, place):
    del files["annotations"][0, 0]["annot2"]


def other_pixels(files, place):
    files["annotations"][0, 0]["annot2"] = np.random.default_rng(0).uniform(0, 2000, (2, 17))


def behind(files, place):
    files["annotations"][0, 0]["annot3"][2, 3] = -5


def more_frames(files, place):
    files["occlusion_labels"] = np.empty((2, 1), object)
    files["occlusion_labels"][:] = [[np.zeros((1, 17))]] * 2


def no_picture(files, place):
    files["picture"] = False


@pytest.mark.parametrize(
    "change, wanted",
    [
        (no_file, "TS3/annot.mat: no such file; config.data.dir must hold .* TS1 to TS20"),
        (text, "TS3/annot.mat: cannot be read as a MATLAB file"),
        (other_name, "TS3/annot.mat: has no cells 'annotations' .* but univ_annot3; it is of another version"),
        (fifteen, r"TS3/annot.mat: annot3 has the shape \(3, 15\), not \(3, 17\)"),
        (no_field, "TS3/annot.mat: annotations lack 'annot2'"),
        (other_pixels, "TS3/annot.mat: no camera shows annot3 at annot2"),
        (behind, "TS3/annot.mat: annot3 has .* at z <= 0"),
        (more_frames, r"TS3/occlusion.mat: is \(2, 1\), frames by people, but annot.mat \(1, 1\)"),
        (no_picture, "TS3/img_000000.jpg: no such picture"),
    ],
)
def test_bad_files_are_named_in_a_line(tmp_path, change, wanted):
    damaged(tmp_path, change)
    with pytest.raises((ValueError, FileNotFoundError), match=wanted) as error:
        datasets.of(config_of(tmp_path)).examples("test")
    assert "\n" not in str(error.value)


def test_it_is_for_tests_only(folder):
    with pytest.raises(ValueError, match="MuPoTS-3D has no split 'train_vha'"):
        datasets.of(config_of(folder)).training_stream(sharding())
    with pytest.raises(ValueError, match="config.data.source=mupots needs --config.data.dir, the folder that has TS1"):
        datasets.of(config_of("")).check()
