"""The table of data sets, the data set of the documentation, and the evaluation of a network on other data."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from loco_jax import evaluate, experiment, weights
from loco_jax.data import datasets, stored, streams
from loco_jax.geometry import camera as cameras
from loco_jax.geometry import skeleton
from loco_jax.runs.checkpoints import CheckpointError
from tests.support import ROOT, Mean, quietly, tiny

NAMES = ("neck", "left_hip", "right_hip")  # of the documentation's data set
SIZE = (60, 100)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The documentation's my_data.py in Python's path."""
    folder = tmp_path_factory.mktemp("module")
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (code,) = (block for block in blocks if "class MyData" in block)
    assert len(code.splitlines()) <= 70
    (folder / "my_data.py").write_text(code)
    sys.path.insert(0, str(folder))
    yield "my_data:MyData"
    sys.path.remove(str(folder))


def place(frame: int, person: int, joint: str) -> list[float]:
    rng = np.random.default_rng([frame, person, NAMES.index(joint)])
    return [round(x, 3) for x in [*rng.uniform(-1, 1, 2).tolist(), rng.uniform(4, 6)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for split, count in (("train", 6), ("test", 5)):
        frames = []
        for number in range(count):
            people = [{"id": p, "joints": {j: place(number, p, j) for j in NAMES}} for p in range(number % 3)]
            name = f"{split}{number}.jpg"
            Image.new("RGB", SIZE[::-1], (40 * number,) * 3).save(folder / name, quality=98)
            frames.append({"picture": name, "size": SIZE, "camera": [80.0, 80, 50, 30], "people": people})
        (folder / f"{split}.json").write_text(json.dumps(frames))
    return folder


def config_of(module, folder, **changes):
    data = {"source": module, "dir": str(folder), "max_people": 3, "pictures": True, "batch_size": 2}
    return tiny(data=data, volume={"image_size": (54, 96), "stride": 8}, **changes)


def sharding():
    return NamedSharding(Mesh(np.array(jax.devices()[:1]), "batch"), PartitionSpec("batch"))


def test_the_data_set_of_the_documentation_works(module, folder):
    config = config_of(module, folder)
    datasets.of(config).check()
    assert datasets.of(config).name == "my data"
    trained = cameras.JTA.scaled(96 / 1920)
    batches = list(datasets.of(config).evaluation_batches("test", 2, 100, sharding()))
    assert [real.tolist() for _, real in batches] == [[True, True], [True, True], [True, False]]
    frames = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), batch) for batch, _ in batches for i in range(2)][:5]
    for number, frame in enumerate(frames):
        assert frame.image.shape == (54, 96, 3) and frame.camera.fx == pytest.approx(trained.fx, rel=0.02)
        middle = frame.image[20:30, 40:50].mean()
        assert middle == pytest.approx(40 * number, abs=3)
        for person in range(3):
            for joint, name in enumerate(skeleton.JOINTS):
                there = person < number % 3 and name in NAMES
                assert frame.present[person, joint] == there
                if there:
                    np.testing.assert_allclose(frame.joints[person, joint], place(number, person, name), rtol=1e-5)
        assert [skeleton.JOINTS[i] for i in np.flatnonzero(frame.origin.annotated)] == [
            name for name in skeleton.JOINTS if name in NAMES
        ]
    (film,) = datasets.of(config).sequences("test", 4, 3, 30.0)
    assert [instant.time for instant in film] == pytest.approx([0, 1 / 30, 2 / 30])
    with pytest.raises(FileNotFoundError, match="validation.json: no such file"):
        next(datasets.of(config).evaluation_batches("validation", 2, 3, sharding()))


def test_training_on_it_goes_on_exactly(module, folder):
    stream = datasets.of(config_of(module, folder)).training_stream(sharding())
    seen = [jax.device_get(next(stream)) for _ in range(5)]
    again = datasets.of(config_of(module, folder)).training_stream(sharding())
    again.set_state({"batches": 3})
    for batch in seen[3:]:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(next(again)), batch)
    assert stream.get_state() == {"batches": 5}


def test_a_run_is_scored_on_other_data_if_the_user_names_them(toy, module, folder, tmp_path):
    quietly(tiny(steps=1), tmp_path)
    other = config_of(module, folder, test_frames=5)
    other.data.pictures = False
    other.volume = tiny().volume
    with pytest.raises(CheckpointError, match="data.source: 'crowd' there, 'my_data:MyData' now"):
        evaluate.evaluate(other, str(tmp_path), lambda _: None)
    given = ("data.source", "data.dir", "data.max_people")
    summary = evaluate.evaluate(other, str(tmp_path), lambda _: None, given=given)
    assert summary["data"] == "my data, test split" and len(summary["marks"]) == 5
    assert summary["marks"][1] == 0 and summary["step"] == 1  # joint 0 is not annotated


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("coco", "config.data.source='coco'; there are crowd, jta, mupots, panoptic, and your own as package.module:"),
        ("no_such_module:Data", "config.data.source=no_such_module:Data: No module named 'no_such_module'"),
        ("loco_jax.data.streams:Data", "config.data.source=.*has no attribute 'Data'"),
        ("loco_jax.data.streams:CrowdStream", "must be a subclass of loco_jax.data.datasets.DataSet"),
    ],
)
def test_classes_that_are_no_data_sets_are_refused(source, wanted):
    with pytest.raises(ValueError, match=wanted) as error:
        datasets.of(config_of(source, "."))
    assert "\n" not in str(error.value)


