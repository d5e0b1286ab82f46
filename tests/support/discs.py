"""A predictor that is exact: it measures discs, of which pictures and videos are made here."""

import json
import math
import os
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from loco_jax.geometry.camera import Camera
from loco_jax.media import canvas
from loco_jax.predict import everything, people
from loco_jax.predict.camera import Lens
from loco_jax.predict.predictor import Predictor
from loco_jax.predict.results import Options

RADIUS = 0.1  # metres, of the discs that stand for heads
BODY = np.array([[0, 0, 0], *np.random.default_rng(0).normal(0, 0.3, (13, 3))])
BODY[1:, 2] -= BODY[1:, 2].mean()
GREY = 90
PAINTS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]])
USUAL = Camera(200.0, 200.0, 160.0, 120.0)
HEADS = [(0.2, -0.1, 3.0), (-0.9, 0.4, 4.0), (1.0, 0.6, 5.0)]


class Discs(Predictor):
    """Finds a red, a green and a blue disc of 10 cm by their area, and hangs a body on each."""

    camera = USUAL
    image_size = (240, 320)
    description = "a finder of discs"
    batch, threads, min_score, checksum = 1, 1, 0.2, 0

    def __init__(self, others=()):
        self.sizes, self.others = set(), others

    def measure(self, image, camera):
        assert image.dtype == np.uint8 and image.ndim == 3
        assert all(n == t or (n > t and n % 32 == 0) for n, t in zip(image.shape, self.image_size))
        assert camera.fx == pytest.approx(200, rel=0.02) and camera.fy == pytest.approx(200, rel=0.02)
        self.sizes.add(image.shape)
        people = []
        for channel in range(3):
            others = np.delete(image.astype(float), channel, axis=-1).max(axis=-1)
            disc = np.clip((image[..., channel] - others) / 230, 0, 1)
            disc[disc < 0.05] = 0
            if disc.sum() < 3:
                continue
            v, u = (((axis + 0.5) * disc).sum() / disc.sum() for axis in np.indices(disc.shape))
            z = RADIUS * math.sqrt(math.pi * camera.fx * camera.fy / disc.sum())
            people.append(BODY + [(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
        people = np.array([*people, *self.others]).reshape(-1, 14, 3)
        return people.astype(np.float32), np.full((len(people), 14), 0.5, np.float32)

    def find(self, images, cameras):
        assert len(images) <= self.batch
        return [self.measure(image, camera) for image, camera in zip(images, cameras)]


class Nobody(Discs):
    def measure(self, image, camera):
        return np.zeros((0, 14, 3)), np.zeros((0, 14))


def scene(size, camera, heads):
    """A picture `[H, W, 3]` of discs at `heads` (metres), with smooth edges."""
    image = np.full((*size, 3), float(GREY))
    rows, columns = np.indices(size) + 0.5
    for (x, y, z), paint in zip(heads, PAINTS):
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        a, b = camera.fx * RADIUS / z, camera.fy * RADIUS / z
        away = np.hypot((columns - u) / a, (rows - v) / b)
        inside = np.clip((1 - away) * math.sqrt(a * b) + 0.5, 0, 1)[..., None]
        image += inside * (paint - image)
    return image.round().astype(np.uint8)


def save(path, size=(240, 320), camera=USUAL, heads=((0.2, -0.1, 3),), **options):
    Image.fromarray(scene(size, camera, heads)).save(path, **options)
    return path


def record(path, places, size=(240, 320), fps=10, options=None):
    """A video of one disc; returns its path."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        stream.options = {"crf": "4", "preset": "ultrafast", "g": "1"}
        for place in places:
            frame = av.VideoFrame.from_ndarray(scene(size, USUAL, place), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def process(path, name, output, lens, predictor, quiet=False, **options):
    """Writes the results of one input into a folder, and returns what is said of it."""
    each = everything.Input(path, os.path.join(output, name))
    ((_, done),) = everything.outcomes([each], predictor, Options(lens, **options), quiet)
    if isinstance(done, BaseException):
        raise done
    return done


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def head(person):
    return person["joints"]["head_top"]


def find(image, camera, predictor):
    """Joints and scores of the people in a picture by a known camera."""
    view = people.view_of(image.shape[:2], Lens(*camera), None, predictor)
    (found,) = people.find_all([canvas.fill(view.canvas, image)], [view], predictor)
    return found
