"""Annotations, cameras and frames of JTA by strangers; see support/strangers.py."""

import copy
import json
import os
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from loco_jax.data import jta
from loco_jax.geometry.camera import JTA, Camera
from tests.support.annotations import GOOD_ROW, write_jta
from tests.support.strangers import ODD, damaged, damages, fuzz, peak_megabytes, pictures_of_all_kinds, read_or_refused

rows = st.lists(
    st.builds(
        lambda frame, person, joint, rest, flags: [frame, person, joint, *rest, *flags],
        st.integers(1, 900),
        st.integers(0, 3),
        st.integers(0, 21),
        st.lists(st.floats(-2000, 2000), min_size=5, max_size=5),
        st.lists(st.integers(0, 1), min_size=2, max_size=2),
    ),
    max_size=8,
)


places = st.tuples(st.integers(0, 7), st.integers(0, 9))


changes = st.lists(
    st.tuples(st.sampled_from(["value", "value", "row", "more", "fewer"]), places, st.sampled_from(ODD)), max_size=2
)


def is_good(table) -> bool:
    """Whether rows are as JTA's have to be, one value after the other."""
    seen = set()
    for row in table:
        if type(row) is not list or len(row) != 10 or any(type(x) not in (int, float) for x in row):
            return False
        if not all(abs(x) < float(np.finfo(np.float32).max) for x in row) or row[1] != round(row[1]):
            return False
        if row[0] not in range(1, 901) or row[2] not in range(22) or not {row[8], row[9]} <= {0, 1}:
            return False
        if abs(row[1]) >= 2**53 or tuple(row[:3]) in seen:
            return False
        seen.add(tuple(row[:3]))
    return True


@fuzz(150)
@given(rows, changes)
def test_annotations_are_read_if_they_are_good_and_only_then(folder, table, changes):
    for what, (i, j), value in changes:
        value = copy.deepcopy(value)  # it may be put into itself
        if what == "row" or not table or type(table[i % len(table)]) is not list:
            table.insert(i % (len(table) + 1), value)
        elif what == "value":
            table[i % len(table)][j:] = [value, *table[i % len(table)][j + 1 :]]
        else:
            table[i % len(table)][9 - (what == "fewer") :] = [0] * (what == "more") * 3
    path = folder / "seq_0.json"
    path.write_text(json.dumps(table))
    people = read_or_refused(lambda path: jta.read_sequence(path, range(1, 901)), path, jta.AnnotationError)
    assert (people is not None) == is_good(table)
    if people is not None:
        found = {
            (f, i, joint): [*pixel, *xyz, hidden]
            for f, i, present, *values in zip(people.frame, people.id, people.present, people.pixels, people.joints)
            for joint in np.flatnonzero(present)
            for pixel, xyz, hidden in [(values[0][joint], values[1][joint], 0)]
        }
        assert found == {tuple(row[:3]): [*map(np.float32, row[3:8]), 0] for row in table}


@fuzz(150)
@given(st.sampled_from([json.dumps([GOOD_ROW, [11, *GOOD_ROW[1:]]]).encode(), b"[]", b'[{"a": [1, "b"]}]']), damages)
def test_damaged_annotations(folder, content, damage):
    path = folder / "seq_0.json"
    path.write_bytes(damaged(content, damage))
    read_or_refused(lambda path: jta.read_sequence(path, range(1, 901)), path, jta.AnnotationError)


def test_true_is_no_number_in_any_encoding(tmp_path):
    (tmp_path / "seq_0.json").write_bytes(json.dumps([[*GOOD_ROW[:-1], True]]).encode("utf-16"))
    with pytest.raises(jta.AnnotationError, match="not JSON"):
        jta.read_sequence(tmp_path / "seq_0.json", [10])


@pytest.mark.parametrize("what", ["one long text", "many lists"])
def test_annotations_take_memory_as_they_are_large(tmp_path, what):
    """NumPy would make every number a text as long as the longest; and a list takes 80 bytes, of 3 in the file."""
    path = tmp_path / "seq_0.json"
    if what == "one long text":
        table = [[*GOOD_ROW[:-1], "a" * 2000], *[GOOD_ROW] * 20_000]  # 1.6 GB of texts
        path.write_text(json.dumps(table))
    else:
        path.write_bytes(b"[" + b"[]," * 12_000_000 + b"[]]")  # 1 GB of lists
    code = """import sys; from loco_jax.data import jta
try:
    jta.read_sequence(sys.argv[1], [1])
except jta.AnnotationError as error:
    print(error)"""
    megabytes, seconds, printed = peak_megabytes(code, path)
    assert megabytes < 250 and seconds < 20 and str(path) in printed