def test_a_class_without_a_name_is_refused(monkeypatch):
    class Nameless(stored.Stored):
        def examples(self, split):
            return []

    monkeypatch.setattr(stored, "Nameless", Nameless, raising=False)
    with pytest.raises(ValueError, match="config.data.source=loco_jax.data.stored:Nameless: .*abstract.* '?name"):
        datasets.of(config_of("loco_jax.data.stored:Nameless", "."))


@pytest.mark.parametrize(
    "change, wanted",
    [
        (lambda text: text[:-5], "JSONDecodeError"),
        (lambda text: text.replace('"camera"', '"cam"'), "KeyError: 'camera'"),
        (lambda text: text.replace('"neck"', '"nose"'), "KeyError: 'nose'"),
    ],
)
def test_bad_files_of_the_documentations_data_set_are_named(module, folder, tmp_path, change, wanted):
    (tmp_path / "test.json").write_text(change((folder / "test.json").read_text()))
    with pytest.raises(ValueError, match=f"test.json: {wanted}") as error:
        next(datasets.of(config_of(module, tmp_path)).evaluation_batches("test", 2, 3, sharding()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "task, lacks",
    [("location_maps", "head_top"), ("trunk", "head_top, right_shoulder, .*left_ankle"), ("refiner", "head_top, .*")],
)
def test_tasks_that_need_joints_tell_those_that_are_not_there(module, folder, task, lacks):
    config = config_of(module, folder)
    config.task = task
    wanted = f"train0.jpg: its data have no {lacks}, which config.task={task} needs; take another data set or task"
    with pytest.raises(ValueError, match=wanted):
        datasets.of(config).training_stream(sharding())
    if task == "location_maps":
        next(datasets.of(config).evaluation_batches("test", 2, 3, sharding()))
        return
    with pytest.raises(ValueError, match="test0.jpg: its data have no head_top"):
        next(datasets.of(config).evaluation_batches("test", 2, 3, sharding()))


def test_weights_bring_the_camera_that_they_were_trained_with(toy, module, folder, tmp_path, monkeypatch):
    """Pictures get its angle a pixel, unless the user gives another camera."""
    other = config_of(module, folder, test_frames=5)
    other.data.pictures = False
    other.volume = tiny().volume
    seen = []
    monkeypatch.setattr(experiment, "trained_camera", lambda source: cameras.Camera(400.0, 401, 240, 135))
    monkeypatch.setattr(weights, "read", lambda *_: Mean().init(jax.random.key(0)))
    fitted = streams.fitted
    monkeypatch.setattr(streams, "fitted", lambda config, split: seen.append(config) or fitted(config, split))
    for given in ((), ("data.camera",)):
        evaluate.evaluate(other, str(tmp_path), lambda _: None, "some.safetensors", given=given)
    assert [tuple(config.data.camera) for config in seen] == [(400, 401, 240, 135), ()]


def test_the_camera_of_a_file_of_weights():
    assert experiment.trained_camera("released").fx == 289.5


def test_cameras_that_cannot_be_are_refused(module, folder):
    config = config_of(module, folder)
    for camera in ((500.0, 500.0), (0.0, 500.0, 320.0, 240.0)):
        config.data.camera = camera
        with pytest.raises(ValueError, match="config.data.camera=.* must be .fx, fy, cx, cy. in pixels"):
            datasets.of(config).check()
    config.data.camera = (60.0, 60.0, 48.0, 27.0)
    datasets.of(config).check()
    assert tuple(datasets.of(config).camera) == (60, 60, 48, 27)


def test_pictures_that_do_not_fit_are_named(unchecked, module, folder, tmp_path):
    frames = json.loads((folder / "test.json").read_text())
    frames[2]["camera"] = [20.0, 20, 50, 30]  # an angle as of no other picture
    (tmp_path / "test.json").write_text(json.dumps(frames))
    with pytest.raises(ValueError, match="test2.jpg: its picture or camera differs from the first of its sequence"):
        config = config_of(module, tmp_path)
        config.data.pictures = False
        list(next(datasets.of(config).sequences("test", 1, 9, 30.0)))
    wide = [frame | {"camera": [5.0, 5, 50, 30]} for frame in frames]
    (tmp_path / "test.json").write_text(json.dumps(wide))
    with pytest.raises(ValueError, match="test0.jpg: its camera's angle of view is too wide"):
        streams.fitted(config_of(module, tmp_path), "test")
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(ValueError, match="split 'test' has no frame"):
        next(datasets.of(config_of(module, tmp_path)).evaluation_batches("test", 2, 3, sharding()))
