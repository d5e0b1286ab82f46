"""Files of strangers: whatever is in them, they are read rightly, or refused in words that name the file. Nothing in
them runs, no other file is read for them, and they take neither all memory nor for ever.

LOCO_JAX_FUZZ=100 python -m pytest tests/predict/test_strangers.py tries 100 times as many, and others each time.
"""

import contextlib
import copy
import faulthandler
import json
import math
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
import unittest.mock
import warnings
import zipfile
import zlib

import av
import hypothesis
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from loco_jax import experiment, weights
from loco_jax.configs import loco2
from loco_jax.data import jta
from loco_jax.geometry.camera import JTA, Camera
from loco_jax.media import pictures, videos
from loco_jax.predict import __main__ as predict
from loco_jax.predict import predictor
from tests.data.test_jta import GOOD_ROW, write_jta
from tests.media.test_videos import timed
from tests.predict.test_predict import Nobody

TIMES = int(os.environ.get("LOCO_JAX_FUZZ", "0"))
LONGEST = 60  # seconds that a small file may take


def fuzz(examples: int):
    """So many examples, or LOCO_JAX_FUZZ times as many."""
    more = {"max_examples": examples * TIMES, "derandomize": False} if TIMES else {"max_examples": examples}
    return hypothesis.settings(
        deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True, **more
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all examples of a test, which replace each other's files."""
    return tmp_path_factory.mktemp("strangers")


def read_or_refused(read, path, kind):
    """What `read(path)` gives, or None if it raises `kind`, in a few words that name the file. Anything else, and what
    does not come to an end, is a failure."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)  # also of code that Python cannot interrupt
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except kind as error:
        assert str(path) in str(error) and len(str(error)) < len(str(path)) * 3 + 1500, str(error)[:3000]
        return None
    finally:
        faulthandler.cancel_dump_traceback_later()


# ---- Damage

EDGES = [2**k + d for k in (7, 8, 15, 16, 31, 32, 60, 63, 64) for d in (-1, 0)] + [0, 1, 2, 1000]
WAYS = ("bit", "byte", "number", "cut", "leave out", "repeat")
damages = st.lists(
    st.tuples(st.sampled_from(WAYS), st.floats(0, 1), st.integers(0, 2**16 - 1), st.sampled_from(EDGES)),
    min_size=1,
    max_size=6,
)


def damaged(content: bytes, damage) -> bytes:
    """`content` with some damage, most of it near the beginning, where headers are."""
    content = bytearray(content)
    for way, where, amount, number in damage:
        at = min(int(where**3 * len(content)), len(content) - 1)
        if way == "bit":
            content[at] ^= 1 << amount % 8
        elif way == "byte":
            content[at] = amount % 256
        elif way == "number":
            size, order = (2, 4, 8)[amount % 3], ("big", "little")[amount // 3 % 2]
            content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
        elif way == "cut":
            del content[max(1, int(where * len(content))) :]
        elif way == "leave out":
            del content[max(1, at) : at + 1 + amount % 50]
        else:
            content[at:at] = content[at : at + amount % 200] * (1 + amount // 200 % 5)
    return bytes(content)


def peak_megabytes(code: str, *arguments) -> tuple[float, float, str]:
    """By how much memory grows while another Python runs `code`, after its first line; its seconds, what it prints."""
    first, _, rest = code.partition("\n")
    measure = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000"
    lines = [first, "import resource, time", f"before, start = {measure}, time.perf_counter()", rest]
    lines += [f"print('took', {measure} - before, time.perf_counter() - start)"]
    command = [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    *printed, last = ran.stdout.strip().splitlines()
    megabytes, seconds = map(float, last.split()[1:])
    return megabytes, seconds, "\n".join(printed)


# ---- Annotations

ODD = [
    math.nan, math.inf, -math.inf, -1, 0, 1, 22, 901, 2.5, -0.0, 1e39, 1e308, 2**53, 2**63, 2**64, -(2**63), 10**400,
    "", "12", "é\n", None, True, False, [], {}, [1], {"a": 1}, [[]],
]  # fmt: skip
rows = st.lists(
    st.builds(
        lambda frame, person, joint, rest, flags: [frame, person, joint, *rest, *flags],
        st.integers(1, 900),
        st.integers(0, 3),
        st.integers(0, 21),
        st.lists(st.floats(-2000, 2000), min_size=5, max_size=5),
        st.lists(st.integers(0, 1), min_size=2, max_size=2),
    ),
    max_size=8,
)
places = st.tuples(st.integers(0, 7), st.integers(0, 9))
changes = st.lists(
    st.tuples(st.sampled_from(["value", "value", "row", "more", "fewer"]), places, st.sampled_from(ODD)), max_size=2
)


def is_good(table) -> bool:
    """Whether rows are as JTA's have to be, one value after the other."""
    seen = set()
    for row in table:
        if type(row) is not list or len(row) != 10 or any(type(x) not in (int, float) for x in row):
            return False
        if not all(abs(x) < float(np.finfo(np.float32).max) for x in row) or row[1] != round(row[1]):
            return False
        if row[0] not in range(1, 901) or row[2] not in range(22) or not {row[8], row[9]} <= {0, 1}:
            return False
        if abs(row[1]) >= 2**53 or tuple(row[:3]) in seen:
            return False
        seen.add(tuple(row[:3]))
    return True


@fuzz(150)
@given(rows, changes)
def test_annotations_are_read_if_they_are_good_and_only_then(folder, table, changes):
    for what, (i, j), value in changes:
        value = copy.deepcopy(value)  # it may be put into itself
        if what == "row" or not table or type(table[i % len(table)]) is not list:
            table.insert(i % (len(table) + 1), value)
        elif what == "value":
            table[i % len(table)][j:] = [value, *table[i % len(table)][j + 1 :]]
        else:
            table[i % len(table)][9 - (what == "fewer") :] = [0] * (what == "more") * 3
    path = folder / "seq_0.json"
    path.write_text(json.dumps(table))
    people = read_or_refused(lambda path: jta.read_sequence(path, range(1, 901)), path, jta.AnnotationError)
    assert (people is not None) == is_good(table)
    if people is not None:
        found = {
            (f, i, joint): [*pixel, *xyz, hidden]
            for f, i, present, *values in zip(people.frame, people.id, people.present, people.pixels, people.joints)
            for joint in np.flatnonzero(present)
            for pixel, xyz, hidden in [(values[0][joint], values[1][joint], 0)]
        }
        assert found == {tuple(row[:3]): [*map(np.float32, row[3:8]), 0] for row in table}


@fuzz(150)
@given(st.sampled_from([json.dumps([GOOD_ROW, [11, *GOOD_ROW[1:]]]).encode(), b"[]", b'[{"a": [1, "b"]}]']), damages)
def test_damaged_annotations(folder, content, damage):
    path = folder / "seq_0.json"
    path.write_bytes(damaged(content, damage))
    read_or_refused(lambda path: jta.read_sequence(path, range(1, 901)), path, jta.AnnotationError)


def test_true_is_no_number_in_any_encoding(tmp_path):
    (tmp_path / "seq_0.json").write_bytes(json.dumps([[*GOOD_ROW[:-1], True]]).encode("utf-16"))
    with pytest.raises(jta.AnnotationError, match="not JSON"):
        jta.read_sequence(tmp_path / "seq_0.json", [10])


@pytest.mark.parametrize("what", ["one long text", "many lists"])
def test_annotations_take_memory_as_they_are_large(tmp_path, what):
    """NumPy would make every number a text as long as the longest; and a list takes 80 bytes, of 3 in the file."""
    path = tmp_path / "seq_0.json"
    if what == "one long text":
        table = [[*GOOD_ROW[:-1], "a" * 2000], *[GOOD_ROW] * 20_000]  # 1.6 GB of texts
        path.write_text(json.dumps(table))
    else:
        path.write_bytes(b"[" + b"[]," * 12_000_000 + b"[]]")  # 1 GB of lists
    code = """import sys; from loco_jax.data import jta
try:
    jta.read_sequence(sys.argv[1], [1])
except jta.AnnotationError as error:
    print(error)"""
    megabytes, seconds, printed = peak_megabytes(code, path)
    assert megabytes < 250 and seconds < 20 and str(path) in printed


@fuzz(60)
@given(st.dictionaries(st.sampled_from([*Camera._fields, "num_frames", "x"]), st.sampled_from([*ODD, 500, 10.0])))
@example({**JTA._asdict(), "fx": 10**400})
@example({**JTA._asdict(), "num_frames": 10**400})
def test_cameras_of_strangers(folder, changes):
    path = folder / "camera.json"
    path.write_text(json.dumps({**JTA._asdict(), **changes}))
    camera = read_or_refused(lambda path: jta.read_camera(path.parent), path, jta.AnnotationError)
    good = all(
        type(v) in (int, float) and abs(v) <= sys.float_info.max for k, v in changes.items() if k != "num_frames"
    )
    good = good and "x" not in changes and all(changes.get(f, 1) > 0 for f in ("fx", "fy"))
    assert (camera is not None) == good
    if camera is not None:
        assert camera._asdict() == {**JTA._asdict(), **{k: v for k, v in changes.items() if k != "num_frames"}}
        number = read_or_refused(lambda path: jta.read_num_frames(path.parent), path, jta.AnnotationError)
        assert number in (None, 500, 900, 22)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"fx": ' + "[" * 900 + "]" * 900 + "}", " " * 200_000, '"' * 9])
def test_cameras_that_are_none(tmp_path, text):
    (tmp_path / "camera.json").write_text(text)
    assert read_or_refused(lambda p: jta.read_camera(p.parent), tmp_path / "camera.json", jta.AnnotationError) is None


@pytest.mark.parametrize("name", ["seq_3000000000.json", "seq_1\u0663.json"])
def test_numbers_of_sequences_that_cannot_be(tmp_path, name):
    """Too large for the data set; and an Arabic 3, which would be 13 again."""
    write_jta(tmp_path, {13: [GOOD_ROW]})
    (tmp_path / "annotations" / "train" / name).write_text("[]")
    with pytest.raises(jta.AnnotationError, match=f"{name}: is not called seq_N.json"):
        jta.find_sequences(tmp_path)


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    reads = {
        jta.AnnotationError: lambda path: jta.read_sequence(path, [1]),
        weights.WeightsError: weights.load,
        pictures.PictureError: pictures.read,
        videos.VideoError: videos.info,
    }
    for kind, read in reads.items():
        assert read_or_refused(read, tmp_path / "p", kind) is None


# ---- Weights

LIKE = {"a": {"kernel": np.zeros((2, 3), np.float32)}, "b": np.zeros(3, np.float32)}


def safetensors_of(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def about(**facts):
    return {"__metadata__": {"loco_jax": json.dumps({"kind": "vha", **facts})}}


GOOD = {**about(), "a/kernel": tensor([2, 3], 0, 24), "b": tensor([3], 24, 36)}


def load_and_fit(path):
    params = weights.read("vha", str(path), LIKE)
    assert params["a"]["kernel"].shape == (2, 3) and params["b"].dtype == np.float32
    return params


@fuzz(250)
@given(damages)
def test_damaged_weights(folder, damage):
    path = folder / "w.safetensors"
    path.write_bytes(damaged(safetensors_of(GOOD, bytes(36)), damage))
    read_or_refused(load_and_fit, path, weights.WeightsError)


DTYPES = ("BOOL", "U8", "I8", "U16", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "I64", "F64", "C64", "X")


@fuzz(250)
@given(
    st.dictionaries(
        st.sampled_from(["a", "a/kernel", "a/kernel/x", "b", "", "/", "b/", "é\n", "/".join("c" * 3000)]),
        st.builds(
            tensor,
            st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**62, 2**64 - 1]), max_size=3) | st.just([1] * 80),
            st.just(0),
            st.sampled_from([0, 1, 2, 3, 4, 8, 12, 16, 24]),
            st.sampled_from(["F32", *DTYPES]),
        ),
        max_size=3,
    ),
    st.sampled_from([about(), {}, {"__metadata__": {"loco_jax": "[" * 9000}}, {"__metadata__": {"loco_jax": "5"}}]),
)
@example({"a": tensor([1], 0, 4), "a/kernel": tensor([1], 4, 8)}, about())
def test_headers_of_weights(folder, tensors, metadata):
    path = folder / "w.safetensors"
    path.write_bytes(safetensors_of({**metadata, **tensors}, bytes(24)))
    read_or_refused(load_and_fit, path, weights.WeightsError)


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_weights(tmp_path, dtype):
    """Floats of 16 and 64 bits are read as float32; what is no float does not become a network."""
    size = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8, "F64": 8, "C64": 8}.get(dtype, 2)
    path, data = tmp_path / "w.safetensors", bytes(9 * size)
    tensors = {"a/kernel": tensor([2, 3], 0, 6 * size, dtype), "b": tensor([3], 6 * size, 9 * size, dtype)}
    path.write_bytes(safetensors_of({**about(), **tensors}, data))
    read = read_or_refused(load_and_fit, path, weights.WeightsError)
    assert (read is not None) == (dtype in ("F16", "BF16", "F64"))


