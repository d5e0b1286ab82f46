"""glTF, read by a reader that follows the specification (a header, JSON, and arrays), and by trimesh."""

import json
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loco_jax import motion
from loco_jax.geometry import skeleton
from tests.support.upright import STANDING
from tests.support.walking import RATE, frames_of, in_world, standing, walker

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


def at(sampler, array, time):
    """The value of a sampler at a time, which is a key if it is linear."""
    keys, values = array(sampler["input"])[:, 0], array(sampler["output"])
    assert len(keys) == len(values) and (np.diff(keys) > 0).all() and keys[0] >= 0
    if sampler["interpolation"] == "STEP":
        return values[max(0, np.searchsorted(keys, time, side="right") - 1)]
    assert sampler["interpolation"] == "LINEAR" and (time in keys or not keys[0] < time < keys[-1])
    return values[np.abs(keys - time).argmin()]  # before and after the keys it is that of the first or the last


def matrices(content, array, time):
    """The matrices of all nodes in the world at a frame's time."""
    local = [{"translation": [0, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1], **n} for n in content["nodes"]]
    animation = content["animations"][0]
    for channel in animation["channels"]:
        value = at(animation["samplers"][channel["sampler"]], array, np.float32(time))
        local[channel["target"]["node"]][channel["target"]["path"]] = value
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
    """The path of a file, and joints `[N, T, 14, 3]`. The second person comes late, is away once, and leaves early."""
    people = {2: walker(12), 5: walker(12, at=(2, 9), turn=-3.0)}
    people[5][[0, 1, 2, 6, 11]] = np.nan
    path = tmp_path_factory.mktemp("gltf") / "v"
    assert motion.write(frames_of(people), path, ["gltf"]).written == [path.with_name("v.glb")]
    return path.with_name("v.glb"), in_world(people)


def test_joints_are_where_people_are_at_the_times_of_the_frames(crowd):
    path, joints = crowd
    content, array = read(path)
    names = [node["name"] for node in content["nodes"]]
    for t in range(12):
        places = matrices(content, array, t / RATE)[:, :3, 3]
        for row, number in enumerate((2, 5)):
            found = np.stack([places[names.index(f"p{number}_{name}")] for name in skeleton.JOINTS])
            if np.isnan(joints[row, t]).all():
                assert np.ptp(found, axis=0).max() < 1e-6  # of size 0
            else:
                np.testing.assert_allclose(found, joints[row, t], atol=1e-3)
    assert np.isnan(joints).all(axis=(2, 3)).sum() == 5


def test_times_are_those_of_the_frames_from_the_first(tmp_path):
    times = [5.0, 5.04, 5.12, 5.15]
    motion.write([f._replace(time=t) for f, t in zip(frames_of({1: standing(4)}), times)], tmp_path / "v", ["gltf"])
    content, array = read(tmp_path / "v.glb")
    keys = [array(sampler["input"])[:, 0] for sampler in content["animations"][0]["samplers"]]
    assert sum(len(some) == 4 for some in keys) == len(keys) - 1  # all but the size's
    for some in keys:
        np.testing.assert_allclose(some, np.subtract(times, 5)[: len(some)], atol=1e-6)


def test_files_grow_with_the_frames_that_people_are_in(tmp_path):
    """In a long video of a street, each person is in few of the frames."""
    sizes = []
    for count in (40, 400):
        frames = frames_of(
            {i: np.where(np.arange(count)[:, None, None] // 10 == i, standing(count), np.nan) for i in range(4)}
        )
        motion.write(frames, tmp_path / "v", ["gltf"])
        sizes.append((tmp_path / "v.glb").stat().st_size)
    assert sizes[1] < 1.01 * sizes[0]


def test_more_than_4_gib_are_refused(tmp_path, monkeypatch):
    from loco_jax.motion import gltf

    monkeypatch.setattr(gltf, "_MOST", 20_000)
    with pytest.raises(ValueError, match="^glTF holds at most 4 GiB; cut the video, or use bvh, trc or csv$"):
        motion.write(frames_of({1: standing(90)}), tmp_path / "v", ["gltf"])
    assert not list(tmp_path.iterdir())


def test_trimesh_finds_people_and_their_joints(crowd):
    trimesh = pytest.importorskip("trimesh")
    path, joints = crowd
    scene = trimesh.load_scene(str(path))
    assert len(scene.geometry) == 2 and all(len(mesh.faces) == 13 * 8 for mesh in scene.geometry.values())
    # It has no animations: nodes are as in the first frame with the person.
    for row, (number, t) in enumerate({2: 0, 5: 3}.items()):
        for name, place in zip(skeleton.JOINTS, joints[row, t]):
            np.testing.assert_allclose(scene.graph.get(f"p{number}_{name}")[0][:3, 3], place, atol=1e-3)


def test_bodies_follow_their_bones(crowd):
    """The tips of each octahedron are at the ends of its limb."""
    path, joints = crowd
    content, array = read(path)
    world = matrices(content, array, 7 / RATE)
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
    places = {node["name"]: x for node, x in zip(content["nodes"], matrices(content, array, 0.0)[:, :3, 3])}
    assert places["p1_left_ankle"][1] == pytest.approx(0.08, abs=0.03)
    assert places["p1_head_top"][1] == pytest.approx(STANDING["head_top"][1], abs=0.03)
