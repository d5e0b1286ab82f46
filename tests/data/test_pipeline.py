"""Miniature -> builder -> batches: geometry kept, position exact, shards disjoint, every frame evaluated once."""

import json

import numpy as np
import pytest

from loco_jax.data import crowd as crowds
from loco_jax.data import jta, pipeline
from loco_jax.data.crowd import Scene
from loco_jax.data.jta import writing
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import FROM_JTA
from tests.support.annotations import read_jta, write_jta

SEQUENCES = {"train": 2, "validation": 1, "test": 2}


def marked_rows(sequence: int, people: int = 1) -> list[list]:
    """Somebody in every frame, whose joints tell in metres (sequence, frame, joint type)."""
    return [
        [frame, person, joint, 0, 0, sequence, frame, joint, 0, 0]
        for frame in range(1, 901)
        for person in range(people)
        for joint in range(22)
    ]


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A prepared JTA of `marked_rows`; test has 180 frames."""
    folder = tmp_path_factory.mktemp("marked")
    rows = {number: marked_rows(number) for number in (0, 1, 256, 257, 258)}
    write_jta(folder, {0: rows[0], 1: rows[1]}, {257: rows[257]}, {256: rows[256], 258: rows[258]})
    jta.prepare(folder, folder / "data")
    return folder / "data"


def marks(frames) -> list[tuple[int, int]]:
    """(sequence, frame) of the frames that are no padding."""
    real = pipeline.is_real(frames)
    return [(int(x), int(y)) for x, y, _ in frames.joints[real, 0, 0]]


def assert_same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_equal(x, y)


def test_frames_have_the_shapes_and_joints(marked):
    frames = next(read_jta(marked, "train", 3, 5, seed=1))
    assert frames.joints.shape == (3, 5, 14, 3) and frames.joints.dtype == np.float32
    assert frames.present.shape == (3, 5, 14) and frames.present.dtype == bool
    assert [(f.shape, f.dtype) for f in frames.camera] == [((3,), np.float32)] * 4
    assert frames.image is None
    assert frames.present[:, 0].all() and not frames.present[:, 1:].any() and not frames.joints[:, 1:].any()
    assert frames.joints[0, 0, :, 2].tolist() == list(FROM_JTA)
    np.testing.assert_array_equal(np.stack(frames.camera), np.array(cameras.JTA)[:, None].repeat(3, axis=1))


def test_each_epoch_has_every_frame_in_another_order(marked):
    batches = read_jta(marked, "train", 40, 1, seed=0)
    epochs = [sum((marks(next(batches)) for _ in range(9)), []) for _ in range(3)]  # 360 frames
    everything = [(sequence, frame) for sequence in (0, 1) for frame in range(1, 901, 5)]
    for epoch in epochs:
        assert sorted(epoch) == everything and epoch != everything
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    other = read_jta(marked, "train", 40, 1, seed=1)
    assert marks(next(other)) != epochs[0][:40]
    ordered = read_jta(marked, "train", 40, 1, training=False)
    assert marks(next(ordered)) == everything[:40]


def test_training_leaves_out_what_fills_no_batch(marked):
    batches = read_jta(marked, "validation", 40, 1)  # 90 frames
    for _ in range(4):
        epoch = marks(next(batches)) + marks(next(batches))
        assert len(set(epoch)) == 80


@pytest.mark.parametrize("before, after", [(0, 0), (0, 2), (2, 0)])
def test_restored_iterator_goes_on_exactly_with_other_workers_too(marked, before, after):
    batches = read_jta(marked, "train_vha", 16, 2, seed=3, num_workers=before)
    for _ in range(7):  # 11 batches an epoch
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    again = read_jta(marked, "train_vha", 16, 2, seed=3, num_workers=after)
    next(again)
    again.set_state(state)
    for _ in range(10):
        assert_same(next(batches), next(again))
    assert again.get_state() == batches.get_state() == {"batches": 17}


@pytest.mark.parametrize("state", [{"next_index": 3}, {"exhausted": [0, 0]}, {"batches": "3"}, {"batches": -1}])
def test_positions_that_are_none(marked, state):
    with pytest.raises(ValueError, match="another version.*another --workdir"):
        read_jta(marked, "train", 4, 2).set_state(state)


def test_reading_ahead_is_bounded_by_memory():
    """A batch of eight full-HD pictures is 50 MB."""
    full = 8 * 1080 * 1920 * 3
    for workers in (0, 1, 2, 8):
        options = pipeline.read_ahead(full, workers, cores=8)
        assert 1 <= options.num_threads <= options.prefetch_buffer_size
        assert options.prefetch_buffer_size * max(workers, 1) * full <= 512e6
    assert pipeline.read_ahead(100 * full, 2, cores=8).prefetch_buffer_size == 1
    assert pipeline.read_ahead(0, 0, cores=8) == pipeline.read_ahead(0, 2, cores=8)


def test_workers_change_nothing(marked):
    plain, workers = (read_jta(marked, "train", 7, 1, num_workers=n) for n in (0, 2))
    for _ in range(5):
        assert_same(next(plain), next(workers))


@pytest.mark.parametrize("process_count", [2, 3])
def test_shards_are_disjoint_and_complete(marked, process_count):
    streams = [
        read_jta(marked, "train", 12, 1, process_index=i, process_count=process_count) for i in range(process_count)
    ]
    for _ in range(2):  # 360 frames an epoch
        parts = [sum((marks(next(s)) for _ in range(360 // 12 // process_count)), []) for s in streams]
        assert len(set(sum(parts, []))) == 360


@pytest.mark.parametrize("process_count", [2, 3])
def test_parts_behind_each_other_are_the_batches_of_one_process(marked, process_count):
    """Of 360 frames, 24 a batch over all: the next epochs, in other orders, too."""
    one = read_jta(marked, "train", 24, 1, seed=5)
    parts = [
        read_jta(marked, "train", 24 // process_count, 1, seed=5, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for _ in range(2 * 360 // 24 + 1):
        assert sum((marks(next(part)) for part in parts), []) == marks(next(one))


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
@pytest.mark.parametrize("part, count", [("test", 180), ("test[:31]", 31)])
def test_evaluation_has_every_frame_once(marked, part, count, batch_size, process_count):
    seen, numbers_of_batches = [], set()
    for i in range(process_count):
        arguments = {"training": False, "process_index": i, "process_count": process_count}
        batches = list(read_jta(marked, part, batch_size, 2, **arguments))
        numbers_of_batches.add(len(batches))
        for frames in batches:
            assert frames.joints.shape == (batch_size, 2, 14, 3)
            padding = ~pipeline.is_real(frames)
            assert not frames.present[padding].any() and not frames.joints[padding].any()
            assert np.isfinite(np.stack(frames.camera)).all()
            seen += marks(frames)
    everything = [(sequence, frame) for sequence in (256, 258) for frame in range(10, 901, 10)]
    assert sorted(seen) == everything[:count]
    assert len(numbers_of_batches) == 1


def test_errors_say_what_to_do(marked, tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m loco_jax.data.jta --jta_dir=JTA --data_dir=.*nowhere"):
        read_jta(tmp_path / "nowhere", "train", 1, 1)
    with pytest.raises(ValueError, match="no split 'val'"):
        read_jta(marked, "val", 1, 1)
    with pytest.raises(ValueError, match="90 frames, too few for batch_size=50 on each of 2 processes"):
        read_jta(marked, "validation", 50, 1, process_count=2)


def test_too_many_people_are_named(tmp_path):
    folder = write_jta(tmp_path, {0: marked_rows(0, people=3)})
    jta.prepare(folder, folder / "data")
    with pytest.raises(ValueError, match="sequence 0, frame 10 has 3 people, more than max_people=2; raise it to 3"):
        next(read_jta(folder / "data", "train_vha", 1, 2, training=False))


# ---- The miniature


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A miniature JTA of the demo crowd, and where it was prepared."""
    folder = tmp_path_factory.mktemp("miniature") / "jta"
    writing.write(folder, SEQUENCES, crowds.DEMO)
    jta.prepare(folder, folder.parent / "data")
    return folder


