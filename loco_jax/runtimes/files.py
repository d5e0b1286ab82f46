"""Graphs as files: ONNX by jax2onnx, and StableHLO by `jax.export`. What a user has to know is in or beside them."""

import contextlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import numpy as np
from etils import epath

from loco_jax.runs import files
from loco_jax.runtimes import lowering
from loco_jax.runtimes.graph import INPUTS, OUTPUTS, Graph

FORMATS = ("onnx", "stablehlo")
PLATFORMS = ("cpu", "cuda", "tpu")  # that a file of StableHLO is for
_OPSET = 21
_LEAST_HALVED = 64  # numbers of a constant that is stored in half precision


def write(path: os.PathLike | str, graph: Graph, format: str, batch: int | str = 1) -> None:
    """Writes a graph in one of FORMATS for batches of `batch` pictures, a number or `graph.ANY`.

    Beside a file of StableHLO lies FILE.json with `graph.about()`. In ONNX this is the model's metadata. Raises
    ModuleNotFoundError, naming the extra, if a library is missing.
    """
    where = epath.Path(path).expanduser()
    if format == "onnx":
        files.write_bytes(where, to_onnx(graph, batch).SerializeToString())
        return
    files.write_bytes(where, to_stablehlo(graph, batch))
    files.write_text(where.parent / f"{where.name}.json", json.dumps(_facts(graph, batch), indent=1) + "\n")


def to_onnx(graph: Graph, batch: int | str = 1) -> Any:
    """The graph as an `onnx.ModelProto`. Raises ModuleNotFoundError, naming the extra, if a library is missing."""
    with _quietly():
        jax2onnx, onnx = need("jax2onnx"), need("onnx")
        inputs = graph.inputs(batch)
        whole = Graph(graph.task, graph.params, graph.camera, graph.description)
        function = lowering.rewrite(whole.find, inputs)
        model = jax2onnx.to_onnx(
            function, inputs, model_name="loco_jax", opset=_OPSET, input_names=INPUTS, output_names=OUTPUTS
        )
    if graph.half:
        _halve(model, onnx)
    onnx.helper.set_model_props(model, graph.about() | {"batch": json.dumps(batch)})
    onnx.checker.check_model(model)
    return model


def to_stablehlo(graph: Graph, batch: int | str = 1) -> bytes:
    """The graph as `jax.export.deserialize` reads it."""
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


def _halve(model: Any, onnx: Any) -> None:
    """Stores large constants in half precision, before a cast to float32, unless a number is too large for it."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST_HALVED:
            continue
        value = onnx.numpy_helper.to_array(tensor)
        if np.abs(value).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_whole", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without jax2onnx's reports of parts of its own that do not fit this JAX, and that are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
