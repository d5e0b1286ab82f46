"""Reads tensors from PyTorch's files. Files are not trusted: nothing in them may run, or fill the memory."""

import itertools
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loco_jax import weights
from loco_jax.weights import WeightsError

# Keys under which training checkpoints keep the state dict. The first one that exists counts.
_STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_LEAST_TORCH = (2, 10)  # in older versions weights_only=True does not keep a file from running code
_LISTED = 8  # names in an error

# More than any network has. A small file can claim to hold more than the memory.
_MOST_NUMBERS = 2**28
_MOST_TENSORS = 10_000
_LONGEST_NAME = 500  # characters


def read(path: os.PathLike | str, kind: str) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as float32, without counters.

    The file holds a state dict, or a training checkpoint with one, perhaps under the key `kind`. Raises WeightsError if
    there is none, or one with tensors that are not finite real numbers; ModuleNotFoundError without a safe PyTorch.
    """
    return _arrays(path, _state_dict(path, kind))


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


class _Ignored:
    """Takes the place of NumPy's scalars, which checkpoints hold as scores, so that no code of NumPy's is called."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any):
        pass


_NUMPY = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModuleNotFoundError("reading PyTorch's files needs PyTorch: pip install 'torch>=2.10'") from error
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < _LEAST_TORCH:
        raise ModuleNotFoundError(
            f"PyTorch {torch.__version__} can be made to run code by the file it reads: pip install -U 'torch>=2.10'"
        )
    return torch


def _state_dict(path: os.PathLike | str, kind: str) -> dict[str, Any]:
    """The tensors of a file by name. Raises WeightsError if there are none, or other objects beside them."""
    torch = _import_torch()
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file of weights")
    _check_archive(path)
    ignored = torch.serialization.safe_globals([(_Ignored, name) for name in _NUMPY])
    try:
        with warnings.catch_warnings(), ignored:
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files can raise anything
        raise WeightsError(f"{path}: {_reason(error)}") from error
    return _find_state_dict(path, data, kind, torch.Tensor)


def _check_archive(path: os.PathLike | str) -> None:
    """Raises WeightsError for an archive that unpacks to more than its size. PyTorch's are not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # no archive, or damaged: PyTorch says so
        return
    if unpacked > os.path.getsize(path):
        raise WeightsError(f"{path}: would unpack to {unpacked:,} bytes; write it again with torch.save, uncompressed")


def _reason(error: Exception) -> str:
    """Why PyTorch did not load a file, in a line. Its own messages advise to load it unsafely."""
    text = str(error)
    culprit = re.search(r"(?:GLOBAL|global|class|function) ['`]?([\w.]*\w\.\w+)", text)
    if "Weights only load failed" in text and culprit:
        return (
            f"is damaged, or holds more than tensors ({culprit[1]}), which could run code and is not loaded; where it "
            "comes from, write the state dict alone: torch.save(model.state_dict(), path)"
        )
    found = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    detail = found[1] if found else text.strip().split("\n")[0].split(". ")[0]
    return f"is damaged, or not a PyTorch file ({type(error).__name__}: {detail[:200].strip()}); get or make it again"


def _find_state_dict(path: os.PathLike | str, data: Any, kind: str, tensor: type) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise WeightsError(f"{path}: holds a {type(data).__name__}, not a state dict: names of tensors and tensors")
    nested = {key: value for key, value in data.items() if _is_state_dict(value, tensor)}
    for key in (kind, *_STATE_KEYS):
        if key in nested:
            return dict(nested[key])
    if len(nested) == 1:
        return dict(next(iter(nested.values())))
    plain = {key: value for key, value in data.items() if isinstance(key, str) and isinstance(value, tensor)}
    if nested or not plain:
        several, keys = (", ".join(map(weights.brief, itertools.islice(x, _LISTED))) for x in (nested, data))
        what = f"several ({several})" if nested else "none"
        raise WeightsError(
            f"{path}: must hold one state dict, alone or under a key such as {_STATE_KEYS[0]!r} or {kind!r}; has "
            f"{what}, and the keys {keys or 'nothing'}"
        )
    return plain


def _is_state_dict(value: Any, tensor: type) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, tensor) for k, v in value.items())
    )


def _arrays(path: os.PathLike | str, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    torch = _import_torch()
    arrays: dict[str, np.ndarray] = {}
    numbers = 0
    if len(state) > _MOST_TENSORS:
        raise WeightsError(f"{path}: holds {len(state):,} tensors; no network here has so many")
    for name, tensor in state.items():
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise WeightsError(f"{path}: holds a tensor named {weights.brief(name)}; no network here has such names")
        if tensor.ndim == 0 or (tensor.numel() == 1 and not tensor.is_floating_point()):
            continue  # a counter or flag: of normalisation, or of an average of models
        if tensor.is_nested or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise WeightsError(
                f"{path}: {name} is a tensor of {tensor.dtype}, {tensor.layout}; save it as plain floats"
            )
        numbers += tensor.numel()  # of which the file may hold one, repeated
        if numbers > _MOST_NUMBERS:
            raise WeightsError(f"{path}: holds more than {_MOST_NUMBERS:,} numbers; no network here has so many")
        try:
            arrays[name] = tensor.detach().to(torch.float32).numpy()
        except (RuntimeError, TypeError, NotImplementedError) as error:  # for example without values
            reason = weights.brief(error)
            raise WeightsError(f"{path}: {name} cannot be read ({reason}); save it as plain floats") from error
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise WeightsError(f"{path}: not finite: {listed(bad)}; the training it comes from went wrong")
    return arrays