def test_miniature_is_laid_out_as_jta(small):
    found = jta.find_sequences(small)
    assert {name: list(numbered) for name, numbered in found.items()} == {
        "train": [0, 1],
        "val": [257],
        "test": [256, 258],
    }
    for numbered in found.values():
        for path in numbered.values():
            rows = json.loads(path.read_text())
            keys = [tuple(row[:3]) for row in rows]
            assert keys == sorted(keys) and all(type(n) is int for key in keys for n in key)
            assert keys[0][0] >= 1 and keys[-1][0] <= 900 and len(rows) > 1000
            assert not any(row[8] or row[9] for row in rows)
    assert jta.read_camera_file(small)[0] == pytest.approx(crowds.DEMO.camera)


@pytest.mark.parametrize("split", ["train_vha", "train", "validation", "test"])
def test_projected_joints_are_the_annotated_pixels(small, split):
    data_dir, crowd = small.parent / "data", crowds.DEMO
    annotated = list(jta.load(data_dir, split))
    batches = read_jta(data_dir, split, 50, crowd.max_people, training=False)
    checked = 0
    for i, frames in enumerate(batches):
        camera = Camera(*(values[:, None, None] for values in frames.camera))
        projected = np.asarray(cameras.project(camera, frames.joints))
        for pixels, present, real, example in zip(
            projected, frames.present, pipeline.is_real(frames), annotated[50 * i : 50 * (i + 1)]
        ):
            count = len(example["people"]["id"])
            wanted = example["people"]["pixels"][:, FROM_JTA]
            assert real and not present[count:].any()
            np.testing.assert_array_equal(present[:count], example["people"]["present"][:, FROM_JTA])
            np.testing.assert_allclose(pixels[present], wanted[present[:count]], rtol=1e-5, atol=2e-3)
            checked += present.sum()
    assert checked == sum(example["people"]["present"][:, FROM_JTA].sum() for example in annotated) > 1000


