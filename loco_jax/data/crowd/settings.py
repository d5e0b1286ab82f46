"""The kind of scenes that the crowd has: the number of people, their distances, and the camera."""

import dataclasses

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume


@dataclasses.dataclass(frozen=True)
class Crowd:
    """The kind of scenes. It is hashable, so it can be a static argument of a jitted function.

    Attributes:
      volume: gives the picture's size, and the distance up to which joints matter.
      camera: intrinsics, plain floats.
      max_people: P, the padded number of people in a scene's arrays.
      min_people, mean_people, most_people: smallest, mean and largest number of people in a scene. A few of them are
        outside the picture.
      min_distance, max_distance: metres from the camera's centre to a person's hips in the first frame.
      typical_distance: metres along the ground; the most frequent distance, where the view allows it.
      camera_height: metres of the lowest and of the highest camera.
      look_distance: metres along the ground to the nearest and farthest point at which the camera is aimed. Together
        with the height it determines the pitch.
      activities: shares of walking, running, standing and sitting groups.

    Raises ValueError if the numbers of people contradict each other.
    """

    volume: Volume = Volume()
    camera: Camera = cameras.JTA
    max_people: int = 64
    min_people: int = 1
    mean_people: float = 22.0
    most_people: int = 60
    min_distance: float = 3.0
    max_distance: float = 100.0
    typical_distance: float = 14.0
    camera_height: tuple[float, float] = (1.0, 10.0)
    look_distance: tuple[float, float] = (12.0, 40.0)
    activities: tuple[float, float, float, float] = (0.55, 0.07, 0.28, 0.10)

    def __post_init__(self):
        if not 1 <= self.min_people <= self.mean_people <= self.most_people <= self.max_people:
            raise ValueError("need 1 <= min_people <= mean_people <= most_people <= max_people")


FULL = Crowd()
DEMO = Crowd(
    volume=Volume(image_size=(270, 480), stride=8, depth_bins=80, max_distance=25.0),
    camera=cameras.JTA.scaled(1 / 4),
    max_people=8,
    min_people=2,
    mean_people=5.0,
    most_people=8,
    max_distance=25.0,
    typical_distance=5.0,
    camera_height=(1.0, 5.0),
    look_distance=(6.0, 15.0),
)
