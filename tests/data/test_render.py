import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.data import crowd as crowds
from loco_jax.data.crowd import Crowd
from loco_jax.data.crowd.figures import bodies
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.skeleton import JTA_JOINTS
from loco_jax.geometry.volume import Volume

# Small pictures, so that brute force is affordable, whose sides are no multiples of a tile's.
SMALL = Crowd(
    volume=Volume(image_size=(135, 240), stride=8, depth_bins=80, max_distance=25.0),
    camera=cameras.JTA.scaled(1 / 8),
    max_people=8,
    min_people=4,
    mean_people=6.0,
    most_people=7,
    max_distance=25.0,
    typical_distance=6.0,
    camera_height=(1.5, 5.0),
    look_distance=(6.0, 15.0),
)
HEIGHT, WIDTH = SMALL.volume.image_size
FRAMES = 3
SPINE4 = JTA_JOINTS.index("spine4")


@jax.jit
def sample(index):
    """A sequence, half a second a frame, and its stage."""
    key = crowds.scene_key("train", index)
    scene = crowds.sample_sequence(key, SMALL, FRAMES, fps=2.0)
    return scene, crowds.sample_stage(jax.random.fold_in(key, 1), scene, SMALL)


def instant(scene, t=0):
    return scene._replace(joints=scene.joints[t], present=scene.present[t])


@jax.jit
def shoot(stage, scene, seed):
    return crowds.render(stage, scene, SMALL, jax.random.key(seed))


class Shot:
    """The first frame of a sequence, its picture, and its geometry in float64 in world coordinates."""

    def __init__(self, index, change=lambda scene: scene):
        self.sequence, self.stage = sample(index)
        self.scene = change(instant(self.sequence))
        self.picture = jax.tree.map(np.asarray, shoot(self.stage, self.scene, 0))
        scene = self.scene
        self.rotation, self.height = np.asarray(scene.rotation, np.float64), float(scene.height)
        self.present = np.asarray(scene.present)
        people = bodies(scene.joints, scene.present, scene.rotation[:, 2], scene.height, self.stage.clothes)
        things, boxes = self.stage.things, self.stage.boxes
        ends = np.concatenate([self.to_world(people.ends), np.asarray(things.ends, np.float64)])
        owner = np.concatenate([people.owner, things.owner])
        radius = np.concatenate([people.radius, things.radius]).astype(np.float64)
        # As the renderer says: thin things are drawn most of a pixel wide; what the lens nearly touches is not drawn.
        from_camera = ends - [0, 0, self.height]
        radius = np.where(radius > 0, np.maximum(radius, 0.45 * norm(from_camera.mean(1)) / SMALL.camera.fx), 0)
        ahead = from_camera @ self.rotation[2]
        there = (radius > 0) & (ahead > 0.2 + radius[:, None]).all(1)
        self.ends, self.radius, self.owner = ends[there], radius[there], owner[there]
        self.boxes = jax.tree.map(lambda x: np.asarray(x, np.float64)[np.asarray(boxes.high > boxes.low)], boxes)
        joints = np.asarray(scene.joints, np.float64)
        self.distance, z = norm(joints), joints[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = (f * joints[..., i] / z + c for i, f, c in self.intrinsics())
            self.inside = (z > 0.2) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT) & self.present[:, None]
        self.uv = np.stack([u, v], -1)

    @staticmethod
    def intrinsics():
        camera = SMALL.camera
        return (0, camera.fx, camera.cx), (1, camera.fy, camera.cy)

    def to_world(self, xyz):
        return np.asarray(xyz, np.float64) @ self.rotation + [0, 0, self.height]

    def rays(self, uv):
        """Unit vectors `[..., 3]` of pixels in the world."""
        xy = [(uv[..., i] - c) / f for i, f, c in self.intrinsics()]
        rays = np.stack([*xy, np.ones_like(xy[0])], -1)
        return rays / norm(rays)[..., None] @ self.rotation

    def march(self, rays, capsules=slice(None), solids=True, steps=160):
        """Distances `[N]` along rays `[N, 3]` from the camera, and what is there: a capsule's number, -1 for the rest.

        By sphere tracing: go on as far as the nearest surface is away, until it is a tenth of a millimetre.
        """
        ends, radius = self.ends[capsules], self.radius[capsules]
        number = np.arange(len(self.ends))[capsules]
        a, axis = ends[:, 0], ends[:, 1] - ends[:, 0]
        distance, what = np.zeros(len(rays)), np.full(len(rays), -1)
        going = np.arange(len(rays))
        for _ in range(steps):
            point = rays[going] * distance[going, None] + [0, 0, self.height]
            away = np.full((len(going), 1), 1e9)
            if len(number):
                from_a = point[:, None] - a
                share = np.clip((from_a * axis).sum(-1) / np.maximum((axis * axis).sum(-1), 1e-12), 0, 1)
                away = np.concatenate([away, norm(from_a - share[..., None] * axis) - radius], 1)
            if solids:
                away = np.concatenate([away, self.away_from_boxes(point), point[:, 2:]], 1)
            nearest = away.argmin(1)
            step = away[np.arange(len(going)), nearest]
            is_capsule = (nearest > 0) & (nearest <= len(number))
            what[going] = np.where(is_capsule, np.append(number, -1)[np.where(is_capsule, nearest - 1, -1)], -1)
            distance[going] += np.maximum(step, 0)
            going = going[(step > 1e-4) & (distance[going] < 500)]
        distance[going] = np.nan  # grazes something
        what[distance >= 500] = -1
        return np.where(distance >= 500, np.inf, distance), what

    def away_from_boxes(self, point):
        boxes = self.boxes
        c, s = np.cos(boxes.yaw), np.sin(boxes.yaw)
        dx, dy = (point[:, None, i] - boxes.centre[:, i] for i in range(2))
        middle, half = 0.5 * (boxes.low + boxes.high), 0.5 * (boxes.high - boxes.low)
        local = np.stack([c * dx + s * dy, c * dy - s * dx, point[:, 2:] - middle], -1)
        return norm(np.maximum(np.abs(local) - np.concatenate([boxes.half, half[:, None]], 1), 0))