def test_a_header_that_claims_an_exabyte_takes_no_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + safetensors_of(GOOD, bytes(36))[8:])
    start = time.perf_counter()
    assert read_or_refused(weights.load, path, weights.WeightsError) is None
    assert time.perf_counter() - start < 5


def test_weights_that_would_run_code_do_not(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
        for source in (tmp_path / name, tmp_path / name):
            assert read_or_refused(weights.load, source, weights.WeightsError) is None
            assert (
                read_or_refused(lambda path: predictor.load_predictor(str(path)), source, weights.WeightsError) is None
            )
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert (tmp_path / "ran").exists()  # so it would have


# ---- Configs that come with weights

CONFIG = json.loads(loco2.get_config("variant=patch,trunk=compact,scale=demo").to_json())
FIELDS = [(a,) for a in CONFIG] + [(a, b) for a in CONFIG if isinstance(CONFIG[a], dict) for b in CONFIG[a]]
TASK = experiment.create_task(loco2.get_config("variant=patch,trunk=compact,scale=demo"))


def changed(changes) -> dict:
    config = copy.deepcopy(CONFIG)
    for field, value in changes.items():
        part = config[field[0]] if len(field) == 2 else config
        if isinstance(part, dict):
            part[field[-1]] = copy.deepcopy(value)
    return config


@fuzz(250)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.sampled_from([*ODD, [10**9, 10**9], [1], [0, 1], "a" * 5000, {"keys": 1}, {"a.b": 1}, 10**6]),
        min_size=1,
        max_size=2,
    )
)
def test_configs_of_strangers(folder, changes):
    """What is not refused makes a network of ordinary size."""
    path = folder / "w.safetensors"
    path.write_bytes(safetensors_of(about(kind="loco", config=changed(changes))))
    read_or_refused(lambda path: experiment.check_weights(TASK, str(path), "--weights"), path, weights.WeightsError)
    task = read_or_refused(
        lambda path: experiment.people_task_of(path, weights.config_of(str(path))), path, weights.WeightsError
    )
    if task is not None:
        assert math.prod(task.vha.volume.shape) < 2**28 and task.vha.max_peaks < 5000
        assert max(task.vha.network.width, 64 * task.vha.network.blocks) < 5000