def test_people_of_the_miniature_are_those_of_the_crowd(small):
    """Nobody is swapped: ids, and all 22 joints at the place of the same sequence."""
    scene = writing.sample(crowds.scene_key("test", 1), crowds.DEMO, 900)
    ids = np.asarray(scene.person_id).tolist()
    source = jta.load(small.parent / "data", "test")
    seen = 0
    for example in (source[i] for i in range(90, 180)):
        assert example["sequence"] == 258
        in_view = crowds.DEMO.volume.in_view(crowds.DEMO.camera, scene.joints[example["frame"] - 1]).any(axis=-1)
        people = example["people"]
        # Rounding may decide for a joint on the border.
        assert len(set(people["id"].tolist()) ^ {id for id, seen in zip(ids, in_view) if seen and id >= 0}) <= 1
        for id, joints, present in zip(people["id"].tolist(), people["joints"], people["present"]):
            true = np.asarray(scene.joints[example["frame"] - 1, ids.index(id)])
            np.testing.assert_allclose(joints[present], true[present], atol=1e-4)
            np.testing.assert_array_equal(present, true[:, 2] > 0)
            seen += 1
    assert seen > 20


def test_who_is_in_a_frame(tmp_path):
    """By hand: in view with one joint, off the picture, beyond the volume, partly behind the camera, not present."""
    crowd = crowds.DEMO
    places = [[0, 0, 10], [9, 0, 10], [0, 0, 90], [0, 0, 10], [0, 0, 10]]
    joints = np.zeros((1, 5, 22, 3), np.float32) + np.array(places, np.float32)[None, :, None]
    joints[0, 0, 1:] = [9, 0, 10]  # only the head top is in view
    joints[0, 3, 21] = [0, 0, -1]
    ids = np.array([40, 30, 20, 10, -1], np.int32)
    scene = Scene(joints, np.array([[True, True, True, True, False]]), ids, np.eye(3), 1.0)
    rows = json.loads(writing.sequence_text(scene, crowd))
    assert [row[:3] for row in rows] == [[1, 10, j] for j in range(21)] + [[1, 40, j] for j in range(22)]
    assert rows[0] == [1, 10, 0, 240, 135, 0, 0, 10, 0, 0]
    assert rows[-1] == [1, 40, 21, 500.55, 135, 9, 0, 10, 0, 0]
    empty = scene._replace(present=np.zeros((1, 5), bool))
    assert json.loads(writing.sequence_text(empty, crowd)) == []


def test_miniature_replaces_only_miniatures(tmp_path, monkeypatch):
    def sample(key, crowd, num_frames):
        joints = np.full((2, 1, 22, 3), 5.0, np.float32) * [0, 0, 1]
        return Scene(joints, np.ones((2, 1), bool), np.zeros(1, np.int32), np.eye(3), 1.0)

    monkeypatch.setattr(writing, "sample", sample)
    once = {"train": 1, "validation": 1, "test": 1}
    folder = tmp_path / "jta"
    folder.mkdir()
    writing.write(folder, once, crowds.DEMO)
    with pytest.raises(FileExistsError, match="already; replace it with --overwrite"):
        writing.write(folder, once, crowds.DEMO)
    writing.write(folder, {**once, "train": 2}, crowds.DEMO, overwrite=True)
    assert sorted(p.name for p in (folder / "annotations" / "train").iterdir()) == ["seq_0.json", "seq_1.json"]
    mark = (folder / "miniature.json").read_text()
    (folder / "miniature.json").unlink()  # now it might be the real one, with a camera.json
    with pytest.raises(FileExistsError, match="other files than a miniature JTA, or no miniature.json"):
        writing.write(folder, once, crowds.DEMO, overwrite=True)
    (folder / "miniature.json").write_text(mark)
    (folder / "precious.txt").write_text("somebody's")
    with pytest.raises(FileExistsError, match="other files than a miniature JTA, or no miniature.json"):
        writing.write(folder, once, crowds.DEMO, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["jta"]
    with pytest.raises(FileExistsError, match="precious.txt: is a file"):
        writing.write(folder / "precious.txt", once, crowds.DEMO, overwrite=True)
