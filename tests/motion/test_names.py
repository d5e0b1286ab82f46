"""Which files are ours, and which names they have."""

import importlib.util
import json
import struct

import pytest

from loco_jax import motion
from loco_jax.motion import names
from tests.support.walking import frames_of, standing

BLENDER_BVH = "HIERARCHY\nROOT neck\n{\n\tOFFSET 0.000000 0.000000 0.000000\n\tCHANNELS 6 Xposition Yposition"


def glb(generator):
    content = json.dumps({"asset": {"version": "2.0", "generator": generator}}, separators=(",", ":")).encode()
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(content), len(content), b"JSON") + content


def test_what_is_written_is_ours(tmp_path):
    formats = [name for name in motion.FORMATS if name != "gltf" or importlib.util.find_spec("pygltflib")]
    for count in (1, 4):
        people = {i: standing(2, at=(i / 10, 9)) for i in range(1, count + 1)}
        written = motion.write(frames_of(people), tmp_path / f"v{count}", formats).written
        assert len(written) == len(formats) - 1 + count
        assert all(names.is_ours(str(path)) for path in written)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".csv", b"frame,time,joint\n0,0,neck\n"),
        (".trc", b"PathFileType\t4\t(X/Y/Z)\twalk.trc\n"),
        (".bvh", BLENDER_BVH.encode()),
        (".glb", glb("Khronos glTF Blender I/O v4")),
        (".glb", b"glTF"),
        (".c3d", b"\x02\x50" + bytes(2000) + b"loco_jax"),
        (".csv", b""),
    ],
)
def test_what_others_wrote_is_not_ours(tmp_path, ending, content):
    (tmp_path / f"v{ending}").write_bytes(content)
    assert not names.is_ours(str(tmp_path / f"v{ending}"))


def test_a_mark_behind_the_names_of_many_points(tmp_path):
    """ezc3d writes what wrote the file behind the names, here after 128 KiB."""
    pytest.importorskip("ezc3d")
    people = {i: standing(1, at=(i / 10, 9)) for i in range(1, 451)}
    (path,) = motion.write(frames_of(people), tmp_path / "v", ["c3d"]).written
    assert path.read_bytes().find(b"loco_jax.c3d") > 2**17 and names.is_ours(str(path))


def test_gltf_of_ours(tmp_path):
    (tmp_path / "v.glb").write_bytes(glb(names.WRITER))
    assert names.is_ours(str(tmp_path / "v.glb"))


def test_earlier_files_by_their_names(tmp_path, monkeypatch):
    for name in ("v.csv", "v.trc", "v_p1.bvh", "v_p12.bvh", "v_p1_p2.bvh", "v_p.bvh", "v_p1.csv", "w.csv", "w.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert names.earlier("", ["csv", "bvh"]) == {
        "v": ["v.csv", "v_p1.bvh", "v_p12.bvh"], "v_p1": ["v_p1.csv", "v_p1_p2.bvh"], "w": ["w.csv"]
    }  # fmt: skip
    assert names.earlier(tmp_path, ["trc"]) == {str(tmp_path / "v"): [str(tmp_path / "v.trc")]}
    assert names.earlier(tmp_path, []) == {} == names.earlier(tmp_path / "nowhere", ["csv"])
