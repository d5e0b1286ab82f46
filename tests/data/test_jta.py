"""The builder against an independent reading of the same JSON, and against everything that can be wrong with it."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from loco_jax import cli
from loco_jax.configs import vha as vha_config
from loco_jax.data import datasets, jta
from loco_jax.data.jta import annotations, sequences
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from tests.support.annotations import GOOD_ROW, random_rows, write_jta

USED_FRAMES = {
    "train_vha": [10 * i for i in range(1, 91)],
    "train": [1 + 5 * i for i in range(180)],
    "validation": [10 * i for i in range(1, 91)],
    "test": [10 * i for i in range(1, 91)],
}
FOLDERS = {"train_vha": "train", "train": "train", "validation": "val", "test": "test"}


def test_sigterm_leaves_nothing_behind_and_the_next_start_is_whole(tmp_path, monkeypatch, capsys, own_sigterm):
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    read_sequence, calls = annotations.read_sequence, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read_sequence(*arguments)

    monkeypatch.setattr(annotations, "read_sequence", stopped)
    assert cli.call(jta.prepare, tmp_path / "jta", tmp_path / "data") == 130
    assert capsys.readouterr().err == "loco_jax: stopped\n" and len(calls) == 2
    assert os.listdir(tmp_path / "data") == []
    # One that was killed leaves its folder; the next start removes it.
    (tmp_path / "data" / ".preparing_poses" / "work" / "old").mkdir(parents=True)
    prepared = jta.prepare(tmp_path / "jta", tmp_path / "data")
    assert prepared.splits["test"] == {"sequences": 1, "frames": 90, "people": 1, "joints": 1, "most_people": 1}
    assert os.listdir(tmp_path / "data") == ["jta"]


@pytest.mark.parametrize("what", ["data", "data/jta", "data/jta/poses"])
def test_where_nothing_can_be_written_nothing_is_read(tmp_path, monkeypatch, what):
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    (tmp_path / what).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / what).write_text("a file in the way")
    monkeypatch.setattr(annotations, "read_sequence", pytest.fail)
    with pytest.raises(OSError, match=rf"{what}: cannot be written to \(Not a directory\); choose another --data_dir"):
        jta.prepare(tmp_path / "jta", tmp_path / "data")


def read_plainly(rows: list[list]) -> dict:
    """{frame: {person: {joint: the seven other numbers}}}"""
    frames = {}
    for frame, person, joint, *rest in rows:
        frames.setdefault(frame, {}).setdefault(person, {})[joint] = rest
    return frames


def check_example(example: dict, people: dict) -> None:
    """`people` as `read_plainly` gives them for the example's frame."""
    got = example["people"]
    assert got["id"].tolist() == sorted(people)
    assert got["joints"].shape == (len(people), 22, 3) and got["joints"].dtype == np.float32
    assert got["pixels"].shape == (len(people), 22, 2) and got["pixels"].dtype == np.float32
    for flag in ("present", "occluded", "self_occluded"):
        assert got[flag].shape == (len(people), 22) and got[flag].dtype == bool
    for i, person in enumerate(sorted(people)):
        for joint in range(22):
            x2d, y2d, x3d, y3d, z3d, occluded, self_occluded = people[person].get(joint, [0] * 7)
            assert got["present"][i, joint] == (joint in people[person])
            assert got["pixels"][i, joint].tolist() == [np.float32(x2d), np.float32(y2d)]
            assert got["joints"][i, joint].tolist() == [np.float32(x3d), np.float32(y3d), np.float32(z3d)]
            assert got["occluded"][i, joint] == occluded
            assert got["self_occluded"][i, joint] == self_occluded


