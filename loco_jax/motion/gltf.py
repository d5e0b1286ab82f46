"""glTF (.glb): everybody's skeleton and its animation in one file, with simple bodies, written by pygltflib."""

import os
from collections.abc import Sequence

import numpy as np
import pygltflib  # of the extra [files]
from jaxtyping import Float, Int, Shaped, UInt16

from loco_jax.motion import Track, Tracks, chains
from loco_jax.motion.chains import NODES, Motion
from loco_jax.motion.names import WRITER

_THICK = 0.08  # the width of a bone's body, as a share of its length
_TYPES = {"float32": 5126, "uint8": 5121, "uint16": 5123}
_KINDS = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_VERTICES, _INDICES = 34962, 34963  # buffers of the GPU
_MATERIALS = 6
_MOST = 2**32 - 2**28  # bytes of arrays: a file has at most 4 GiB, some of it for its JSON
# An octahedron: its tips are at the bone's ends, and its corners at a fifth of its length.
_CORNERS = np.array([(0, 0, 0), (0.2, 1, 0), (0.2, 0, 1), (0.2, -1, 0), (0.2, 0, -1), (1, 0, 0)])
_FACES = np.array(
    [(0, j, i) for i, j in ((1, 2), (2, 3), (3, 4), (4, 1))] + [(5, i, j) for i, j in ((1, 2), (2, 3), (3, 4), (4, 1))]
)


class _File:
    """A file's JSON, which is `content`, and its arrays."""

    def __init__(self):
        self.content = pygltflib.GLTF2(scene=0, scenes=[pygltflib.Scene(nodes=[])])
        self.content.asset.generator = WRITER
        self.content.animations = [pygltflib.Animation(name="motion")]
        self.content.materials = [_material(hue) for hue in np.arange(_MATERIALS) / _MATERIALS]
        self._bytes = bytearray()

    def add(self, array: Shaped[np.ndarray, "..."], target: int | None = None) -> int:
        """Adds an array, whose parts are aligned to 4 bytes, and returns the index of its accessor."""
        content, data = self.content, array.tobytes()
        if len(self._bytes) + len(data) > _MOST:
            raise ValueError("glTF holds at most 4 GiB; cut the video, or use bvh, trc or csv")
        view = pygltflib.BufferView(buffer=0, byteOffset=len(self._bytes), byteLength=len(data), target=target)
        kind, component = _KINDS[array.shape[1:]], _TYPES[array.dtype.name]
        accessor = pygltflib.Accessor(
            bufferView=len(content.bufferViews), componentType=component, count=len(array), type=kind
        )
        if array.dtype == np.float32:
            flat = array.reshape(len(array), -1)
            accessor.min, accessor.max = flat.min(axis=0).tolist(), flat.max(axis=0).tolist()
        self._bytes += data + bytes(-len(data) % 4)
        content.bufferViews.append(view)
        content.accessors.append(accessor)
        return len(content.accessors) - 1

    def animate(
        self, node: int, what: str, times: int, values: Float[np.ndarray, "T C"], interpolation: str = "LINEAR"
    ) -> None:
        """Moves a node. `what` is translation, rotation or scale, and `times` is the accessor of the values' times."""
        (animation,) = self.content.animations
        target = pygltflib.AnimationChannelTarget(node=node, path=what)
        animation.channels.append(pygltflib.AnimationChannel(sampler=len(animation.samplers), target=target))
        output = self.add(values.astype(np.float32))
        animation.samplers.append(pygltflib.AnimationSampler(input=times, output=output, interpolation=interpolation))

    def write(self, path: os.PathLike | str) -> None:
        self.content.buffers = [pygltflib.Buffer(byteLength=len(self._bytes))]
        self.content.set_binary_blob(self._bytes)
        with open(path, "wb") as file:
            file.writelines(self.content.save_to_bytes())


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes a skeleton for each person, metres with y up, animated at the times of their frames; see `chains.move`.

    A person has size 0 in frames without them. Raises ValueError for more than 4 GiB.
    """
    file = _File()
    for person in tracks.people:
        _add_person(file, person, tracks.times.astype(np.float32))
    file.write(path)


def _add_person(file: _File, person: Track, times: Float[np.ndarray, " A"]) -> None:
    """Adds a person's nodes, body, and animation; `times` are those of all frames."""
    content = file.content
    own = times[person.first : person.first + len(person.joints)]
    motion, first = chains.move(person.joints, own.astype(float)), len(content.nodes)
    for i, node in enumerate(NODES):
        children = [first + j for j, each in enumerate(NODES) if each.parent == i]
        place = motion.offsets[i] if i else motion.places[0]
        content.nodes.append(
            pygltflib.Node(
                name=f"p{person.number}_{node.name}",
                children=children,
                translation=place.tolist(),
                rotation=motion.rotations[0, i].tolist(),
            )
        )
    body = len(content.nodes)
    content.nodes.append(pygltflib.Node(name=f"p{person.number}", mesh=len(content.meshes), skin=len(content.skins)))
    content.scenes[0].nodes += [first, body]
    content.skins.append(_skin(file, motion, first))
    content.meshes.append(_mesh(file, motion, person.number))
    changes, sizes = _presence(person, len(times))
    file.animate(first, "scale", file.add(times[changes]), np.repeat(sizes[:, None], 3, axis=1), "STEP")
    keys = file.add(own)
    file.animate(first, "translation", keys, motion.places)
    for i, node in enumerate(NODES):
        if i == 0 or node.turns >= 0:
            file.animate(first + i, "rotation", keys, _without_flips(motion.rotations[:, i]))


