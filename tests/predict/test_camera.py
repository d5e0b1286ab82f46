"""Where the camera of a picture comes from."""

import math

import pytest

from loco_jax.geometry.camera import Camera
from loco_jax.media.pictures import Focal
from loco_jax.predict.camera import Lens, camera_of
from tests.support.discs import USUAL


def test_where_the_camera_comes_from():
    size, film = (480, 640), Focal(555.0, 550.0, "EXIF: 31 mm on 35 mm film")

    def camera(lens=None, focal=None, size=size):
        return camera_of(size, lens or Lens(), focal, USUAL, (240, 320))

    assert camera()[0] == Camera(400.0, 400.0, 320.0, 240.0)
    assert camera()[1].startswith(f"assumed: {2 * math.degrees(math.atan(160 / 200)):.1f} degrees")
    assert camera(size=(640, 480))[0] == Camera(400.0, 400.0, 240.0, 320.0)  # held upright
    assert camera(focal=film) == (Camera(555.0, 550.0, 320.0, 240.0), film.source)
    assert camera(Lens(fov=90.0), film)[0] == pytest.approx(Camera(320.0, 320.0, 320.0, 240.0))
    assert camera(Lens(fov=90.0), film)[1] == "--fov=90"
    assert camera(Lens(fx=700.0, cx=300.0), film) == (Camera(700.0, 700.0, 300.0, 240.0), "--fx=700, --cx=300")
    assert camera(Lens(fy=700.0))[0] == Camera(700.0, 700.0, 320.0, 240.0)
    assert camera(Lens(fx=700.0, fy=600.0))[0] == Camera(700.0, 600.0, 320.0, 240.0)
    assert camera(Lens(cy=7.0), film) == (Camera(555.0, 550.0, 320.0, 7.0), f"{film.source}, --cy=7")


@pytest.mark.parametrize(
    ("lens", "words"),
    [
        (Lens(fov=90.0, fx=100.0), "--fov says the same as --fx"),
        (Lens(fov=180.0), "--fov=180"),
        (Lens(fov=0.1), "--fov=0.1"),
        (Lens(fx=-1.0), "--fx=-1"),
        (Lens(fy=0.0), "--fy=0"),
        (Lens(cy=float("nan")), "--cy=nan"),
        (Lens(fx=float("inf")), "--fx=inf"),
        (Lens(cx=1e6), "--cx=1e.06 is far outside"),
        (Lens(fx=1.2), "focal lengths of 1.2 and 1.2 pixels are not possible"),
        (Lens(fx=500.0, fy=1e6), "focal lengths of 500 and 1e.06 pixels are not possible"),
    ],
)
def test_cameras_that_cannot_be(lens, words):
    with pytest.raises(ValueError, match=words):
        camera_of((480, 640), lens, None, USUAL, (240, 320))


@pytest.mark.parametrize("fov", [20.0, 90.0, 150.0])
def test_a_field_of_view_is_from_edge_to_edge(fov):
    camera, _ = camera_of((480, 640), Lens(fov=fov, cx=300.0), None, USUAL, (240, 320))
    assert 2 * math.degrees(math.atan(320 / camera.fx)) == pytest.approx(fov)
    assert camera.cx == 300 and camera.fy == camera.fx


def test_pixels_that_are_not_square():
    """A pixel twice as wide as high: angles are those of the picture as it is shown, 640 by 320 pixels."""

    def camera(lens):
        return camera_of((320, 320), lens, None, USUAL, (240, 320), pixel_aspect=2.0)[0]

    assert camera(Lens())[:2] == pytest.approx((200.0, 400.0))
    assert camera(Lens(fov=90.0))[:2] == pytest.approx((160.0, 320.0))
    assert camera(Lens(fx=500.0))[:2] == (500.0, 500.0)  # as it is given
