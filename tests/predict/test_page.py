"""The page: its data, its ground, and what a browser makes of it."""

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageColor

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import overlays
from loco_jax.predict import page
from loco_jax.predict.people import project, to_people

CAMERA, SIZE = Camera(600.0, 600.0, 400.0, 300.0), (600, 800)
NASTY = "</script><script>console.error('x')</script><!-- {{data}} {{title}} & \"quotes\" 'ü' \u2028 \udcff"

# Somebody standing, facing us: x right, y up, z towards us, from the point between the feet.
STANDING = {
    "head_top": (0, 1.75, 0), "neck": (0, 1.48, 0),
    "right_shoulder": (-0.2, 1.43, 0), "right_elbow": (-0.26, 1.13, 0), "right_wrist": (-0.3, 0.88, 0.1),
    "left_shoulder": (0.2, 1.43, 0), "left_elbow": (0.26, 1.13, 0), "left_wrist": (0.3, 0.88, 0.1),
    "right_hip": (-0.11, 0.93, 0), "right_knee": (-0.13, 0.5, 0.05), "right_ankle": (-0.14, 0.08, 0),
    "left_hip": (0.11, 0.93, 0), "left_knee": (0.13, 0.5, 0.05), "left_ankle": (0.14, 0.08, 0),
}  # fmt: skip
BODY = np.array([STANDING[name] for name in skeleton.JOINTS])


def tilted(angle, roll=0.0):
    """Rows: right, up and ahead of the world, in the axes of a camera that looks down by `angle` and is rolled."""
    s, c = math.sin(angle), math.cos(angle)
    world = np.array([[1, 0, 0], [0, -c, -s], [0, -s, c]])
    return world @ np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])


def crowd(places, rotation=None, height=1.6, ids=None):
    """People standing at `places` (metres right of and ahead of the camera's foot)."""
    rotation = tilted(0.0) if rotation is None else rotation
    rows = []
    for x, z in places:
        world = np.array([x, -height, z]) + BODY * [1, 1, -1]
        rows.append(world @ rotation)
    joints = np.array(rows).reshape(-1, 14, 3)
    return to_people(joints, np.full(joints.shape[:2], 0.9), CAMERA, ids)


def frames_of(*people, fps=1.0):
    """Frames, each a list of people."""
    frames = page.Frames()
    for number, them in enumerate(people):
        frames.add(number, them, number / fps)
    return frames


def joints_of(people):
    return np.array([person.joints for person in people]).reshape(-1, 14, 3)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def picture(colour="white", size=SIZE):
    return page.jpeg(np.array(Image.new("RGB", size[::-1], colour)))


# ---- The data


def test_the_page_has_what_was_given():
    people = crowd([(0, 5), (1, 9)], ids=[3, 14])
    joints = people[0].joints.copy()
    joints[4] = np.nan
    people[0] = people[0]._replace(joints=joints, scores=np.where(np.arange(14) == 7, 0, 0.9))
    frames = frames_of(people, [], fps=25)
    data = data_of(page.to_html("a.jpg", frames, CAMERA, SIZE, {0: picture("red")}, ["a note"]))
    assert (data["name"], data["notes"], data["times"], data["size"]) == ("a.jpg", ["a note"], [0, 0.04], [800, 600])
    assert [p["id"] for p in data["frames"][0]] == [3, 14] and data["frames"][1] == []
    first = data["frames"][0][0]
    assert first["joints"][4] is None and first["seen"][7] == 0 and sum(first["seen"]) == 13
    np.testing.assert_allclose(
        np.delete(np.array(first["joints"], object), 4, 0).tolist(), 1000 * np.delete(joints, 4, 0), atol=0.6
    )
    url = data["pictures"]["0"]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))))
    assert decoded.shape == (600, 800, 3) and np.abs(decoded[0, 0].astype(int) - (255, 0, 0)).max() < 5