def names(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Several sequences, and where they were prepared."""
    sequences = {
        "train": {0: random_rows(0), 2: random_rows(1, range(821, 901)), 10: []},
        "val": {257: random_rows(2)},
        "test": {256: random_rows(3), 258: random_rows(4)},
    }
    folder = tmp_path_factory.mktemp("jta")
    prepared = jta.prepare(write_jta(folder, **sequences), folder / "data")
    return sequences, folder, prepared


@pytest.mark.parametrize("split", USED_FRAMES)
def test_examples_are_what_the_files_say(good, split):
    sequences, folder, prepared = good
    source = jta.load(folder / "data", split)
    wanted = [(number, frame) for number in sorted(sequences[FOLDERS[split]]) for frame in USED_FRAMES[split]]
    assert len(source) == len(wanted)
    people = joints = 0
    for i, (number, frame) in enumerate(wanted):
        example = source[i]
        assert (example["sequence"], example["frame"]) == (number, frame)
        assert Camera(**example["camera"]) == cameras.JTA
        there = read_plainly(sequences[FOLDERS[split]][number]).get(frame, {})
        check_example(example, there)
        people += len(there)
        joints += sum(len(person) for person in there.values())
    counts = prepared.splits[split]
    assert people > 10 and (counts["people"], counts["joints"], counts["frames"]) == (people, joints, len(wanted))


def test_several_processes_read_the_same(good, tmp_path, monkeypatch):
    _, folder, prepared = good
    monkeypatch.setattr(sequences, "_SEQUENCES_PER_WORKER", 2)
    again = jta.prepare(folder, tmp_path, num_workers=2)
    assert again.splits == prepared.splits
    for split in jta.SPLITS:
        for mine, other in zip(jta.load(tmp_path, split), jta.load(folder / "data", split), strict=True):
            np.testing.assert_equal(mine, other)


def test_without_beam_its_options_are_refused(tmp_path, monkeypatch):
    """And without options Beam is not imported, whether it is there or not."""
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "loco_jax.data.jta.beam", raising=False)
    monkeypatch.delitem(vars(jta), "beam", raising=False)
    with pytest.raises(ModuleNotFoundError, match="^--beam_options needs Beam: pip install 'apache-beam") as told:
        jta.prepare(tmp_path / "jta", tmp_path / "data", beam_options="runner=DirectRunner")
    assert "\n" not in str(told.value) and not (tmp_path / "data").exists()
    assert not jta.prepare(tmp_path / "jta", tmp_path / "data").reused


def test_a_process_that_was_killed_is_told_and_none_is_left():
    before = multiprocessing.active_children()
    with pytest.raises(OSError, match="a process .* was killed.*--num_workers=1"), sequences._mapper(2) as mapper:
        list(mapper(os._exit, [1, 1]))
    assert multiprocessing.active_children() == before


def change(**fields) -> list:
    row = list(GOOD_ROW)
    for field, value in fields.items():
        row[annotations.FIELDS.index(field)] = value
    return row


BAD_ROWS = {
    "nine numbers": (GOOD_ROW[:-1], None, "is not a list of the 10 numbers frame, person_id"),
    "eleven numbers": (GOOD_ROW + [0], None, "is not a list of the 10 numbers"),
    "no row": (17, None, "17.0 is not a list of the 10 numbers"),
    "an object": ({"frame": 1}, None, '{"frame": 1.0} is not a list of the 10 numbers'),
    "empty": ([], None, "[] is not a list of the 10 numbers"),
    "a string": (change(x2d="12"), "x2d", '"12" is not a number'),
    "true": (change(occluded=True), "occluded", "true is not a number"),
    "false": (change(self_occluded=False), "self_occluded", "false is not a number"),
    "null": (change(z3d=None), "z3d", "null is not a number"),
    "nested": (change(x3d=[1.0]), "x3d", "[1.0] is not a number"),
    "joint 22": (change(joint_type=22), "joint_type", "22 is not an integer from 0 to 21"),
    "joint -1": (change(joint_type=-1), "joint_type", "-1 is not an integer from 0 to 21"),
    "joint 2.5": (change(joint_type=2.5), "joint_type", "2.5 is not an integer from 0 to 21"),
    "person 2.5": (change(person_id=2.5), "person_id", "2.5 is not an integer from -9007"),
    "huge person": (change(person_id=10**400), "person_id", "inf is not an integer"),
    "frame 0": (change(frame=0), "frame", "0 is not an integer from 1 to 900"),
    "frame 901": (change(frame=901), "frame", "901 is not an integer from 1 to 900"),
    "frame 1.5": (change(frame=1.5), "frame", "1.5 is not an integer from 1 to 900"),
    "NaN": (change(y3d=float("nan")), "y3d", "nan is not a finite number"),
    "infinite": (change(y2d=float("inf")), "y2d", "inf is not a finite number"),
    "infinite frame": (change(frame=-float("inf")), "frame", "-inf is not an integer from 1 to 900"),
    "too large": (change(x2d=1e39), "x2d", "1e+39 is not a finite number"),
    "flag 2": (change(occluded=2), "occluded", "2 is not an integer from 0 to 1"),
    "flag 0.5": (change(self_occluded=0.5), "self_occluded", "0.5 is not an integer from 0 to 1"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(tmp_path, name):
    row, field, problem = BAD_ROWS[name]
    good_rows = [change(joint_type=i) for i in range(5)]
    path = tmp_path / "seq_0.json"
    path.write_text(json.dumps([*good_rows, row]))
    with pytest.raises(jta.AnnotationError) as error:
        jta.read_sequence(path, range(1, 901))
    message = str(error.value)
    assert str(path) in message and "row 5 " in message and problem in message
    assert field is None or f", {field}: " in message


def test_duplicate_joint(tmp_path):
    path = tmp_path / "seq_0.json"
    path.write_text(json.dumps([change(joint_type=4), GOOD_ROW, change(frame=11), change(x2d=1.0), change(x2d=2.0)]))
    with pytest.raises(jta.AnnotationError) as error:
        jta.read_sequence(path, [900])  # other frames are checked as well
    for part in (str(path), "row 3 ", "joint_type: joint 3 of person 7 in frame 10", "also in row 1", "1 more like it"):
        assert part in str(error.value)


def test_too_many_people(tmp_path):
    path = tmp_path / "seq_0.json"
    path.write_text(
        json.dumps([change(person_id=i) for i in range(5)] + [change(person_id=i, frame=7) for i in range(9)])
    )
    assert len(jta.read_sequence(path, [10], max_people=5).id) == 5  # frame 7 is not used
    with pytest.raises(jta.AnnotationError) as error:
        jta.read_sequence(path, [10], max_people=3)
    for part in (str(path), "frame 10 has 5 people", "max_people=3", "--max_people=5"):
        assert part in str(error.value)


BAD_TEXTS = {
    "[[1, 2,": "not JSON",
    "": "not JSON",
    "\xff": "not JSON",
    "[" * 100_000: "not JSON",
    '{"rows": []}': "of type dict, not a list of rows",
    "12": "of type float, not a list of rows",
}


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: repr(text[:12]))
def test_bad_file(tmp_path, text):
    path = tmp_path / "seq_0.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(jta.AnnotationError) as error:
        jta.read_sequence(path, [1])
    assert str(path) in str(error.value) and BAD_TEXTS[text] in str(error.value) and "get" in str(error.value)


def test_what_cannot_be_read_as_a_file(tmp_path):
    with pytest.raises(jta.AnnotationError, match=r"cannot be read \(Is a directory\); check the file"):
        jta.read_sequence(tmp_path, [1])


def test_a_height_of_pictures_needs_pictures(tmp_path):
    for options in ({"picture_height": 90}, {"picture_height": -1, "pictures": True}):
        with pytest.raises(ValueError, match="needs --pictures, and must not be negative"):
            jta.prepare(tmp_path, tmp_path, **options)


def test_missing_and_empty_folders_are_all_named(tmp_path):
    (tmp_path / "annotations" / "val").mkdir(parents=True)
    (tmp_path / "annotations" / "train").mkdir()
    for name in ("seq_0.json", "seq_01.json"):
        (tmp_path / "annotations" / "train" / name).write_text("[]")
    with pytest.raises(jta.AnnotationError) as error:
        jta.prepare(tmp_path, tmp_path / "data")
    assert f"{tmp_path / 'annotations' / 'val'}: has no file seq_N.json" in str(error.value)
    assert f"{tmp_path / 'annotations' / 'test'}: has no file seq_N.json" in str(error.value)
    assert "seq_01.json: is not called seq_N.json" in str(error.value)
    assert "train:" not in str(error.value) and "seq_0.json" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_all_bad_files_are_named_at_once_and_can_be_skipped(tmp_path):
    train = {0: "nonsense", 1: random_rows(1), 2: [GOOD_ROW, change(joint_type=30)], 3: random_rows(3)}
    write_jta(tmp_path, train, test={256: random_rows(5), 258: [GOOD_ROW, GOOD_ROW]})
    with pytest.raises(jta.AnnotationError) as error:
        jta.prepare(tmp_path, tmp_path / "data")
    message = str(error.value)
    assert "3 of 7 sequences are bad, and nothing was prepared" in message and "--skip_bad" in message
    for path in ("train/seq_0.json", "train/seq_2.json", "test/seq_258.json"):
        assert message.count(path) == 1
    assert "seq_1.json" not in message
    assert names(tmp_path / "data") == []
    with pytest.raises(FileNotFoundError, match="python -m loco_jax.data.jta"):
        jta.load(tmp_path / "data", "train")

    prepared = jta.prepare(tmp_path, tmp_path / "data", skip_bad=True)
    assert len(prepared.left_out) == 3 and "train/seq_0.json" in prepared.left_out[0]
    assert names(tmp_path / "data") == ["jta"]
    source = jta.load(tmp_path / "data", "train")
    assert [source[i]["sequence"] for i in (0, 179, 180, 359)] == [1, 1, 3, 3] and len(source) == 360
    assert jta.prepare(tmp_path, tmp_path / "data").left_out == prepared.left_out  # and so it is told again


def test_skipping_must_leave_something_of_every_split(tmp_path):
    write_jta(tmp_path, {0: [GOOD_ROW]}, val={257: "nonsense", 259: "[[1]]"})
    with pytest.raises(jta.AnnotationError, match="no good sequence is left in annotations/val"):
        jta.prepare(tmp_path, tmp_path / "data", skip_bad=True)
    assert names(tmp_path / "data") == []


def test_prepared_data_is_reused_replaced_or_kept(tmp_path):
    first = write_jta(tmp_path / "first", {0: random_rows(0)})
    second = write_jta(tmp_path / "second", {0: random_rows(1)})
    bad = write_jta(tmp_path / "bad", {0: "nonsense"})
    data = tmp_path / "data"
    prepared = jta.prepare(first, data)
    assert not prepared.reused
    stamp = (prepared.folder / "dataset_info.json").stat().st_mtime_ns
    again = jta.prepare(first, data)
    assert again == prepared._replace(reused=True)
    with pytest.raises(FileExistsError, match="with jta_dir=.*first, not .*second; .*--overwrite"):
        jta.prepare(second, data)
    with pytest.raises(FileExistsError, match="with fx=1158.0, not 2316.0, fy="):
        jta.prepare(first, data, camera=cameras.JTA.scaled(2))
    with pytest.raises(jta.AnnotationError):
        jta.prepare(bad, data, overwrite=True)
    assert (prepared.folder / "dataset_info.json").stat().st_mtime_ns == stamp
    assert jta.prepare(second, data, overwrite=True).splits["train"] != prepared.splits["train"]
    check_example(jta.load(data, "train_vha")[1], read_plainly(random_rows(1)).get(20, {}))
    assert names(data) == ["jta"] and names(data / "jta" / "poses") == [annotations.VERSION]


def test_a_failure_while_writing_keeps_what_was_there(tmp_path, monkeypatch):
    folder = write_jta(tmp_path / "jta", {0: random_rows(0)})
    jta.prepare(folder, tmp_path / "data")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(sequences, "load_people", lambda path: (_ for _ in ()).throw(OSError("disk full")))
        jta.prepare(folder, tmp_path / "data", overwrite=True)
    assert names(tmp_path / "data") == ["jta"]
    assert jta.prepare(folder, tmp_path / "data").reused


def test_cameras(tmp_path):
    write_jta(tmp_path, {0: [GOOD_ROW]})
    given, of_file = Camera(1.5, 2.5, 3.5, 4.5), Camera(100.0, 200.0, 50.5, -3.0)
    (tmp_path / "camera.json").write_text(json.dumps(of_file._asdict()))
    assert jta.prepare(tmp_path, tmp_path / "file").camera == of_file
    assert Camera(**jta.load(tmp_path / "file", "test")[5]["camera"]) == of_file
    assert jta.prepare(tmp_path, tmp_path / "given", camera=given).camera == given
    assert Camera(**jta.load(tmp_path / "given", "test")[5]["camera"]) == given
    with pytest.raises(ValueError, match="fy: 0 is not a positive finite number"):
        jta.prepare(tmp_path, tmp_path / "bad", camera=Camera(1, 0, 1, 1))


BAD_CAMERAS = {
    "{": "not JSON",
    "[1, 2, 3, 4]": "must hold exactly fx, fy, cx, cy",
    '{"fx": 1, "fy": 1, "cx": 1}': "must hold exactly fx, fy, cx, cy",
    '{"fx": 1, "fy": "1", "cx": 1, "cy": 1}': 'fy: "1" is not a positive finite number',
    '{"fx": 1, "fy": 1, "cx": true, "cy": 1}': "cx: true is not a finite number",
    '{"fx": -1, "fy": 1, "cx": 1, "cy": 1}': "fx: -1.0 is not a positive finite number",
    '{"fx": 1, "fy": 1, "cx": 1, "cy": NaN}': "cy: NaN is not a finite number",
}


@pytest.mark.parametrize("text", BAD_CAMERAS)
def test_bad_camera_file(tmp_path, text):
    (tmp_path / "camera.json").write_text(text)
    with pytest.raises(jta.AnnotationError) as error:
        jta.read_camera_file(tmp_path)
    assert str(tmp_path / "camera.json") in str(error.value) and BAD_CAMERAS[text] in str(error.value)


def test_load_refuses_what_is_not_there(good, tmp_path):
    _, folder, _ = good
    with pytest.raises(ValueError, match="no split 'val', only train_vha, train, validation, test"):
        jta.load(folder / "data", "val")
    with pytest.raises(FileNotFoundError, match="--data_dir=.*nowhere"):
        jta.load(tmp_path / "nowhere", "test")
    with pytest.raises(ValueError, match="no frame"):
        jta.load(folder / "data", "test[:0]")
    assert [example["frame"] for example in jta.load(folder / "data", "test[:3]")] == [10, 20, 30]


def run(code_or_module: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *code_or_module], capture_output=True, text=True, timeout=120)


def test_command(tmp_path):
    write_jta(tmp_path, {0: [GOOD_ROW], 1: [change(joint_type=22)]})
    command = ["-m", "loco_jax.data.jta", f"--jta_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
    failed = run(command)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("loco_jax: 1 of 4 sequences are bad") and "Traceback" not in failed.stderr
    done = run([*command, "--skip_bad", "--fx=500"])
    assert done.returncode == 0 and done.stderr == ""
    assert "camera: fx 500, fy 1158, cx 960, cy 540" in done.stdout and "Left out 1 bad file" in done.stdout
    assert ["train", "1", "180", "0", "0"] in [line.split() for line in done.stdout.splitlines()]


def test_needs_no_tensorflow(good):
    _, folder, _ = good
    code = f"""
import sys
from loco_jax.data import pipeline
assert "tensorflow_datasets" not in sys.modules
from loco_jax.configs import vha as vha_config
from loco_jax.data import jta, streams
assert len(jta.load({str(folder / "data")!r}, "test")[3]) == 4
assert "tensorflow" not in sys.modules
"""
    done = run(["-c", code])
    assert done.returncode == 0, done.stderr


def test_the_data_says_whose_it_is(tmp_path):
    """A miniature in JTA's format is not called JTA, in tables and elsewhere."""
    config = vha_config.get_config(2, "variant=patch,scale=demo")
    assert datasets.of(config).name == "crowd, demo scale"
    config.data.source = "jta"
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    for name in ("JTA", "miniature of the crowd in JTA's format"):
        config.data.dir = str(tmp_path / f"data of {name}")
        jta.prepare(tmp_path / "jta", config.data.dir)
        assert datasets.of(config).name == name
        (tmp_path / "jta" / "miniature.json").write_text("{}")  # as the miniature leaves it
