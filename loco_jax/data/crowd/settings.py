"""The kind of scenes that the crowd has: the number of people, their distances, and the camera."""

import dataclasses

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume


@dataclasses.dataclass(frozen=True)
class Crowd:
    """The kind of scenes. It is hashable, so it can be a static argument of a jitted function.

    Raises ValueError if the numbers of people contradict each other.
    """

    volume: Volume = Volume()  # gives the picture's size, and the distance up to which joints matter
    camera: Camera = cameras.JTA  # plain floats
    max_people: int = 64  # P, the padded number of people in a scene's arrays
    min_people: int = 1  # in a scene; a few people are outside the picture
    mean_people: float = 22.0
    most_people: int = 60
    min_distance: float = 3.0  # metres from the camera's centre to a person's hips in the first frame
    max_distance: float = 100.0
    typical_distance: float = 14.0  # metres along the ground; the most frequent one, where the view allows it
    camera_height: tuple[float, float] = (1.0, 10.0)  # metres, of the lowest and of the highest camera
    # Metres along the ground to the nearest and farthest point at which the camera is aimed. Together with the height
    # it determines the pitch.
    look_distance: tuple[float, float] = (12.0, 40.0)
    activities: tuple[float, float, float, float] = (0.55, 0.07, 0.28, 0.10)  # walking, running, standing, sitting

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