@pytest.mark.parametrize("content", [5, [1], {"a.b": 1}, {"model": 5}, {}, {"task": ["loco"]}])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_what_is_no_config(tmp_path, content, form):
    path = tmp_path / "w.safetensors"
    if form == "file":
        path.write_bytes(safetensors_of(about(kind="loco", config=content)))
    else:
        path.mkdir()
        (path / "config.json").write_text(json.dumps(content))
    assert read_or_refused(lambda path: predictor.load_predictor(str(path)), path, weights.WeightsError) is None


@pytest.mark.parametrize(
    "camera", [5, [1, 2, 3], ["a"] * 4, [1e-300, 1, 240, 135], [1e300, 1, 240, 135], [9, 9, 1e9, 1]]
)
def test_cameras_that_weights_cannot_have(tmp_path, camera):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_of(about(kind="loco", config=CONFIG, camera=camera)))
    assert read_or_refused(lambda path: predictor.load_predictor(str(path)), path, weights.WeightsError) is None


# ---- PyTorch's files


@pytest.fixture(scope="module")
def torch_files(folder):
    torch = pytest.importorskip("torch")
    state = {f"mlp.{i}.{n}": torch.zeros(s) for i, (o, j) in zip((0, 2, 4), ((128, 39), (128, 128), (39, 128)))
             for n, s in (("weight", (o, j)), ("bias", (o,)))}  # fmt: skip
    contents = []
    for new in (True, False):
        torch.save({"model": state, "epoch": 3}, folder / "w.pth", _use_new_zipfile_serialization=new)
        contents.append((folder / "w.pth").read_bytes())
    return contents


