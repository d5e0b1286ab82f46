"""Graphs as files: ONNX by jax2onnx, and StableHLO by `jax.export`, with a description in or beside them."""

import importlib
import json
import logging
import os
from typing import Any

import jax
import jax.export
import numpy as np
from etils import epath

from loco_jax.cli import silence
from loco_jax.runs import files
from loco_jax.runtimes import lowering
from loco_jax.runtimes.graph import INPUTS, OUTPUTS, Graph, halved

FORMATS = ("onnx", "stablehlo")
PLATFORMS = ("cpu", "cuda", "tpu")  # that a file of StableHLO is for
_OPSET = 21
_LEAST_SHRUNK = 64  # numbers of a constant


def write(path: os.PathLike | str, graph: Graph, format: str, batch: int | str = 1) -> None:
    """Writes a graph in one of FORMATS for batches of `batch` pictures, a number or `graph.ANY`.

    For StableHLO, FILE.about.json beside the file has `graph.about()`. In ONNX this is the model's metadata. Raises
    ModuleNotFoundError, naming the extra, if a library is missing, and ValueError as `check` does.
    """
    check(path, format)
    where = epath.Path(path).expanduser()
    if format == "onnx":
        files.write_bytes(where, to_onnx(graph, batch).SerializeToString())
        return
    files.write_bytes(where, to_stablehlo(graph, batch))
    files.write_bytes(_beside(path), (json.dumps(_facts(graph, batch), indent=1) + "\n").encode())


def check(path: os.PathLike | str, format: str) -> None:
    """Raises ValueError if `write` would replace a FILE.about.json of others. To be called before long work."""
    about = _beside(path)
    if format != "stablehlo" or not about.exists():
        return
    try:
        ours = {"image_size", "camera", "joints"} <= set(json.loads(about.read_bytes()))
    except (ValueError, TypeError, OSError):
        ours = False
    if not ours:
        raise ValueError(f"{about}: is not a file that export wrote; move it, or name another --output")


def _beside(path: os.PathLike | str) -> epath.Path:
    where = epath.Path(path).expanduser()
    return where.parent / f"{where.name}.about.json"


def to_onnx(graph: Graph, batch: int | str = 1) -> Any:
    """The graph as an `onnx.ModelProto`. Raises ModuleNotFoundError, naming the extra, if a library is missing."""
    # jax2onnx reports parts of its own that do not fit this JAX, and that are not used here.
    with jax.enable_x64(False), silence.quiet(logging.WARNING):
        jax2onnx, onnx = need("jax2onnx"), need("onnx")
        inputs = graph.inputs(batch)
        function = lowering.rewrite(graph.rounded().find, inputs)
        model = jax2onnx.to_onnx(
            function, inputs, model_name="loco_jax", opset=_OPSET, input_names=INPUTS, output_names=OUTPUTS
        )
    _shrink(model, onnx, graph.half)
    onnx.helper.set_model_props(model, graph.about() | {"batch": json.dumps(batch)})
    onnx.checker.check_model(model)
    return model


def to_stablehlo(graph: Graph, batch: int | str = 1) -> bytes:
    """The graph as `jax.export.deserialize` reads it."""
    with jax.enable_x64(False):
        exported = jax.export.export(jax.jit(graph.find), platforms=PLATFORMS)(*graph.inputs(batch))
        return bytes(exported.serialize())


def need(name: str) -> Any:
    """A module of the extra `onnx`. Raises ModuleNotFoundError, in a line that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(f"ONNX needs {name}: pip install 'loco-jax[onnx]'") from error


def _facts(graph: Graph, batch: int | str) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in graph.about().items()} | {"batch": batch}


def _shrink(model: Any, onnx: Any, half: bool) -> None:
    """Makes the file small: large constants of one value are filled at run time; `half` stores rounded ones in half."""
    _prune(model.graph, _used(model.graph))
    del model.graph.value_info[:]  # some of jax2onnx's shapes of intermediate results are wrong
    constants, nodes = list(model.graph.initializer), list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    for constant in constants:
        name, value = constant.name, onnx.numpy_helper.to_array(constant)
        if constant.data_type == onnx.TensorProto.FLOAT and value.size >= _LEAST_SHRUNK:
            if (value == value.flat[0]).all():
                constant = onnx.numpy_helper.from_array(np.array(value.shape, np.int64), f"{name}_shape")
                fill = onnx.numpy_helper.from_array(value.reshape(-1)[:1])
                model.graph.node.append(onnx.helper.make_node("ConstantOfShape", [constant.name], [name], value=fill))
            elif half and (halved(value) == value).all():
                constant = onnx.numpy_helper.from_array(halved(value), f"{name}_half")
                cast = onnx.helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT)
                model.graph.node.append(cast)
        model.graph.initializer.append(constant)
    model.graph.node.extend(nodes)


def _used(graph: Any) -> set[str]:
    """The names that a graph and the graphs of its loops read."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for inner in _inner(node):
            names |= _used(inner)
    return names


def _prune(graph: Any, used: set[str]) -> None:
    """Removes constants that nothing reads, about which ONNX Runtime would warn."""
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for inner in _inner(node):
            _prune(inner, used)


def _inner(node: Any) -> list[Any]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]