def _presence(person: Track, count: int) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """The first of all frames and those in which a person comes or goes, and the size, 1 or 0, from there on."""
    here = np.isfinite(person.joints).any(axis=(1, 2))
    changes = person.first + np.flatnonzero(np.diff(here, prepend=False, append=False))  # comes, goes, comes, ...
    sizes = 1.0 - np.arange(len(changes)) % 2
    if person.first:
        changes, sizes = np.append(0, changes), np.append(0.0, sizes)
    return changes[changes < count], sizes[changes < count]


def _skin(file: _File, motion: Motion, first: int) -> pygltflib.Skin:
    matrices = np.tile(np.eye(4, dtype=np.float32), (len(NODES), 1, 1))
    matrices[:, 3, :3] = -chains.rest_places(motion.offsets)  # the transpose: glTF stores columns
    inverse = file.add(matrices)
    return pygltflib.Skin(inverseBindMatrices=inverse, skeleton=first, joints=list(range(first, first + len(NODES))))


def _mesh(file: _File, motion: Motion, number: int) -> pygltflib.Mesh:
    """An octahedron for each bone, which moves with the node that turns the bone."""
    places, corners, owners = chains.rest_places(motion.offsets), [], []
    for i, node in enumerate(NODES):
        if node.limb >= 0:
            corners.append(_octahedron(places[node.parent], places[i]))
            owners.append(node.parent)
    positions = np.concatenate(corners).astype(np.float32)
    count = len(_CORNERS)
    joints, weights = np.zeros((len(positions), 4), np.uint8), np.zeros((len(positions), 4), np.float32)
    joints[:, 0], weights[:, 0] = np.repeat(owners, count), 1.0
    attributes = pygltflib.Attributes(
        POSITION=file.add(positions, _VERTICES), JOINTS_0=file.add(joints, _VERTICES),
        WEIGHTS_0=file.add(weights, _VERTICES),
    )  # fmt: skip
    indices = file.add(_faces(len(owners), count), _INDICES)
    primitive = pygltflib.Primitive(attributes=attributes, indices=indices, material=(number - 1) % _MATERIALS)
    return pygltflib.Mesh(name=f"p{number}", primitives=[primitive])


def _octahedron(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6 3"]:
    bone = end - start
    across = np.cross(bone, np.eye(3)[np.abs(bone).argmin()])
    size = max(float(np.linalg.norm(bone)), 1e-6)
    across *= _THICK * size / max(float(np.linalg.norm(across)), 1e-6)
    return start + _CORNERS @ np.stack([bone, across, np.cross(bone, across) / size])


def _faces(bones: int, corners: int) -> UInt16[np.ndarray, " F"]:
    return (_FACES + corners * np.arange(bones)[:, None, None]).ravel().astype(np.uint16)


def _without_flips(rotations: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 4"]:
    """The same rotations, each by the one of its two quaternions that is nearer to that of the frame before."""
    flips = np.where((rotations[1:] * rotations[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    return rotations * np.cumprod(np.append(1.0, flips))[:, None]


def _material(hue: float) -> pygltflib.Material:
    """A matt material; `hue` is from 0 to 1."""
    colour: Sequence[float] = (0.5 + 0.4 * np.cos(2 * np.pi * (hue - np.arange(3) / 3))).tolist()
    surface = pygltflib.PbrMetallicRoughness(baseColorFactor=[*colour, 1.0], metallicFactor=0.0, roughnessFactor=0.8)
    return pygltflib.Material(pbrMetallicRoughness=surface, doubleSided=True, alphaCutoff=None)