def norm(x):
    return np.linalg.norm(x, axis=-1)


def deepest(distance):
    """Metres that a joint may lie inside its own body: a trunk's radius, and a pixel, as skin may slant within one."""
    return 0.2 + distance / SMALL.camera.fx


def pixels(shot):
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    return shot.rays(np.stack([u, v], -1))


@pytest.fixture(scope="module")
def shots():
    return [Shot(index) for index in range(6)]


def to_the_corners(scene):
    """The first four people so near to the camera, and so far from the picture's middle, that they look distorted."""
    away = jnp.array([[x, y, 1.0] for x in (-0.8, 0.8) for y in (-0.4, 0.4)]) * jnp.array([[1.2], [2.0], [2.8], [1.6]])
    people = scene.joints[:4] - scene.joints[:4, SPINE4, None] + away[:, None]
    return scene._replace(joints=scene.joints.at[:4].set(people))


@pytest.mark.parametrize(("index", "change"), [(0, None), (1, None), (2, to_the_corners), (3, to_the_corners)])
def test_depth_and_people_are_what_marching_rays_meet(shots, index, change):
    shot = Shot(index, change) if change else shots[index]
    rays = pixels(shot)[1::3, 1::3].reshape(-1, 3)
    depth, person = (x[1::3, 1::3].ravel() for x in (shot.picture.depth, shot.picture.person))
    distance, what = shot.march(rays)
    clear = ~np.isnan(distance)
    assert clear.mean() > 0.99
    true_person = np.where(what >= 0, np.append(shot.owner, -1)[what], -1)
    both_sky = np.isinf(distance) & np.isinf(depth)
    with np.errstate(invalid="ignore"):
        near = both_sky | (np.abs(depth - distance) < 0.01 + 0.002 * depth)
    # A pixel or two may lie so near to an edge that rounding decides.
    assert (~near & clear).sum() <= 2
    assert ((person != true_person) & clear).sum() <= 2
    assert (person >= 0).sum() > 20


def test_flags_agree_with_rays_to_the_joints(shots):
    """Where the rays just around a joint agree with each other, its flags are those of brute force."""
    clear_occluded, clear_self, total = [], [], 0
    for shot in shots:
        where = np.argwhere(shot.inside)
        distance = shot.distance[shot.inside]
        hidden, deep = [], []
        for offset in 0.75 * np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]]):
            rays = shot.rays(shot.uv[shot.inside] + offset)
            own, rest = np.full(len(rays), np.inf), np.full(len(rays), np.inf)
            for p in np.unique(where[:, 0]):
                mine = where[:, 0] == p
                own[mine] = shot.march(rays[mine], shot.owner == p, solids=False)[0]
                rest[mine] = shot.march(rays[mine], shot.owner != p)[0]
            hidden.append(rest < np.minimum(own, distance))
            deep.append(distance - own)
        hidden, deep = np.stack(hidden), np.stack(deep)
        by_others, by_nobody = hidden.all(0), ~hidden.any(0)
        occluded, self_occluded = shot.picture.occluded[shot.inside], shot.picture.self_occluded[shot.inside]
        # Something in front by less than a body is thick may still be in front of the joint's own surface.
        np.testing.assert_array_equal(occluded[by_others], True)
        np.testing.assert_array_equal(occluded[by_nobody], False)
        # A joint lies in its own body, and no less deep than a limb's half thickness.
        behind = by_nobody & (deep > deepest(distance)).all(0)
        shallow = by_nobody & (deep < 0.04).all(0)
        np.testing.assert_array_equal(self_occluded[behind], True)
        np.testing.assert_array_equal(self_occluded[shallow], False)
        clear_occluded += [*occluded[by_others | by_nobody]]
        clear_self += [*self_occluded[behind | shallow]]
        total += len(where)
    assert len(clear_occluded) > 0.75 * total  # brute force had a say
    assert sum(clear_occluded) > 10 and sum(clear_self) > 10


