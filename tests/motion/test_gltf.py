"""glTF, read by a reader that follows the specification: a header, JSON, and arrays."""

import json
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loco_jax import motion
from loco_jax.geometry import skeleton
from tests.support.walking import RATE, frames_of, standing, walker

pygltflib = pytest.importorskip("pygltflib")
TYPES = {5126: np.float32, 5121: np.uint8, 5123: np.uint16}
SIZES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def read(path):
    """The JSON, and a function from an accessor's number to its array."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    content = json.loads(data[20 : 20 + size])
    assert data[24 + size : 28 + size] == b"BIN\0"
    binary = data[28 + size :]
    assert content["buffers"][0]["byteLength"] <= len(binary) == struct.unpack("<I", data[20 + size : 24 + size])[0]

    def array(number):
        accessor = content["accessors"][number]
        view = content["bufferViews"][accessor["bufferView"]]
        kind, parts = np.dtype(TYPES[accessor["componentType"]]), SIZES[accessor["type"]]
        assert view.get("byteOffset", 0) % 4 == 0 and view["byteLength"] == accessor["count"] * parts * kind.itemsize
        found = np.frombuffer(binary, kind, accessor["count"] * parts, view.get("byteOffset", 0)).reshape(-1, parts)
        if "min" in accessor:
            assert found.min(axis=0).tolist() == accessor["min"] and found.max(axis=0).tolist() == accessor["max"]
        return found

    return content, array


def matrices(content, array, t):
    """The matrices of all nodes in the world at a frame."""
    local = [{"translation": [0, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1], **n} for n in content["nodes"]]
    animation = content["animations"][0]
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        local[channel["target"]["node"]][channel["target"]["path"]] = array(sampler["output"])[t]
    world = [np.eye(4) for _ in local]

    def visit(number, above):
        node, own = local[number], np.eye(4)
        own[:3, :3] = Rotation.from_quat(node["rotation"]).as_matrix() * np.asarray(node["scale"])
        own[:3, 3] = node["translation"]
        world[number] = above @ own
        for child in node.get("children", []):
            visit(child, world[number])

    for number in content["scenes"][0]["nodes"]:
        visit(number, np.eye(4))
    return np.array(world)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    people = {2: walker(12), 5: walker(12, at=(2, 9), turn=-3.0)}
    people[5][:3] = np.nan
    path = tmp_path_factory.mktemp("gltf") / "v"
    frames = frames_of(people)
    assert motion.write(frames, path, ["gltf"]) == [path.with_name("v.glb")]
    return path.with_name("v.glb"), motion.tracks_of(frames, RATE).joints


def test_joints_are_where_people_are_at_the_times_of_the_frames(crowd):
    path, joints = crowd
    content, array = read(path)
    names = [node["name"] for node in content["nodes"]]
    for sampler in content["animations"][0]["samplers"]:
        np.testing.assert_allclose(array(sampler["input"])[:, 0], np.arange(12) / RATE, rtol=1e-5)
    for t in range(12):
        places = matrices(content, array, t)[:, :3, 3]
        for row, number in enumerate((2, 5)):
            found = np.stack([places[names.index(f"p{number}_{name}")] for name in skeleton.JOINTS])
            if number == 5 and t < 3:
                assert np.ptp(found, axis=0).max() < 1e-6  # of size 0
            else:
                np.testing.assert_allclose(found, joints[row, t], atol=1e-3)


def test_bodies_follow_their_bones(crowd):
    """The tips of each octahedron are at the ends of its limb."""
    path, joints = crowd
    content, array = read(path)
    world = matrices(content, array, 7)
    assert len(content["meshes"]) == len(content["skins"]) == 2
    for row, (mesh, skin) in enumerate(zip(content["meshes"], content["skins"])):
        (primitive,) = mesh["primitives"]
        attributes = {name: array(number) for name, number in primitive["attributes"].items()}
        bind = array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        skinning = world[skin["joints"]] @ bind
        points = np.concatenate([attributes["POSITION"], np.ones((len(attributes["POSITION"]), 1))], axis=1)
        weighted = np.einsum("vk,vkij,vj->vi", attributes["WEIGHTS_0"], skinning[attributes["JOINTS_0"]], points)
        tips = weighted[:, :3].reshape(13, 6, 3)[:, [0, 5]]
        limbs = joints[row, 7][np.array(skeleton.LIMBS)]
        for limb in limbs:
            away = np.minimum(*(np.abs(tips - ends).max(axis=(1, 2)) for ends in (limb, limb[::-1])))
            assert away.min() < 1e-3
        faces = array(primitive["indices"])[:, 0].reshape(-1, 3)
        assert len(faces) == 13 * 8 and faces.max() == len(points) - 1
        # Faces look outward, so the volume is positive.
        a, b, c = attributes["POSITION"][faces].swapaxes(0, 1)
        assert (a * np.cross(b, c)).sum() > 0


def test_pygltflib_and_quaternions(crowd):
    path, _ = crowd
    file = pygltflib.GLTF2().load(str(path))
    assert file.asset.version == "2.0" and len(file.skins) == 2
    content, array = read(path)
    for channel in content["animations"][0]["channels"]:
        if channel["target"]["path"] == "rotation":
            turns = array(content["animations"][0]["samplers"][channel["sampler"]]["output"])
            np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-6)
            assert ((turns[1:] * turns[:-1]).sum(axis=1) > 0.7).all()


def test_a_picture_of_people_on_the_ground(tmp_path):
    motion.write(frames_of({1: standing(1)}), tmp_path / "p", ["gltf"])
    content, array = read(tmp_path / "p.glb")
    places = {node["name"]: x for node, x in zip(content["nodes"], matrices(content, array, 0)[:, :3, 3])}
    assert places["p1_left_ankle"][1] == pytest.approx(0.08, abs=0.03)
    assert places["p1_head_top"][1] == pytest.approx(1.68, abs=0.03)