def load_torch(path, kind="refiner"):
    from loco_jax.weights import torch as torch_weights

    return torch_weights.load(path, kind)


@fuzz(100)
@given(st.integers(0, 1), damages, st.booleans())
def test_damaged_torch_files(folder, torch_files, which, damage, late):
    """Also in the pickle, of which the archive keeps a sum, so that damage there needs another sum: none is checked."""
    content = torch_files[which]
    part = content[:3000] if late else content
    path = folder / "damaged.pth"
    path.write_bytes(damaged(part, damage) + content[len(part) :])
    variables = read_or_refused(load_torch, path, weights.WeightsError)
    if variables is not None:
        assert variables["params"]["Dense_0"]["kernel"].shape == (39, 128)


SHAPES = [(0,), (3, 0), (2**20, 2**20), (0, 0, 5, 5), (2**28, 1, 5, 5), (1, 2**28, 5, 5), (1,), (2**14, 2**14, 1, 1)]


@pytest.mark.parametrize("kind", ["vha", "code_predictor", "refiner", "inception"])
def test_torch_tensors_that_cannot_be(tmp_path, kind):
    """Of any shape with one number in the file; without numbers; of endless names; too many."""
    torch = pytest.importorskip("torch")
    path, one = tmp_path / "w.pth", torch.ones(1)
    cases = [{"a.weight": one.expand(shape) if 0 not in shape else torch.ones(shape)} for shape in SHAPES]
    cases += [{"a.weight": one.half().expand(10**5, 10**6)}, {"a.weight": torch.ones(3, device="meta")}]
    cases += [
        {f"{'.'.join('a' * 30_000)}.weight": one},
        {"a\nb.weight": one},
        {f"{i}.weight": one for i in range(11_000)},
    ]
    cases += [{"k" * 9000: 1, ("a", 1): 2, "b\nc": 3}, {"a" * 9000: {"x": one}, "b\n": {"x": one}}]
    for content in cases:
        torch.save(content, path)
        assert read_or_refused(lambda path: load_torch(path, kind), path, weights.WeightsError) is None


