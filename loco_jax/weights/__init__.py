"""Files of weights: safetensors, which cannot run code, with a description `about` of the weights in the header.

Its `kind` is vha, refiner, trunk, code_predictor, inception, or loco, which holds a whole system. Files of a run, and
all those of a loco, also hold the `config`.
"""

import contextlib
import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from loco_jax.cli import disk
from loco_jax.runs import checkpoints, files
from loco_jax.runs import config as configs

RELEASED = "released"  # the weights that come with the package; "released-NAME" are further ones
_FOLDER = epath.Path(__file__).parent / "pretrained"
_ABOUT = "loco_jax"  # where `about` lies in the file's header
_DEEPEST = 32  # parts of a tensor's name

# The range of numbers in a config that comes with weights. Weights come from anybody, and must not fill the memory.
_INTEGERS = {
    "model.level": (1, 3),
    "model.width": (1, 4096),
    "model.blocks": (1, 64),
    "predictor.width": (1, 4096),
    "predictor.blocks": (1, 64),
    "predictor.coarsest": (32, 128),
    "volume.image_size": (1, 8192),
    "volume.stride": (1, 64),
    "volume.depth_bins": (2, 4096),
    "max_peaks": (1, 4096),
}
_MOST_VOXELS = 2**27  # of a joint's heatmap; the paper's have 2^23, or 2^25 in bins of 10 cm

# Fields that name files, and their values in a file of weights, which itself holds the content of those files.
_FILES = {
    "vha": RELEASED, "refiner": "", "init": "", "data.dir": "", "predictor.trunk_weights": "", "spoil.predictor": "",
}  # fmt: skip


class WeightsError(ValueError):
    """A file of weights is missing, damaged, or not for this network."""


class NobodyFound(WeightsError):
    """A network with these weights finds nobody in training scenes."""


def save(path: os.PathLike | str, params: Any, about: Mapping[str, Any], dtype: Any = None) -> None:
    """Writes a file of weights, or nothing if it fails.

    Args:
      path: of the file; its folder is made.
      params: nested dicts of arrays.
      about: a description that JSON can hold.
      dtype: type of the stored floats, for example float16 to halve the file; None keeps theirs. An array with a number
        that is too large for it keeps its type.
    """
    flat = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    tensors = {name: np.ascontiguousarray(cast(value, dtype)) for name, value in flat.items()}
    content = safetensors.numpy.save(tensors, metadata={_ABOUT: json.dumps(dict(about))})
    files.write_bytes(epath.Path(path).expanduser(), content)


def check_output(path: os.PathLike | str) -> None:
    """Raises WeightsError if `save` cannot write there. Makes the folder. To be called before long work."""
    file = epath.Path(path).expanduser()
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        if "://" not in os.fspath(file):
            disk.check_writable(file.parent)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be written ({error.strerror}); name another file") from error


def portable(config: ConfigDict) -> dict[str, Any]:
    """A config as JSON for a file of weights, without names of files of this machine."""
    plain = json.loads(config.to_json_best_effort())
    for field, value in _FILES.items():
        section, name = configs.section_of(plain, field)
        if name in section:
            section[name] = value
    return plain