@fuzz(60)
@given(st.dictionaries(st.sampled_from([*Camera._fields, "num_frames", "x"]), st.sampled_from([*ODD, 500, 10.0])))
@example({**JTA._asdict(), "fx": 10**400})
@example({**JTA._asdict(), "num_frames": 10**400})
def test_cameras_of_strangers(folder, changes):
    path = folder / "camera.json"
    path.write_text(json.dumps({**JTA._asdict(), **changes}))
    found = read_or_refused(lambda path: jta.read_camera_file(path.parent), path, jta.AnnotationError)
    number = changes.pop("num_frames", 900)
    good = all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in changes.values())
    good = good and "x" not in changes and all(changes.get(f, 1) > 0 for f in ("fx", "fy"))
    assert (found is not None) == (good and type(number) is int and 10 <= number <= 900)
    if found is not None:
        camera, num_frames = found
        assert camera._asdict() == {**JTA._asdict(), **changes} and num_frames == number


@pytest.mark.parametrize("text", ["[" * 100_000, '{"fx": ' + "[" * 900 + "]" * 900 + "}", " " * 200_000, '"' * 9])
def test_cameras_that_are_none(tmp_path, text):
    (tmp_path / "camera.json").write_text(text)
    path = tmp_path / "camera.json"
    assert read_or_refused(lambda p: jta.read_camera_file(p.parent), path, jta.AnnotationError) is None


@pytest.mark.parametrize("name", ["seq_3000000000.json", "seq_1\u0663.json"])
def test_numbers_of_sequences_that_cannot_be(tmp_path, name):
    """Too large for the data set; and an Arabic 3, which would be 13 again."""
    write_jta(tmp_path, {13: [GOOD_ROW]})
    (tmp_path / "annotations" / "train" / name).write_text("[]")
    with pytest.raises(jta.AnnotationError, match=f"{name}: is not called seq_N.json"):
        jta.find_sequences(tmp_path)


# ---- Frames


@pytest.fixture(scope="module")
def some_pictures(folder):
    return pictures_of_all_kinds(folder)


@fuzz(60)
@given(damages)
def test_damaged_frames_of_jta(folder, some_pictures, damage):
    place = folder / "frames" / "train" / "seq_0"
    place.mkdir(parents=True, exist_ok=True)
    (place / "1.jpg").write_bytes(damaged(dict(some_pictures)["p.jpg"], damage))
    read_or_refused(
        lambda path: jta.collect_pictures(folder, "train", 0, [1], folder / "out"), place / "1.jpg", jta.AnnotationError
    )


def test_a_bomb_among_the_frames_of_jta_is_named(tmp_path):
    write_jta(tmp_path, {0: [GOOD_ROW]})
    for split, number in (("train", 0), ("val", 257), ("test", 256)):
        place = tmp_path / "frames" / split / f"seq_{number}"
        place.mkdir(parents=True)
        for frame in range(1, 901):
            if frame % 10 == 0 or frame % 5 == 1:
                os.symlink(tmp_path / "bomb.jpg", place / f"{frame}.jpg")
    Image.new("L", (8, 8)).save(tmp_path / "bomb.jpg")
    content = (tmp_path / "bomb.jpg").read_bytes()
    size = content.index(b"\xff\xc0") + 5
    (tmp_path / "bomb.jpg").write_bytes(content[:size] + b"\xff\xdc\xff\xdc" + content[size + 4 :])
    with pytest.raises(jta.AnnotationError, match="3 of 3 sequences are bad.*\n.*1.jpg: frame 1 is damaged"):
        jta.prepare(tmp_path, tmp_path / "data", pictures=True)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    assert read_or_refused(lambda path: jta.read_sequence(path, [1]), tmp_path / "p", jta.AnnotationError) is None