@pytest.mark.parametrize("name", [NASTY, "", "a" * 300, "{{data}}"])
def test_names_are_only_text(name):
    text = page.to_html(name, frames_of(crowd([(0, 5)])), CAMERA, SIZE, notes=[name])
    text.encode("utf-8")  # can be written
    assert data_of(text)["name"] == name and data_of(text)["notes"] == [name]
    empty = page.to_html("", frames_of(crowd([(0, 5)])), CAMERA, SIZE, notes=[""])
    assert text.count("<script") == empty.count("<script") and text.count("</script") == empty.count("</script")
    title = re.search("<title>(.*?)</title>", text, re.S)[1]
    assert html.unescape(title) == name.encode("utf-8", "replace").decode()


def test_the_page_needs_no_network():
    text = page.to_html("a.jpg", frames_of(crowd([(0, 5)])), CAMERA, SIZE, {0: picture()})
    assert not re.search(r"https?:|//\w+\.\w|@import|<link|\bsrc=|fetch\(|XMLHttpRequest|url\(", text)
    assert "default-src 'none'" in text


def test_long_videos_are_thinned(monkeypatch):
    monkeypatch.setattr(page, "MOST_FRAMES", 10)
    frames = frames_of(*[crowd([(0, 5)])] * 25, fps=10)
    data = data_of(page.to_html("v.mp4", frames, CAMERA, SIZE))
    assert data["numbers"] == list(range(0, 25, 4)) and len(data["frames"]) == len(frames.kept) == 7
    assert data["times"] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4])
    monkeypatch.setattr(page, "MOST_PICTURES", 6)
    photos = page.Pictures(width=16)
    for i in range(40):
        photos.add(i, np.zeros((20, 30, 3), np.uint8))
        assert len(photos.kept) <= 6 and 0 in photos.kept
    assert list(photos.kept) == [0, 8, 16, 24, 32]


# ---- The ground


@pytest.mark.parametrize("angle", [-0.1, 0.0, 0.3, 0.8])
@pytest.mark.parametrize("roll", [0.0, 0.15])
@pytest.mark.parametrize("places", [[(0, 6)], [(-3, 5), (2, 8), (0, 20), (5, 12)]], ids=["one", "four"])
def test_the_ground_is_where_people_stand(angle, roll, places):
    rotation = tilted(angle, roll)
    up, height = page.ground(joints_of(crowd(places, rotation, height=4.0)))
    np.testing.assert_allclose(up, rotation[1], atol=0.01)
    assert height == pytest.approx(4.0, abs=0.05)


def test_the_ground_bears_noise_holes_and_somebody_in_the_air():
    rng = np.random.default_rng(0)
    rotation = tilted(0.35)
    people = crowd(rng.uniform([-8, 4], [8, 25], (12, 2)), rotation, height=5.0)
    for i, person in enumerate(people):
        joints = person.joints + rng.normal(0, 0.08, (14, 3))
        joints[rng.random(14) < 0.2] = np.nan
        people[i] = person._replace(joints=joints - (3 * rotation[1] if i == 4 else 0))
    up, height = page.ground(joints_of(people))
    assert math.degrees(math.acos(up @ rotation[1])) < 3 and height == pytest.approx(5.0, abs=0.4)


def test_the_ground_without_feet_or_people():
    up, height = page.ground(joints_of([]))
    assert up.tolist() == [0, -1, 0] and height > 1
    (person,) = crowd([(0, 3)], height=1.6)
    joints = person.joints.copy()
    joints[[skeleton.JOINTS.index(f"{side}_ankle") for side in ("left", "right")]] = np.nan
    up, height = page.ground(joints_of([person._replace(joints=joints)]))
    assert up.tolist() == [0, -1, 0] and height > 1
    nothing = person._replace(joints=np.full((14, 3), np.nan))
    assert np.isfinite(page.ground(joints_of([nothing])).up).all()
    lying = person._replace(joints=person.joints[:, [0, 2, 1]])
    assert math.acos(-page.ground(joints_of([lying])).up[1]) < math.radians(66)


# ---- In a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars --force-device-scale-factor=1 "
    "--force-prefers-reduced-motion --window-size=900,700"
)
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