def test_torch_archives_that_would_unpack_to_more(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a.weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 20_000
    with pytest.raises(weights.WeightsError, match="w.pth: would unpack to 4,"):
        load_torch(path)


# ---- Pictures

KINDS = (
    "p.jpg", "q.jpg", "p.png", "p.gif", "p.tif", "q.tif", "p.webp", "p.bmp", "p.tga", "p.ppm", "p.jp2", "p.avif",
    "p.heic",
)  # fmt: skip


def picture_of(name: str, folder: pathlib.Path) -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0xA405: 30, 0x920A: 5.0, 0xA20E: 100.0})
    options = {"p.jpg": {"exif": exif}, "q.jpg": {"progressive": True}, "p.png": {"exif": exif}}.get(name, {})
    options |= {"q.tif": {"compression": "tiff_lzw"}, "p.tga": {"compression": "tga_rle"}}.get(name, {})
    noise.save(folder / name, **options)
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def some_pictures(folder):
    known = Image.registered_extensions()
    return [(name, picture_of(name, folder)) for name in KINDS if pathlib.Path(name).suffix in known]


@fuzz(300)
@given(st.integers(0, len(KINDS) - 1), damages)
def test_damaged_pictures(folder, some_pictures, which, damage):
    name, content = some_pictures[which % len(some_pictures)]
    path = folder / f"damaged{name}"
    path.write_bytes(damaged(content, damage))
    pictures.is_picture(path)
    picture = read_or_refused(pictures.read, path, pictures.PictureError)
    if picture is not None:
        assert picture.image.ndim == 3 and picture.image.shape[2] == 3 and picture.image.dtype == np.uint8


