"""Sequences beside single frames, the miniature's pictures and annotations; each frame is made when asked for."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from loco_jax.data import crowd as crowds
from loco_jax.data import datasets, jta, streams
from loco_jax.data.jta import writing
from loco_jax.geometry.skeleton import FROM_JTA
from tests.support import tiny
from tests.support.annotations import random_rows, read_jta, write_jta


@pytest.fixture(autouse=True, scope="module")
def no_toys():
    """Other tests replace what a frame is made of, and compiled streams are kept."""
    streams._compile_crowd.cache_clear()


def first_frames(config, split, number):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "batch"), PartitionSpec("batch"))
    return [jax.device_get(frames) for frames, _ in datasets.of(config).evaluation_batches(split, 1, number, sharding)]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_sequences_of_the_crowd_begin_with_the_frames_of_evaluation(split):
    config = tiny()
    found = [next(film) for film in datasets.of(config).sequences(split, 2, 4, 3.0)]
    for instant, batch in zip(found, first_frames(config, split, 2), strict=True):
        assert instant.time == 0 and instant.frame.image is None
        np.testing.assert_allclose(instant.frame.joints, batch.joints[0], atol=1e-4)
        np.testing.assert_array_equal(instant.frame.present, batch.present[0])
        assert instant.frame.camera == pytest.approx([x[0] for x in batch.camera])


def test_a_rate_takes_every_tenth_frame_of_a_faster_one():
    slow, fast = (
        [list(film) for film in datasets.of(tiny()).sequences("test", 4, frames, fps)]
        for frames, fps in ((4, 3.0), (31, 30.0))
    )
    moves = []
    for few, many in zip(slow, fast, strict=True):
        assert [i.time for i in few] == pytest.approx([0, 1 / 3, 2 / 3, 1]) and len(many) == 31
        for one, other in zip(few, many[::10], strict=True):
            assert one.time == pytest.approx(other.time)
            np.testing.assert_allclose(one.frame.joints, other.frame.joints, atol=1e-4)
            np.testing.assert_array_equal(one.ids, many[0].ids)
            # Each person of a frame has an identity of its own.
            ids = one.ids[one.frame.present.any(axis=1)]
            assert len(set(ids.tolist())) == len(ids) > 1 and ids.min() >= 0
        moves.append(np.linalg.norm(few[-1].frame.joints - few[0].frame.joints, axis=-1).max())
    assert 0.5 < max(moves) < 8  # metres in a second


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config of small pictures, and the folder of a miniature JTA of them, 10 frames long, `data` in it prepared."""
    config = tiny(data={"pictures": True}, volume={"image_size": (54, 96)})
    folder = tmp_path_factory.mktemp("small")
    counts = {"train": 1, "validation": 1, "test": 1}
    writing.write(folder / "jta", counts, streams.crowd_of(config), frames=True, num_frames=10)
    jta.prepare(folder / "jta", folder / "data", pictures=True)
    return config, folder


def test_pictures_of_the_crowd_are_those_of_the_miniature(small, monkeypatch):
    config, folder = small
    shoot, made = writing.shoot, []
    monkeypatch.setattr(writing, "shoot", lambda *args: made.append(args[-1]) or shoot(*args))
    (film,) = datasets.of(config).sequences("test", 1, 10, 30.0)
    assert not made
    images = []
    for number, instant in enumerate(film, start=1):
        assert len(made) == number  # one frame at a time
        image = np.asarray(Image.open(folder / "jta" / "frames" / "test" / "seq_256" / f"{number}.jpg")).astype(int)
        assert instant.frame.image.dtype == np.uint8
        assert np.abs(image - instant.frame.image).mean() < 4
        images.append(instant.frame.image.astype(int))
    # Stage, light and clothes stay: little changes from one frame to the next.
    assert 0 < np.abs(images[1] - images[0]).mean() < 8


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The rows of three sequences of JTA, 80 frames long, and where they are prepared."""
    folder = tmp_path_factory.mktemp("three")
    rows = {256 + 2 * i: random_rows(i) for i in range(3)}
    write_jta(folder, {0: random_rows(9)}, test=rows)
    (folder / "camera.json").write_text(json.dumps(crowds.DEMO.camera._asdict() | {"num_frames": 80}))
    jta.prepare(folder, folder / "data")
    return rows, folder / "data"


@pytest.mark.parametrize("number, frames, wanted, length", [(3, 90, (256, 258, 260), 8), (2, 3, (256, 258), 3)])
def test_sequences_of_jta_are_its_rows(three, number, frames, wanted, length):
    rows, folder = three
    config = tiny(data={"source": "jta", "dir": str(folder), "max_people": 5})
    # All at once, so that none depends on the others' progress.
    films = list(datasets.of(config).sequences("test", number, frames, 25.0))
    found = [list(film) for film in films]
    assert len(found) == number and all(len(film) == length for film in found)
    for name, film in zip(wanted, found):
        assert [instant.time for instant in film] == pytest.approx([10 * (t + 1) / 30 for t in range(length)])
        for t, instant in enumerate(film):
            joints = {(row[1], row[2]): row[5:8] for row in rows[name] if row[0] == 10 * (t + 1)}
            known = {}
            for person, there, xyz in zip(instant.ids.tolist(), instant.frame.present, instant.frame.joints):
                known |= {(person, FROM_JTA[j]): xyz[j] for j in np.flatnonzero(there)}
            assert known.keys() == {key for key in joints if key[1] in list(FROM_JTA)}
            for key, xyz in known.items():
                np.testing.assert_allclose(xyz, joints[key], rtol=1e-6)


def test_sequences_of_jta_have_pictures(small):
    config, folder = small
    config = config.copy_and_resolve_references()
    config.data.update({"source": "jta", "dir": str(folder / "data")})
    ((instant,),) = map(list, datasets.of(config).sequences("test", 5, 90, 3.0))  # of ten frames the tenth
    options = {"training": False, "pictures": True}
    frame = next(read_jta(folder / "data", "test", 1, config.data.max_people, **options))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), instant.frame, frame)
    assert instant.ids[: instant.frame.present.any(axis=1).sum()].min() >= 0


def test_what_does_not_fit_is_told(three):
    data = {"source": "jta", "dir": str(three[1]), "max_people": 5}
    with pytest.raises(ValueError, match="far from the middle of pictures"):
        next(datasets.of(tiny(data=data, volume={"image_size": (1080, 1920)})).sequences("test", 1, 1, 3.0))
    with pytest.raises(ValueError, match="more than max_people=1"):
        list(next(datasets.of(tiny(data=data | {"max_people": 1})).sequences("test", 1, 9, 3.0)))
    with pytest.raises(FileNotFoundError, match="no prepared JTA"):
        next(datasets.of(tiny(data=data | {"pictures": True})).sequences("test", 1, 1, 3.0))