def visit(tmp_path, text, script="", dump=False):
    """The console's lines, and the screenshot `[H, W, 3]` or the document after `script` ran in the page."""
    if script:
        text = text.replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    what = "--dump-dom" if dump else f"--screenshot={tmp_path / 'shot.png'}"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [BROWSER, *OPTIONS.split(), profile, what, (tmp_path / "page.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, errors="replace")
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    if dump:
        return console, ran.stdout
    return console, np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)


def count(shot, colour, tolerance=8):
    return (np.abs(shot - ImageColor.getrgb(colour)).max(axis=-1) <= tolerance).sum()


def panels_apart(shot):
    """Without the panels at the top and at the bottom, which have the colours too."""
    return shot[110:-70, :700]


@in_browser
def test_people_are_seen_in_their_colours(tmp_path):
    people = crowd([(-1.5, 6), (0, 7), (1.5, 8)], tilted(0.2), height=3.0)
    text = page.to_html("street.jpg", frames_of(people), CAMERA, SIZE, {0: picture("#12F034")}, notes=["a note"])
    console, shot = visit(tmp_path, text)
    assert console == []
    for person in people:
        assert count(panels_apart(shot), overlays.colour(person.id)) > 150
        assert count(panels_apart(shot), overlays.paler(overlays.colour(person.id))) > 40
    assert count(panels_apart(shot), overlays.colour(4)) < 5
    green = (shot[..., 1] - shot[..., 0] > 60) & (shot[..., 1] - shot[..., 2] > 60)
    assert green.sum() > 3000  # the picture
    assert count(shot, "#9fb0c0", 16) > 100  # rings on the ground


@in_browser
def test_an_empty_page_with_a_nasty_name(tmp_path):
    console, shot = visit(tmp_path, page.to_html(NASTY, frames_of([]), CAMERA, SIZE, {0: picture()}, notes=[NASTY]))
    assert console == []
    assert all(count(panels_apart(shot), colour) < 5 for colour in overlays.COLOURS)
    assert count(shot, "#9fb0c0", 16) > 100


CHECK = """
const out = [];
const pointer = (type, x, y, more = {}) => canvas.dispatchEvent(new PointerEvent(type,
  { clientX: x, clientY: y, pointerId: 1, bubbles: true, ...more }));
const press = key => dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const state = () => ({ ...view, target: [...view.target] });
const screen = p => project(eyeOf(view), p);
window.onerror = message => out.push("error: " + message);
%s
const box = Object.assign(document.createElement("pre"), { id: "out", textContent: JSON.stringify(out) });
document.body.replaceChildren(box);
"""


def ask(tmp_path, text, script):
    console, document = visit(tmp_path, text, CHECK % script, dump=True)
    assert console == []
    return json.loads(html.unescape(re.search('<pre id="out">(.*?)</pre>', document, re.S)[1]))


@in_browser
def test_mouse_fingers_and_keys(tmp_path):
    """Drags turn, the wheel and two fingers zoom, Shift moves, R resets; hovering tells who it is."""
    people = crowd([(-1, 6), (1, 8)], tilted(0.2), height=3.0)
    text = page.to_html("a.jpg", frames_of(people), CAMERA, SIZE, {0: picture()})
    out = ask(
        tmp_path,
        text,
        """
        out.push(state());
        pointer("pointerdown", 300, 300); pointer("pointermove", 350, 330); pointer("pointerup", 350, 330);
        out.push(state());
        canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, clientX: 450, clientY: 300 }));
        out.push(state());
        pointer("pointerdown", 300, 300); pointer("pointermove", 340, 300, { shiftKey: true });
        pointer("pointerup", 340, 300);
        out.push(state());
        pointer("pointerdown", 300, 300); pointer("pointerdown", 400, 300, { pointerId: 2 });
        pointer("pointermove", 500, 300, { pointerId: 2 }); pointer("pointerup", 300, 300);
        pointer("pointerup", 500, 300, { pointerId: 2 });
        out.push(state());
        press("R");
        out.push(state());
        const p = shown.people[1], at = screen(mix(p.points[JOINT.right_hip], p.points[JOINT.right_knee], 0.5));
        pointer("pointermove", at[0], at[1]);
        out.push([$("tip").style.display, $("tip").textContent, shown.hovered]);
        pointer("pointermove", 5, 600);
        out.push([$("tip").style.display, shown.hovered]);
        pointer("pointerdown", at[0], at[1]); pointer("pointerup", at[0], at[1]);
        out.push([shown.chosen, screen(p.middle).slice(0, 2), width / 2, height / 2]);
        """,
    )
    start, turned, near, moved, pinched, reset, tip, away, chosen = out
    assert (
        turned["yaw"] != start["yaw"] and turned["pitch"] > start["pitch"] and turned["distance"] == start["distance"]
    )
    assert near["distance"] < turned["distance"] and near["yaw"] == turned["yaw"]
    assert moved["target"] != near["target"] and moved["distance"] == near["distance"] and moved["yaw"] == near["yaw"]
    assert pinched["distance"] == pytest.approx(moved["distance"] / 2)
    assert reset == start
    distance = float(np.linalg.norm(people[1].joints.mean(0)))
    assert tip == ["block", f"Person 2 · {distance:.1f} m away · score 0.90", 2] and away == ["none", None]
    assert chosen[0] == 2 and chosen[1] == pytest.approx(chosen[2:], abs=1)


@in_browser
def test_the_cameras_view_and_the_worlds_axes(tmp_path):
    """From the camera, everybody stands on their own pixels; and on the ground, whose up is up."""
    people = crowd([(-1, 6), (1, 8), (2, 15)], tilted(0.25, 0.05), height=3.0)
    camera = Camera(600.0, 550.0, 380.0, 310.0)
    text = page.to_html("a.jpg", frames_of(people), camera, SIZE, {0: picture()})
    out = ask(
        tmp_path,
        text,
        """
        out.push(shown.people.map(p => p.points));
        press("c");
        out.push(state(), shown.people.map(p => p.points.map(screen)));
        zoom(2, 100, 100);
        out.push(view.mode);
        orbit(10, 10);
        out.push(view.mode);
        """,
    )
    world, view, pixels, mode, later = out
    for person, points, seen in zip(people, np.array(world), np.array(pixels)):
        np.testing.assert_allclose(points[:, 1], BODY[:, 1], atol=0.08)
        expected = project(camera, person.joints)
        np.testing.assert_allclose(seen[:, 0], view["left"] + view["scale"] * expected[:, 0], atol=0.5)
        np.testing.assert_allclose(seen[:, 1], view["top"] + view["scale"] * expected[:, 1], atol=0.5)
    assert view["mode"] == mode == "camera" and later == "orbit"


@in_browser
def test_a_video_plays(tmp_path):
    """At its own pace, which is not even: ten frames a second, and a rest of a second after the fifth."""
    frames = page.Frames()
    for t in range(10):
        frames.add(t, crowd([(0.3 * t, 6)], ids=[1]) if t < 9 else [], t / 10 + (t > 4))
    text = page.to_html("v.mp4", frames, CAMERA, SIZE, {0: picture(), 4: picture("red")})
    out = ask(
        tmp_path,
        text,
        """
        out.push([$("time").style.display, $("slider").max, $("now").textContent, shown.people[0].middle[0]]);
        press("."); press(".");
        out.push([shown.frame, shown.people[0].middle[0]]);
        $("slider").value = 9; $("slider").dispatchEvent(new Event("input"));
        out.push([shown.frame, shown.people.length, $("count").textContent, $("now").textContent]);
        press(","); draw();
        press(" ");
        out.push($("play").getAttribute("aria-label"));
        press(" ");
        out.push($("play").getAttribute("aria-label"));
        let now = 0, next = null;
        performance.now = () => now;
        window.requestAnimationFrame = step => { next = step; };
        show(0);
        play(true);
        out.push([0, 150, 420, 1300, 1520].map(t => { now = t; next(now); return shown.frame; }));
        """,
    )
    assert out[0] == ["flex", "9", "frame 0 of 9 · 0.00 s", pytest.approx(0, abs=1e-3)]
    assert out[1] == [2, pytest.approx(0.6, abs=1e-3)]
    assert out[2] == [9, 0, "No people in this frame", "frame 9 of 9 · 1.90 s"]
    assert out[3:5] == ["Pause", "Play"]
    assert out[5] == [0, 1, 4, 4, 5]


@in_browser
def test_a_crowd_with_holes(tmp_path):
    rng = np.random.default_rng(0)
    people = crowd(rng.uniform([-12, 4], [12, 40], (60, 2)), tilted(0.3), height=6.0)
    for i, person in enumerate(people):
        joints = person.joints.copy()
        joints[rng.random(14) < 0.5] = np.nan
        people[i] = person._replace(joints=joints)
    people[7] = people[7]._replace(joints=np.full((14, 3), np.nan))
    people[8] = people[8]._replace(joints=np.where(np.arange(14)[:, None] == 3, people[8].joints[3:4], np.nan))
    console, shot = visit(tmp_path, page.to_html("crowd.jpg", frames_of(people), CAMERA, SIZE))
    assert console == []
    assert all(count(panels_apart(shot), colour) > 20 for colour in overlays.COLOURS)


@in_browser
def test_a_long_video_opens_at_once_with_everybody_in_view(tmp_path):
    """Counted in points brought to the screen: a second of them would be a few millions."""
    rng = np.random.default_rng(0)
    frames = [crowd(rng.uniform([-8, 4], [8, 20], (30, 2)), tilted(0.3), height=6.0) for _ in range(100)]
    calls, outside, points = ask(
        tmp_path,
        page.to_html("v.mp4", frames_of(*frames), CAMERA, SIZE),
        """
        let calls = 0;
        const once = project;
        project = (eye, p) => { calls++; return once(eye, p); };
        Object.assign(view, home());
        out.push(calls);
        const there = crowd.flatMap(p => [[p.middle[0], 0, p.middle[2]], add(p.middle, [0, 1, 0])]).map(screen);
        out.push(there.filter(q => !q || q[0] < 15 || q[0] > width - 190 || q[1] < 80 || q[1] > height - 110).length);
        out.push(there.length);
        """,
    )
    assert calls < 150_000 and points == 2 * 100 * 30 and outside < 0.005 * points


@in_browser
def test_labels_do_not_overlap_where_people_stand_close(tmp_path):
    """Each label that there is room for is near its person's head; the person chosen always has one."""
    people = crowd(np.random.default_rng(0).uniform([-1.2, 6], [1.2, 9], (20, 2)), tilted(0.2), height=3.0)
    alone, near, afar, chosen = ask(
        tmp_path,
        page.to_html("a.jpg", frames_of(people), CAMERA, SIZE),
        """
        const boxes = people => placeIds(eyeOf(view), people).map(
          l => [l.p.id, l.x, l.y, l.x + l.w, l.y + LABEL, l.at]);
        const all = shown.people;
        out.push(boxes([all[0]]), boxes(all));
        view.distance *= 10;  // too far for all labels
        const afar = boxes(all);
        shown.chosen = all.find(p => !afar.some(b => b[0] === p.id)).id;
        out.push(afar, [shown.chosen, boxes(all)]);
        """,
    )
    _, left, top, right, bottom, at = alone[0]
    assert left + right == pytest.approx(2 * at[0]) and 0 < at[1] - bottom < 5
    assert len(near) >= 18 and len(afar) < 20 and chosen[0] in [box[0] for box in chosen[1]]
    for boxes in (near, afar, chosen[1]):
        for i, (_, left, top, right, bottom, at) in enumerate(boxes):
            assert abs(left + right - 2 * at[0]) < 80 and 0 < at[1] - bottom < 80
            for _, left2, top2, right2, bottom2, _ in boxes[:i]:
                assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