def load(path: os.PathLike | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters (nested dicts of NumPy arrays, floats as float32) and `about` of a file that `save` wrote.

    Raises WeightsError if there is no such file, or if `save` did not write it.
    """
    where = epath.Path(path).expanduser()
    if os.path.exists(where) and not os.path.isfile(where):  # a pipe would be waited for
        raise WeightsError(f"{where}: is not a file of weights")
    try:
        with _on_disk(where) as local, safetensors.safe_open(local, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "null"))
            tensors = {name: cast(file.get_tensor(name), np.float32) for name in file.keys()}
    except FileNotFoundError as error:
        raise WeightsError(f"{where}: no such file of weights") from error
    # AttributeError: for types that NumPy does not have.
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        reason = f"cannot be read as weights ({brief(error)}); get or make the file again"
        if where.suffix in (".pth", ".pt", ".tar"):
            command = f"python -m loco_jax.torch_weights {where.name} --kind=… --output=FILE.safetensors"
            reason = f"is a PyTorch file; convert it first: {command}"
        raise WeightsError(f"{where}: {reason}") from error
    if not isinstance(about, dict):
        raise WeightsError(
            f"{where}: is a safetensors file that loco_jax did not write; convert files of PyTorch with "
            "python -m loco_jax.torch_weights"
        )
    _check_names(where, tensors)
    return traverse_util.unflatten_dict(tensors, sep="/"), about


@contextlib.contextmanager
def _on_disk(path: epath.Path) -> Iterator[str]:
    """The name of a file on this machine's disk: the file itself, or a copy of one in a bucket."""
    if "://" not in os.fspath(path):
        yield os.fspath(path)
        return
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
        copy.write(path.read_bytes())
        copy.flush()
        yield copy.name


def brief(text: Any, longest: int = 100) -> str:
    """The beginning of a text from a file, as a line that can be printed."""
    text = str(text)
    shown = "".join(c if c.isprintable() else "?" for c in text[:longest])
    return shown + "…" * (len(text) > longest)


def _check_names(path: epath.Path, tensors: Mapping[str, Any]) -> None:
    for name in tensors:
        parts = name.split("/")
        if len(parts) > _DEEPEST:
            raise WeightsError(f"{path}: the name {brief(name)} has {len(parts)} parts; no network here has such names")
        for i in range(1, len(parts)):
            if "/".join(parts[:i]) in tensors:
                raise WeightsError(
                    f"{path}: the names {brief('/'.join(parts[:i]))} and {brief(name)} exclude each other"
                )


def read(kind: str, source: str, like: Any, missing: bool = False) -> Any:
    """The parameters of one network or of a whole loco, shaped as `like`, from a run's folder, a file, or "released".

    An autoencoder is also taken from a loco's run or file, a refiner from its file. With `missing`, whole modules may
    be missing, and are then missing in the result.

    Raises WeightsError if there are none or if they do not fit, CheckpointError if a run has no checkpoint that can be
    read.
    """
    if not source:
        raise WeightsError(f"no weights given for the {kind}: a run's folder or a file of weights is needed")
    path = path_of(source)
    if not path.is_dir():
        params, about = load(path)
        if about.get("kind") == "loco" and kind in params:
            params = params[kind]
        elif about.get("kind") == kind == "loco":
            params = {name: params.get(name, {}) for name in like}  # without the refiner, which its run does not train
        elif (about.get("kind"), kind) == ("loco", "refiner"):
            raise WeightsError(f"{path}: holds no refiner, because its run used none; give released-refiner")
        elif about.get("kind") != kind:
            raise WeightsError(f"{path}: holds weights of kind {brief(repr(about.get('kind')))}, not {kind}")
    else:
        config = run_config(path)
        task = config.get("task")
        if task not in (kind, "loco"):
            raise WeightsError(f"{path}: holds a run of the task {brief(task)}, not {kind}")
        params = read_run(path, config, like if task == kind else {kind: like}, missing)
        params = params if task == kind else params[kind]
    check_fit(params, _there(like, params) if missing else like, os.fspath(path))
    return params


def path_of(source: str) -> epath.Path:
    """The path of weights. "released" and "released-NAME" are files that come with the package."""
    if source != RELEASED and not re.fullmatch(f"{RELEASED}-[a-z0-9-]+", source):
        return epath.Path(source).expanduser()
    path = _FOLDER / f"{source}.safetensors"
    if not path.exists():
        there = sorted(file.stem for file in _FOLDER.glob(f"{RELEASED}*.safetensors")) if _FOLDER.exists() else []
        remedy = f"there are {', '.join(there)}" if RELEASED in there else "install loco_jax again"
        raise WeightsError(f"{path}: there are no such released weights; {remedy}")
    return path


def config_of(source: str) -> ConfigDict | None:
    """The config that a run's folder or a file of weights was trained with; None if the file does not say."""
    path = path_of(source)
    if path.is_dir():
        return run_config(path)
    config = load(path)[1].get("config")
    return None if config is None else as_config(path, config)


def as_config(whose: Any, content: Any) -> ConfigDict:
    """The config in the JSON that came with weights. Raises WeightsError if it is none, or has sizes out of range."""
    if not isinstance(content, dict):
        raise WeightsError(f"{whose}: its config is of type {type(content).__name__}; get or make the weights again")

    def look_up(field: str) -> Any:
        section, name = configs.section_of(content, field)
        return section.get(name, ...)  # which JSON does not have

    for field, (least, most) in _INTEGERS.items():
        value = look_up(field)
        two = field == "volume.image_size"
        numbers = value if two and isinstance(value, list) and len(value) == 2 else [None if two else value]
        if value is not ... and not all(type(n) is int and least <= n <= most for n in numbers):
            wanted = f"{'two integers' if two else 'an integer'} from {least} to {most}"
            raise WeightsError(f"{whose}: its config has {field}={brief(value)}, which must be {wanted}")
    size, stride, bins = (look_up(f"volume.{name}") for name in ("image_size", "stride", "depth_bins"))
    if ... not in (size, stride, bins) and math.prod(size) * bins > _MOST_VOXELS * stride**2:
        raise WeightsError(f"{whose}: its config has a volume of more than {_MOST_VOXELS:,} voxels")
    if type(content.get("subvoxel", False)) is not bool:
        raise WeightsError(
            f"{whose}: its config has subvoxel={brief(content['subvoxel'])}, which must be true or false"
        )
    try:
        return ConfigDict(configs.completed(content))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{whose}: its config cannot be read ({brief(error)})") from error


def run_config(folder: os.PathLike | str) -> ConfigDict:
    """The config of a run's folder. Raises WeightsError as `as_config` does, or if there is none."""
    try:
        content = configs.read(folder)
    except (OSError, checkpoints.CheckpointError) as error:
        raise WeightsError(f"{folder}: not the folder of a run ({error})") from error
    return as_config(folder, content)


def read_run(folder: os.PathLike | str, config: ConfigDict, like: Any, missing: bool = False) -> Any:
    """The parameters in `like`, all or some, of a run's newest checkpoint; their moving average if it has one.

    With `missing`, without the modules that it lacks. Raises WeightsError if they are of another network,
    CheckpointError if there is no checkpoint that can be read.
    """
    averaged = bool(config.ema)
    with checkpoints.Checkpoints(os.fspath(folder), read_only=True) as saved:
        if saved.latest is None:
            raise checkpoints.CheckpointError(f"{folder}: that run has no checkpoint yet")
        have = saved.shapes(averaged)
        like = _there(like, have) if missing else like
        check_fit({name: have.get(name, {}) for name in like}, like, os.fspath(folder))
        return saved.restore_params(like, averaged)[1]


def _there(like: Any, have: Any) -> Any:
    """`like` without the modules of which `have` has no tensor; all of `like` if nothing else would be left."""
    modules = {name.rpartition("/")[0] for name in traverse_util.flatten_dict(have, sep="/")}
    flat = traverse_util.flatten_dict(like, sep="/")
    kept = {name: x for name, x in flat.items() if name.rpartition("/")[0] in modules}
    return traverse_util.unflatten_dict(kept, sep="/") or like


def check_fit(params: Any, like: Any, whose: str) -> None:
    """Raises WeightsError unless `params` has the tensors of `like`. It names those that are missing, unexpected, of
    another shape, or floats on one side only."""
    if not isinstance(params, Mapping):
        raise WeightsError(f"{whose}: not the weights of this network: one tensor in place of many")
    have, want = (traverse_util.flatten_dict(tree, sep="/") for tree in (params, like))
    wrong = [f"missing {name}" for name in want.keys() - have.keys()]
    wrong += [f"unexpected {brief(name)}" for name in have.keys() - want.keys()]
    for name in want.keys() & have.keys():
        if have[name].shape != want[name].shape:
            wrong.append(f"{name} has shape {have[name].shape}, not {want[name].shape}")
        elif _is_float(have[name]) != _is_float(want[name]):
            wrong.append(f"{name} is of type {have[name].dtype}, not {want[name].dtype}")
    if wrong:
        listed = "\n".join(f"  {line}" for line in sorted(wrong)[:20])
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise WeightsError(f"{whose}: not the weights of this network:\n{listed}{more}")


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def cast(value: Any, dtype: Any) -> np.ndarray:
    """An array of floats in another type, or as it is if a finite number is too large for that. None keeps the type."""
    value = np.asarray(value)
    if dtype is None or not _is_float(value):
        return value
    too_large = np.abs(value, where=np.isfinite(value), out=np.zeros_like(value)) > np.finfo(dtype).max
    return value if too_large.any() else value.astype(dtype)