def png_of(size: int) -> bytes:
    """A black picture, very well compressed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(3 * size + 1)
    data = b"".join(packer.compress(row) for _ in range(size)) + packer.flush()
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_takes_its_memory_twice(tmp_path):
    """In Pillow's 4 bytes a pixel and in our 3, also when its colours are converted; a bomb is refused by its header
    (`test_pictures.test_what_cannot_be_read_is_named`), so that this bounds what any picture takes."""
    (tmp_path / "p.png").write_bytes(png_of(6000))
    code = "import sys; from loco_jax.media import pictures\nprint(pictures.read(sys.argv[1]).image.shape)"
    megabytes, _, printed = peak_megabytes(code, tmp_path / "p.png")
    assert printed == "(6000, 6000, 3)" and megabytes < 1.35 * 36 * (4 + 3)


def test_a_picture_of_endless_scans_is_refused(tmp_path):
    """A scan that changes nothing takes a few bytes, and as long as the whole picture."""
    path = tmp_path / "frames" / "train" / "seq_0" / "1.jpg"
    path.parent.mkdir(parents=True)
    Image.new("L", (3000, 3000), 7).save(path, progressive=True)
    assert pictures.read(path).image.shape == (3000, 3000, 3)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 12_000 + content[-2:])
    start = time.perf_counter()
    with pytest.raises(pictures.PictureError, match="1.jpg: has 12,006 scans"):
        pictures.read(path)
    with pytest.raises(jta.AnnotationError, match="1.jpg: frame 1 is damaged .*12,006 scans"):
        jta.collect_pictures(tmp_path, "train", 0, [1], tmp_path / "out")
    assert time.perf_counter() - start < 5


def test_pictures_are_no_programs(tmp_path):
    """Pillow would give PostScript to Ghostscript to run, whatever the file's name."""
    path = tmp_path / "p.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as picture:
        assert picture.format == "EPS"
    with unittest.mock.patch("subprocess.Popen", side_effect=AssertionError("a program was started")):
        assert not pictures.is_picture(path)
        assert read_or_refused(pictures.read, path, pictures.PictureError) is None


@fuzz(60)
@given(damages)
def test_damaged_frames_of_jta(folder, some_pictures, damage):
    place = folder / "frames" / "train" / "seq_0"
    place.mkdir(parents=True, exist_ok=True)
    (place / "1.jpg").write_bytes(damaged(dict(some_pictures)["p.jpg"], damage))
    read_or_refused(
        lambda path: jta.collect_pictures(folder, "train", 0, [1], folder / "out"), place / "1.jpg", jta.AnnotationError
    )


def test_a_bomb_among_the_frames_of_jta_is_named(tmp_path):
    write_jta(tmp_path, {0: [GOOD_ROW]})
    for split, number in (("train", 0), ("val", 257), ("test", 256)):
        place = tmp_path / "frames" / split / f"seq_{number}"
        place.mkdir(parents=True)
        for frame in range(1, 901):
            if frame % 10 == 0 or frame % 5 == 1:
                os.symlink(tmp_path / "bomb.jpg", place / f"{frame}.jpg")
    Image.new("L", (8, 8)).save(tmp_path / "bomb.jpg")
    content = (tmp_path / "bomb.jpg").read_bytes()
    size = content.index(b"\xff\xc0") + 5
    (tmp_path / "bomb.jpg").write_bytes(content[:size] + b"\xff\xdc\xff\xdc" + content[size + 4 :])
    with pytest.raises(jta.AnnotationError, match="3 of 3 sequences are bad.*\n.*1.jpg: frame 1 is damaged"):
        jta.prepare(tmp_path, tmp_path / "data", pictures=True)


# ---- Videos

CODECS = {
    "v.mp4": ("libx264", "yuv420p"), "v.mkv": ("libx264", "yuv420p"), "v.ts": ("mpeg2video", "yuv420p"),
    "v.avi": ("mpeg4", "yuv420p"), "v.webm": ("libvpx", "yuv420p"), "v.gif": ("gif", "rgb8"),
    "v.mov": ("mjpeg", "yuvj420p"), "v.flv": ("flv1", "yuv420p"),
}  # fmt: skip


