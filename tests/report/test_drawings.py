"""Figures can be drawn and saved, whatever is in the scene, and say the right counts."""

import io

import numpy as np
import pytest

from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.report import drawings as draw

DEMO = Volume((270, 480), 8, 80, 25.0)
TRUE = np.array([[0, 10, 20, 30], [0, 12, 20, 30], [5, 39, 59, 79]])
FOUND = np.array([[0, 10, 21, 30], [5, 0, 0, 0]])


def _png(figure) -> tuple[int, int]:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    header = file.getvalue()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def _legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    "true, predicted, counts",
    [
        (TRUE, FOUND, ["found within 2 voxels: 1", "missed: 2", "spurious: 1"]),
        (TRUE, [], ["found within 2 voxels: 0", "missed: 3", "spurious: 0"]),
        ([], [], ["found within 2 voxels: 0", "missed: 0", "spurious: 0"]),
    ],
)
def test_projections(true, predicted, counts):
    figure = draw.projections(DEMO, true, predicted, np.zeros((10, 15, 20)), title="Scene 1")
    assert _legend(figure) == counts
    assert _png(figure)[0] == 1600


def test_pairs_are_within_two_voxels():
    predicted = [[0, 5, 7, 5], [1, 5, 8, 5]]  # 1.4 and 2.2 voxels away
    figure = draw.projections(DEMO, [[0, 4, 6, 5], [1, 4, 6, 5]], predicted, np.zeros((10, 15, 20)))
    assert _legend(figure) == ["found within 2 voxels: 1", "missed: 1", "spurious: 1"]


def test_projections_show_each_peak_in_all_three_views():
    figure = draw.projections(DEMO, TRUE, FOUND, np.ones((1, 2, 3)))
    views = {axes.get_title(): axes for axes in figure.axes[:3]}
    for title, x, y in [("Picture plane", 2, 1), ("Side view", 3, 1), ("Top view", 2, 3)]:
        drawn = sorted(point for line in views[title].lines for point in line.get_xydata().tolist())
        assert drawn == sorted([*TRUE[:, [x, y]].tolist(), *FOUND[:, [x, y]].tolist()])
        assert len({line.get_marker() for line in views[title].lines}) == 3


def test_projections_of_a_tall_volume():
    assert _png(draw.projections(Volume((1920, 1080), 8, 1000), TRUE, FOUND, np.ones((3, 2, 50))))[0] == 1600


def test_people_from_above_are_in_front_of_the_camera():
    """The view from above shows what the camera sees and no more, and a mark for everybody."""
    spot = np.array([[1.0, 0, 5], [-2, 0, 10]])
    true = spot[:, None] + np.linspace(-0.2, 0.2, 14)[:, None]
    known = np.ones((2, 14), bool)
    camera = Camera(500.0, 500.0, 200.0, 135.0)
    figure = draw.people(np.zeros((270, 480, 3), np.uint8), camera, (true[:1] + [0.5, 0, 0], known[:1]), (true, known))
    _png(figure)
    above = figure.axes[1]
    far = 1.08 * 10.2
    np.testing.assert_allclose(above.get_ylim(), (0, far))
    np.testing.assert_allclose(above.get_xlim(), (-200 / 500 * far, 280 / 500 * far))
    marks = [line.get_xydata()[0] for line in above.lines if len(line.get_xydata()) == 1]
    np.testing.assert_allclose(sorted(map(tuple, marks)), sorted([(1.5, 5), (1, 5), (-2, 10)]), atol=1e-9)