def test_a_visible_joint_lies_on_its_own_body(shots):
    seen = []
    for shot in shots:
        visible = shot.inside & ~shot.picture.occluded & ~shot.picture.self_occluded
        column, row = np.floor(shot.uv[visible]).astype(int).T
        person = np.argwhere(visible)[:, 0]
        deep = shot.distance[visible] - shot.picture.depth[row, column]
        own = shot.picture.person[row, column] == person
        assert (deep[own] < deepest(shot.distance[visible][own])).all()
        assert (deep[~own] <= 0.0).all()  # beside the silhouette of its body: what is seen there is farther away
        # And then the silhouette is not far.
        near = [
            (shot.picture.person[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] == p).any()
            for r, c, p in zip(row[~own], column[~own], person[~own])
        ]
        assert np.mean(near) > 0.8 if near else True
        seen += [*own]
    assert len(seen) > 100 and np.mean(seen) > 0.85


def test_who_stands_exactly_behind_somebody_is_hidden(shots):
    """Twice as far and twice as tall, a body falls on the same pixels: each joint is hidden if that pixel is taken."""
    for shot in shots:
        first = int(np.argmax((shot.inside * (shot.distance < 12)).sum(1)))
        joints = jnp.zeros_like(shot.scene.joints).at[0].set(shot.scene.joints[first])
        joints = joints.at[1].set(2 * shot.scene.joints[first])
        scene = shot.scene._replace(joints=joints, present=jnp.arange(SMALL.max_people) < 2)
        picture = jax.tree.map(np.asarray, shoot(shot.stage, scene, 0))
        inside = shot.inside[first]
        column, row = np.floor(shot.uv[first][inside]).astype(int).T
        taken = picture.person[row, column] == 0
        assert taken.sum() >= 8
        assert picture.occluded[1][inside][taken].all()
        np.testing.assert_array_equal(picture.occluded[0], picture.occluded[0] & ~picture.self_occluded[0])


def test_joints_outside_the_picture_and_the_padding_have_no_flags(shots):
    assert any((~shot.inside[shot.present]).any() for shot in shots)
    for shot in shots:
        assert not shot.picture.occluded[~shot.inside].any()
        assert not shot.picture.self_occluded[~shot.inside].any()


def test_only_people_who_are_there_are_drawn(shots):
    for shot in shots:
        seen = np.unique(shot.picture.person)
        assert set(seen) <= {-1, *np.flatnonzero(shot.present)}
        assert not shot.present.all()  # there was padding to leave out


def test_the_ground_lies_where_the_camera_says(shots):
    """up @ xyz == -height on the ground; no ray above the horizon meets it, and each below it meets something."""
    for shot in shots:
        rays = pixels(shot)
        depth = shot.picture.depth
        down = -rays[..., 2]
        assert np.isfinite(depth[down > 1e-3]).all()
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = np.where(down > 1e-3, shot.height / down, np.inf)
            on_ground = np.abs(depth - ground) < 1e-3 * ground
        assert on_ground.mean() > 0.15
        assert (depth[down > 1e-3] <= 1.001 * ground[down > 1e-3]).all()
        sky = np.isinf(depth)
        assert (down[sky] < 1e-3).all()
        assert (shot.picture.person[sky] == -1).all()


