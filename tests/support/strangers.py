"""Files of strangers: whatever is in them, they are read rightly, or refused in words that name the file. Nothing in
them runs, no other file is read for them, and they take neither all memory nor for ever.

LOCO_JAX_FUZZ=100 python -m pytest -k strangers tries 100 times as many, and others each time.
"""

import faulthandler
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import warnings

import av
import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

TIMES = int(os.environ.get("LOCO_JAX_FUZZ", "0"))
LONGEST = 60  # seconds that a small file may take


def fuzz(examples: int):
    """So many examples, or LOCO_JAX_FUZZ times as many."""
    more = {"max_examples": examples * TIMES, "derandomize": False} if TIMES else {"max_examples": examples}
    return hypothesis.settings(
        deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True, **more
    )


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


# ---- Files


ODD = [
    math.nan, math.inf, -math.inf, -1, 0, 1, 22, 901, 2.5, -0.0, 1e39, 1e308, 2**53, 2**63, 2**64, -(2**63), 10**400,
    "", "12", "é\n", None, True, False, [], {}, [1], {"a": 1}, [[]],
]  # fmt: skip


def safetensors_of(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def about(**facts):
    return {"__metadata__": {"loco_jax": json.dumps({"kind": "vha", **facts})}}


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


def pictures_of_all_kinds(folder: pathlib.Path) -> list[tuple[str, bytes]]:
    """Names and contents."""
    known = Image.registered_extensions()
    return [(name, picture_of(name, folder)) for name in KINDS if pathlib.Path(name).suffix in known]


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


def videos_of_all_kinds(folder: pathlib.Path) -> list[tuple[str, bytes]]:
    """Names and contents."""
    return [(name, record(folder / name, *codec).read_bytes()) for name, codec in CODECS.items()]
