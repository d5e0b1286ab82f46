"""glTF (.glb): everybody's skeleton and its animation in one file, with simple bodies, written by pygltflib."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt16

from loco_jax.motion import Tracks, chains
from loco_jax.motion.chains import NODES, Motion

_THICK = 0.08  # the width of a bone's body, as a share of its length
_FLOAT, _BYTE, _SHORT = 5126, 5121, 5123  # component types
_VERTICES, _INDICES = 34962, 34963  # buffers of the GPU
_MATERIALS = 6
# An octahedron: its tips are at the bone's ends, and its corners at a fifth of its length.
_CORNERS = np.array([(0, 0, 0), (0.2, 1, 0), (0.2, 0, 1), (0.2, -1, 0), (0.2, 0, -1), (1, 0, 0)])
_FACES = np.array(
    [(0, j, i) for i, j in ((1, 2), (2, 3), (3, 4), (4, 1))] + [(5, i, j) for i, j in ((1, 2), (2, 3), (3, 4), (4, 1))]
)


class _Buffer:
    """The binary part of a file, and the accessors of its arrays."""

    def __init__(self, library: Any, content: Any):
        self._library, self._content = library, content
        self.bytes = bytearray()

    def add(self, array: Shaped[np.ndarray, "..."], component: int, kind: str, target: int | None = None) -> int:
        """Adds an array, whose parts are aligned to 4 bytes, and returns the index of its accessor."""
        data, library = array.tobytes(), self._library
        view = library.BufferView(buffer=0, byteOffset=len(self.bytes), byteLength=len(data), target=target)
        flat = array.reshape(len(array), -1)
        bounds = {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()} if component == _FLOAT else {}
        accessor = library.Accessor(
            bufferView=len(self._content.bufferViews), componentType=component, count=len(array), type=kind, **bounds
        )
        self.bytes += data + bytes(-len(data) % 4)
        self._content.bufferViews.append(view)
        self._content.accessors.append(accessor)
        return len(self._content.accessors) - 1


def write(tracks: Tracks, path: os.PathLike | str) -> None:
    """Writes a skeleton for each person, metres with y up, animated at the times of the frames; see `chains.move`.

    A person has size 0 in frames without them.
    """
    import pygltflib  # of the extra [files]

    content = pygltflib.GLTF2(scene=0, scenes=[pygltflib.Scene(nodes=[])])
    content.asset.generator = "loco_jax"
    content.animations = [pygltflib.Animation(name="motion")]
    content.materials = [_material(pygltflib, hue) for hue in np.arange(_MATERIALS) / _MATERIALS]
    buffer = _Buffer(pygltflib, content)
    times = buffer.add(tracks.times.astype(np.float32), _FLOAT, "SCALAR")
    for number, joints in zip(tracks.ids, tracks.joints):
        _add_person(pygltflib, content, buffer, times, number, joints)
    content.buffers = [pygltflib.Buffer(byteLength=len(buffer.bytes))]
    content.set_binary_blob(bytes(buffer.bytes))
    pathlib.Path(path).write_bytes(b"".join(content.save_to_bytes()))


def _add_person(
    library: Any, content: Any, buffer: _Buffer, times: int, number: int, joints: Float[np.ndarray, "T J 3"]
) -> None:
    """Adds a person's nodes, body, and animation; `times` is the accessor of the frames' times."""
    motion, first = chains.move(joints), len(content.nodes)
    for i, node in enumerate(NODES):
        children = [first + j for j, each in enumerate(NODES) if each.parent == i]
        place = motion.offsets[i] if i else motion.places[0]
        content.nodes.append(
            library.Node(
                name=f"p{number}_{node.name}",
                children=children,
                translation=place.tolist(),
                rotation=motion.rotations[0, i].tolist(),
            )
        )
    body = len(content.nodes)
    content.nodes.append(library.Node(name=f"p{number}", mesh=len(content.meshes), skin=len(content.skins)))
    content.scenes[0].nodes += [first, body]
    content.skins.append(_skin(library, buffer, motion, first))
    content.meshes.append(_mesh(library, buffer, motion, number))
    here = np.isfinite(joints).any(axis=(1, 2))
    sizes = np.repeat(here.astype(np.float32)[:, None], 3, axis=1)
    _animate(library, content, buffer, times, first, "scale", sizes, "STEP")
    _animate(library, content, buffer, times, first, "translation", motion.places)
    for i in range(len(NODES)):
        _animate(library, content, buffer, times, first + i, "rotation", _without_flips(motion.rotations[:, i]))


def _animate(
    library: Any,
    content: Any,
    buffer: _Buffer,
    times: int,
    node: int,
    what: str,
    values: Float[np.ndarray, "T C"],
    interpolation: str = "LINEAR",
) -> None:
    animation = content.animations[0]
    output = buffer.add(values.astype(np.float32), _FLOAT, "VEC4" if what == "rotation" else "VEC3")
    target = library.AnimationChannelTarget(node=node, path=what)
    animation.channels.append(library.AnimationChannel(sampler=len(animation.samplers), target=target))
    animation.samplers.append(library.AnimationSampler(input=times, output=output, interpolation=interpolation))


def _skin(library: Any, buffer: _Buffer, motion: Motion, first: int) -> Any:
    matrices = np.tile(np.eye(4, dtype=np.float32), (len(NODES), 1, 1))
    matrices[:, 3, :3] = -chains.rest_places(motion.offsets)  # the transpose: glTF stores columns
    inverse = buffer.add(matrices, _FLOAT, "MAT4")
    return library.Skin(inverseBindMatrices=inverse, skeleton=first, joints=list(range(first, first + len(NODES))))


def _mesh(library: Any, buffer: _Buffer, motion: Motion, number: int) -> Any:
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
    attributes = library.Attributes(
        POSITION=buffer.add(positions, _FLOAT, "VEC3", _VERTICES),
        JOINTS_0=buffer.add(joints, _BYTE, "VEC4", _VERTICES),
        WEIGHTS_0=buffer.add(weights, _FLOAT, "VEC4", _VERTICES),
    )
    indices = buffer.add(_faces(len(owners), count), _SHORT, "SCALAR", _INDICES)
    primitive = library.Primitive(attributes=attributes, indices=indices, material=(number - 1) % _MATERIALS)
    return library.Mesh(name=f"p{number}", primitives=[primitive])


def _octahedron(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6 3"]:
    bone = end - start
    across = np.cross(bone, np.eye(3)[np.abs(bone).argmin()])
    size = max(float(np.linalg.norm(bone)), 1e-6)
    across *= _THICK * size / max(float(np.linalg.norm(across)), 1e-6)
    return start + _CORNERS @ np.stack([bone, across, np.cross(bone, across) / size])


def _faces(bones: int, corners: int) -> UInt16[np.ndarray, " F"]:
    return (_FACES + corners * np.arange(bones)[:, None, None]).ravel().astype(np.uint16)


def _without_flips(rotations: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 4"]:
    """The same rotations; of the two quaternions of each, the one nearer to that of the frame before."""
    flips = np.where((rotations[1:] * rotations[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    return rotations * np.cumprod(np.append(1.0, flips))[:, None]


def _material(library: Any, hue: float) -> Any:
    """A matt material; `hue` is from 0 to 1."""
    colour: Sequence[float] = (0.5 + 0.4 * np.cos(2 * np.pi * (hue - np.arange(3) / 3))).tolist()
    surface = library.PbrMetallicRoughness(baseColorFactor=[*colour, 1.0], metallicFactor=0.0, roughnessFactor=0.8)
    return library.Material(pbrMetallicRoughness=surface, doubleSided=True, alphaCutoff=None)