def test_nobody_walks_through_anything(shots):
    for shot in shots:
        pelvis = shot.to_world(shot.sequence.joints[..., SPINE4, :])[np.asarray(shot.sequence.present)]
        feet = pelvis[:, :2]
        boxes = shot.boxes
        c, s = np.cos(boxes.yaw), np.sin(boxes.yaw)
        dx, dy = (feet[:, None, i] - boxes.centre[:, i] for i in range(2))
        in_box = (np.abs(c * dx + s * dy) < boxes.half[:, 0]) & (np.abs(c * dy - s * dx) < boxes.half[:, 1])
        assert not in_box.any()
        things = shot.stage.things
        standing = np.asarray((things.radius > 0) & (things.ends[:, 0, 2] < 0.5))
        away = norm(feet[:, None] - np.asarray(things.ends)[standing, 0, :2])
        assert (away > np.asarray(things.radius)[standing]).all()


def test_the_background_keeps_still(shots):
    """With the same stage and noise, frames differ from the empty street by people, seats and shadows alone."""
    for shot in shots[:2]:
        nobody = instant(shot.sequence)._replace(present=jnp.zeros(SMALL.max_people, bool))
        street = jax.tree.map(np.asarray, shoot(shot.stage, nobody, 0))
        last = jax.tree.map(np.asarray, shoot(shot.stage, instant(shot.sequence, FRAMES - 1), 0))
        assert (last.image != shot.picture.image).any()  # people moved
        for frame in (shot.picture, last):
            same_thing = (frame.person == -1) & (frame.depth == street.depth)
            assert same_thing.mean() > 0.3
            change = frame.image[same_thing].astype(int) - street.image[same_thing]
            assert change.max() <= 1  # a shadow only darkens
            assert (np.abs(change) <= 1).all(axis=1).mean() > 0.8


def test_an_empty_street(shots):
    shot = shots[0]
    scene = shot.scene._replace(
        joints=jnp.zeros_like(shot.scene.joints),
        present=jnp.zeros_like(shot.scene.present),
        person_id=jnp.full_like(shot.scene.person_id, -1),
    )
    picture = jax.tree.map(np.asarray, shoot(shot.stage, scene, 0))
    assert (picture.person == -1).all()
    assert not picture.occluded.any() and not picture.self_occluded.any()
    assert picture.image.std(axis=(0, 1)).min() > 5  # it is a picture of something
    assert not np.isnan(picture.depth).any()


def test_keys_decide(shots):
    shot = shots[0]
    again = jax.tree.map(np.asarray, shoot(shot.stage, shot.scene, 0))
    jax.tree.map(np.testing.assert_array_equal, again, shot.picture)
    other = jax.tree.map(np.asarray, shoot(shot.stage, shot.scene, 1))
    for name in ("depth", "person", "occluded", "self_occluded"):  # the sensor's noise changes none of them
        np.testing.assert_array_equal(getattr(other, name), getattr(shot.picture, name))
    noise = other.image.astype(int) - shot.picture.image
    assert 0 < np.abs(noise).mean() < 12
    assert abs(noise.mean()) < 0.5
    assert (np.abs(shots[1].picture.image.astype(int) - shot.picture.image).mean(axis=(0, 1)) > 2).any()


def test_several_at_once_are_the_same(shots):
    """Pictures and tiles side by side, as on a GPU; 40 tiles in two batches."""

    def shoot(stage, scene, seed):
        return crowds.render(stage, scene, SMALL, jax.random.key(seed), tiles_at_once=20)

    two = jax.tree.map(lambda *x: jnp.stack(x), *[(shot.stage, shot.scene, 0) for shot in shots[:2]])
    pictures = jax.jit(jax.vmap(shoot))(*two)
    for i, shot in enumerate(shots[:2]):
        one = jax.tree.map(lambda x, i=i: np.asarray(x[i]), pictures)
        off = np.abs(one.image.astype(int) - shot.picture.image).max(axis=-1)
        assert (off <= 2).mean() > 0.999  # rounding may put an edge elsewhere
        assert (one.person == shot.picture.person).mean() > 0.999
        assert (one.occluded == shot.picture.occluded).mean() > 0.99


@pytest.mark.parametrize("crowd", [crowds.FULL, crowds.DEMO])
def test_shapes_at_both_scales(crowd):
    key = jax.random.key(0)
    scene = jax.eval_shape(functools.partial(crowds.sample_scene, crowd=crowd), key)
    picture = jax.eval_shape(functools.partial(crowds.take_picture, crowd=crowd), key, scene)
    height, width = crowd.volume.image_size
    like = {name: (x.shape, x.dtype) for name, x in picture._asdict().items()}
    assert like == {
        "image": ((height, width, 3), jnp.uint8),
        "depth": ((height, width), jnp.float32),
        "person": ((height, width), jnp.int32),
        "occluded": ((crowd.max_people, 22), jnp.bool),
        "self_occluded": ((crowd.max_people, 22), jnp.bool),
    }