def record(path: pathlib.Path, codec: str = "libx264", pixels: str = "yuv420p", title: str = "") -> pathlib.Path:
    """A video of four frames of noise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        container.metadata["title"] = title
        for seed in range(4):
            noise = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def some_videos(folder):
    return [(name, record(folder / name, *codec).read_bytes()) for name, codec in CODECS.items()]


@fuzz(300)
@given(st.integers(0, len(CODECS) - 1), damages)
def test_damaged_videos(folder, some_videos, which, damage):
    name, content = some_videos[which]
    path = folder / f"damaged_{name}"
    path.write_bytes(damaged(content, damage))
    assert videos.is_video(path) in (True, False)
    read_or_refused(videos.info, path, videos.VideoError)

    def times(path):
        return [time for _, image, time in videos.read(path) if image.shape[2] == 3 and image.dtype == np.uint8]

    seconds = read_or_refused(times, path, videos.VideoError)
    if seconds is not None:
        assert seconds[0] == 0 and (np.diff(seconds) > 0).all() and seconds[-1] < 1e6 * len(seconds)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("v.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
    ],
    ids=["playlist", "list"],
)
def test_videos_that_are_lists_of_others_are_refused(tmp_path, name, content):
    """FFmpeg would read the others."""
    secret = record(tmp_path / "secret.ts", "mpeg2video")
    path = tmp_path / name
    path.write_text(content.format(secret=secret))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 4
    assert not videos.is_video(path)
    assert read_or_refused(lambda path: list(videos.read(path)), path, videos.VideoError) is None


def test_names_of_videos_are_no_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "a.ts", "mpeg2video")
    assert read_or_refused(lambda path: list(videos.read(path)), "concat:a.ts|a.ts", videos.VideoError) is None
    (tmp_path / "a.ts").rename("http:a.ts")
    assert len(list(videos.read("http:a.ts"))) == 4


def test_a_title_in_another_encoding_spoils_no_video(tmp_path):
    path = record(tmp_path / "v.mp4", title="XXXX\xe9")
    path.write_bytes(path.read_bytes().replace("XXXX\xe9".encode(), b"XXXX\xe9\xe9"))
    assert len(list(videos.read(path))) == 4


def test_a_frame_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = record(tmp_path / "v.mov", "png", "rgb24")
    content = bytearray(path.read_bytes())
    at = content.index(b"IHDR") + 4
    content[at : at + 8] = struct.pack(">II", 9000, 9000)
    path.write_bytes(content)
    code = """import sys; from loco_jax.media import videos
try:
    list(videos.read(sys.argv[1]))
except videos.VideoError as error:
    print(error)"""
    megabytes, _, printed = peak_megabytes(code, path)
    assert megabytes < 100 and str(path) in printed  # the frame would be 243


def test_clocks_that_leap_are_set_right(tmp_path, monkeypatch):
    path, given_times = record(tmp_path / "v.mp4"), [-1e14, 0.0, 0.04, 2.0**52, 2.0**52 + 1]
    monkeypatch.setattr(videos, "frames", lambda path: timed(given_times))
    times = [time for *_, time in videos.read(path)]
    assert (np.diff(times) > 0).all() and times[-1] < 86_400


# ---- All the way


@fuzz(80)
@given(st.integers(0, 9), damages)
def test_the_command_takes_any_file_and_writes_only_into_its_folder(folder, some_pictures, some_videos, which, damage):
    files = some_pictures[:4] + some_videos[:6]
    name, content = files[which]
    place = folder / "command"
    place.mkdir(exist_ok=True)
    path, out = place / f"x{name}", place / "out"
    path.write_bytes(damaged(content, damage))
    errors = unittest.mock.patch("sys.stderr", open(place / "errors", "w", encoding="utf-8"))
    with (
        unittest.mock.patch("loco_jax.predict.people.load_predictor", lambda source, min_score: Nobody()),
        errors as stderr,
    ):
        with contextlib.closing(stderr):
            status = read_or_refused(
                lambda path: predict.main([str(path), f"--output={out}", "--quiet"]), path, ZeroDivisionError
            )
    told = (place / "errors").read_text(encoding="utf-8")
    assert status == 0 or (status == 1 and str(path) in told and "Traceback" not in told)
    assert {p.name for p in place.iterdir()} <= {path.name, "out", "errors"}
    for result in out.iterdir():
        assert result.name.startswith("x") and not result.name.startswith(".")
        if result.suffix == ".json":
            json.loads(result.read_text(), parse_constant=pytest.fail)
        result.unlink()
    path.unlink()
