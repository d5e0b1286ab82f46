"""The page: its data, its ground, and what a browser makes of it."""

import base64
import html
import io
import json
import re
import subprocess
import time

import numpy as np
import pytest
from PIL import Image, ImageColor

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera, project_on_host
from loco_jax.media import overlays
from loco_jax.predict import page
from loco_jax.predict.people import to_people
from tests.predict.chromium import BROWSER, OPTIONS, Chromium, in_browser
from tests.support.upright import BODY, bodies, tilted

CAMERA, SIZE = Camera(600.0, 600.0, 400.0, 300.0), (600, 800)
NASTY = "</script><script>console.error('x')</script><!-- {{data}} {{title}} & \"quotes\" 'ü' \u2028 \udcff"


def crowd(places, rotation=None, height=1.6, ids=None):
    """People standing at `places` (metres right of and ahead of the camera's foot)."""
    joints = bodies(places, rotation, height)
    return to_people(joints, np.full(joints.shape[:2], 0.9), CAMERA, ids)


def frames_of(*people, fps=1.0):
    """Frames, each a list of people."""
    frames = page.Frames()
    for number, them in enumerate(people):
        frames.add(number, them, number / fps)
    return frames


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
    photos = page.Pictures()
    for i in range(40):
        photos.add(i, np.zeros((20, 30, 3), np.uint8))
        assert len(photos.kept) <= 6 and 0 in photos.kept
    assert list(photos.kept) == [0, 8, 16, 24, 32]


# ---- In a browser


def visit(tmp_path, text, script="", dump=False):
    """The console's lines, and the screenshot `[H, W, 3]` or the document after `script` ran in the page."""
    if script:
        text = text.replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    what = "--dump-dom" if dump else f"--screenshot={tmp_path / 'shot.png'}"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, what, (tmp_path / "page.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, errors="replace")
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    if dump:
        return console, ran.stdout
    return console, np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)


def count(shot, colour, tolerance=8):
    return (
        np.abs(shot - np.array(colour if isinstance(colour, tuple) else ImageColor.getrgb(colour))).max(axis=-1)
        <= tolerance
    ).sum()


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
        out.push([shown.chosen, screen(p.middle).slice(0, 2), ...middleOfFree()]);
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
        expected = project_on_host(camera, person.joints)
        np.testing.assert_allclose(seen[:, 0], view["left"] + view["scale"] * expected[:, 0], atol=0.5)
        np.testing.assert_allclose(seen[:, 1], view["top"] + view["scale"] * expected[:, 1], atol=0.5)
    assert view["mode"] == mode == "camera" and later == "orbit"


@in_browser
def test_a_video_plays_at_its_own_pace(tmp_path):
    """The pace is not even: ten frames a second, and a rest of a second after the fifth."""
    frames = page.Frames()
    for t in range(10):
        frames.add(t, crowd([(0.3 * t, 6)], ids=[1]) if t < 9 else [], t / 10 + (t > 4))
    text = page.to_html("v.mp4", frames, CAMERA, SIZE, {0: picture(), 4: picture("red")})
    out = ask(
        tmp_path,
        text,
        """
        const panel = () => [$("number").textContent, $("now").textContent, $("count").textContent];
        out.push([...panel(), $("time").offsetHeight > 20, $("slider").max, shown.people[0].middle[0]]);
        press("."); press(".");
        out.push([shown.frame, shown.people[0].middle[0]]);
        show(9);
        out.push([...panel(), shown.people.length]);
        let now = 0, next = null;
        performance.now = () => now;
        window.requestAnimationFrame = step => { next = step; };
        const at = (frame, times) => {
          play(false); next = null; now = 0;
          show(frame); play(true);
          return times.map(t => { now = t; next?.(now); return shown.frame; });
        };
        out.push(at(0, [0, 150, 420, 1300, 1520]));
        $("speed").value = "2"; out.push(at(0, [0, 80, 260, 740, 760]));
        $("speed").value = "0.25"; out.push(at(2, [0, 390, 410, 1190, 1210]));
        $("speed").value = "1"; out.push([at(0, [1890, 1910]), playing === null]);
        toggle("loop"); out.push([at(0, [1890, 1910, 2100, 2120, 2230]), playing === null, at(9, [10])]);
        """,
    )
    assert out[0] == ["0 of 9", "0.00 s", "1 person, 6.0 m away", True, "9", pytest.approx(0, abs=1e-3)]
    assert out[1] == [2, pytest.approx(0.6, abs=1e-3)]
    assert out[2] == ["9 of 9", "1.90 s", "No people in this frame", 0]
    assert out[3] == [0, 1, 4, 4, 5]
    assert out[4] == [0, 1, 4, 4, 5] and out[5] == [2, 2, 3, 4, 5 - 1]
    assert out[6] == [[8, 9], True]
    # The last frame stays for the mean time of a frame, 1.9 s / 9.
    assert out[7] == [[8, 9, 9, 0, 1], False, [0]]


@in_browser
def test_paths_are_where_the_hips_were_in_the_last_two_seconds(tmp_path):
    """The second person enters after the first second; the first is not found for a while."""
    frames = page.Frames()
    for t in range(40):
        places = {1: (0.1 * t, 6)} if not 30 <= t < 34 else {}
        places |= {2: (-2, 12 - 0.1 * t)} if t >= 10 else {}
        people = crowd(places.values(), tilted(0.2), height=3.0, ids=list(places))
        for person in people:
            person.joints[skeleton.JOINTS.index("left_wrist")] += 0.1 * t  # no hip
        frames.add(t, people, t / 10)
    pathways = ask(
        tmp_path,
        page.to_html("v.mp4", frames, CAMERA, SIZE),
        "for (const t of [0, 12, 39]) { show(t); out.push(shown.people.map(p => [p.id, pathOf(p)])); }",
    )
    for t, people in zip((0, 12, 39), pathways):
        assert [person for person, _ in people] == ([1, 2] if t else [1])
        for person, path in people:
            then = [s for s in range(t, max(t - 20, 0) - 1, -1) if (s >= 10 if person == 2 else not 30 <= s < 34)]
            places = [(0.1 * s, 0, 6) if person == 1 else (-2, 0, 12 - 0.1 * s) for s in then]
            np.testing.assert_allclose([place for place, _ in path], places, atol=0.05)
            np.testing.assert_allclose([age for _, age in path], [(t - s) / 10 for s in then], atol=1e-6)


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


# ---- Driven by hand

TINTS = {t: (30 + 5 * t, 220 - 5 * t, 90) for t in range(0, 40, 4)}  # the pictures, by frame
# Notes what is in a corner of the panel's picture each time that it is drawn.
WATCH = """
const corners = [], once = drawStill;
drawStill = ratio => {
  once(ratio);
  corners.push([shown.frame, ...stillPen.getImageData(3, still.height - 4, 1, 1).data]);
};
"""


def street(seconds=4, pictures=True):
    """Three people crossing each other's way, ten frames a second; and the page's text."""
    shots = [crowd([(0.1 * t - 2, 8), (1 - 0.1 * t, 10), (0.5, 6)], tilted(0.2), 3.0) for t in range(10 * seconds)]
    photos = {t: picture(tint, (120, 160)) for t, tint in TINTS.items()} if pictures else {}
    return shots, page.to_html("v.mp4", frames_of(*shots, fps=10), CAMERA, SIZE, photos, ["a note"])


def opened(tmp_path, text):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    return Chromium(tmp_path, (tmp_path / "page.html").as_uri())


def tint_of(frame):
    return TINTS[max(number for number in TINTS if number <= frame)]


def cut(shot, box):
    left, top, right, bottom = (round(x) for x in box)
    return shot[top:bottom, left:right]


def scene_of(shot):
    return shot[110:-110, :550]


@in_browser
def test_play_pause_and_scrub_by_hand(tmp_path):
    """The picture beside the scene is that of the frame, or the last one before it, and never blank."""
    with opened(tmp_path, street()[1]) as browser:
        browser.wait("stillPen.getImageData(3, still.height - 4, 1, 1).data[3] === 255")
        browser.value(WATCH)
        browser.click("#slider", 0.95)  # its picture is not loaded yet
        browser.screenshot()
        corners = browser.value("corners.splice(0)")
        assert corners[-1][0] > 35 and all(corner[-1] == 255 for corner in corners)
        np.testing.assert_allclose(corners[-1][1:4], tint_of(corners[-1][0]), atol=6)
        browser.click("#slider", 0)
        browser.screenshot()
        browser.value("corners.splice(0)")
        browser.click("#play")
        assert browser.value('$("play").getAttribute("aria-label")') == "Pause"
        browser.wait("shown.frame > 14")
        browser.press(" ")  # the button has the focus
        frame = browser.value("shown.frame")
        assert frame < 39 and browser.value('$("play").getAttribute("aria-label")') == "Play"
        time.sleep(0.3)
        assert browser.value("shown.frame") == frame
        browser.click("#slider", 0.35)
        scrubbed = browser.value("shown.frame")
        assert 12 <= scrubbed <= 15 and browser.value('$("now").textContent') == f"{scrubbed / 10:.2f} s"
        browser.press(",")
        browser.wait(f"shown.frame === {scrubbed - 1}")
        browser.press(" ")  # the slider has the focus
        browser.wait(f"shown.frame > {scrubbed + 1}")
        browser.value('$("speed").focus()')
        browser.press(" ")
        assert browser.value('$("play").getAttribute("aria-label")') == "Play"
        browser.screenshot()
        drawn = browser.value("corners")
        assert len({frame for frame, *_ in drawn}) > 5
        for frame, *corner in drawn:
            np.testing.assert_allclose(corner, [*tint_of(frame), 255], atol=6, err_msg=str(frame))
        assert browser.errors == []


@in_browser
def test_who_is_chosen_is_marked_in_the_scene_and_in_the_picture(tmp_path):
    shots, text = street()
    with opened(tmp_path, text) as browser:
        colours = [overlays.colour(person.id) for person in shots[0]]

        def seen():
            shot = browser.screenshot()
            return [[count(part, c) for c in colours] for part in (scene_of(shot), cut(shot, browser.box("#still")))]

        before = seen()
        assert np.min(before) > 15
        # By the camera: the middle of the right thigh in the panel.
        left, top, right, _ = browser.box("#still")
        ends = [skeleton.JOINTS.index(f"right_{name}") for name in ("hip", "knee")]
        thigh = shots[0][1].pixels[ends].mean(axis=0) * (right - left) / SIZE[1] + [left, top]
        browser.move(*thigh)
        for colour in (0, 2):
            assert all(now[colour] < 0.4 * then[colour] for now, then in zip(seen(), before))
        assert all(now[1] >= 0.8 * then[1] for now, then in zip(seen(), before))
        assert browser.value('$("tip").textContent').startswith("Person 2 ")
        browser.move(300, 500)
        assert seen() == before
        browser.press("c")
        browser.click(thigh)
        assert browser.value("shown.chosen") == 2
        browser.click("#people button:nth-child(3)")
        assert browser.value("shown.chosen") == 3
        browser.move(300, 500)
        assert all(now[0] < 0.4 * then[0] for now, then in zip(seen()[1:], before[1:]))
        browser.click("#play")
        browser.click("#people button:nth-child(1)", hold="shown.frame > 2")
        assert browser.value("[shown.chosen, playing !== null]") == [1, True]
        browser.click("#play")
        browser.press("Escape")
        browser.move(*browser.value("project(eyeOf(view), shown.people[2].middle).slice(0, 2)"))
        assert browser.value("shown.hovered") == 3 and browser.errors == []


@in_browser
def test_parts_are_turned_off_and_on(tmp_path):
    with opened(tmp_path, street()[1]) as browser:
        browser.value("show(35)")
        with_paths = browser.screenshot()
        browser.press("w")
        without = browser.screenshot()
        assert (np.abs(scene_of(with_paths) - scene_of(without)).max(axis=-1) > 30).sum() > 50
        browser.click("#show_paths")
        assert (browser.screenshot() == with_paths)[:-110].all()
        browser.press("b")
        assert browser.value('[$("photo").hidden, $("show_beside").ariaPressed]') == [True, "false"]
        alone = browser.value("Math.max(...shown.people.map(p => project(eyeOf(view), p.middle)[0]))")
        browser.click("#show_beside")
        assert not browser.value('$("photo").hidden')
        assert alone > browser.value("Math.max(...shown.people.map(p => project(eyeOf(view), p.middle)[0]))") + 50
        tinted = lambda shot: count(cut(shot, browser.box("#still")), TINTS[32], 12)  # noqa: E731
        small = tinted(browser.screenshot())
        browser.click("#larger")
        assert tinted(browser.screenshot()) > 1.8 * small > 10_000
        browser.press("l")
        assert tinted(browser.screenshot()) == pytest.approx(small, rel=0.02)
        browser.press("p")
        assert browser.value("shown.picture") and browser.errors == []


@in_browser
@pytest.mark.parametrize("pictures", [True, False])
def test_panels_do_not_cover_each_other(tmp_path, pictures):
    with opened(tmp_path, street(1, pictures)[1]) as browser:
        for size in ((1200, 800), (800, 600), (700, 420), (400, 700)):
            browser.resize(*size)
            for _ in range(2):
                parts = ["#about", "#people", "#tools", "#time"] + pictures * ["#photo"]
                boxes = {part: browser.box(part) for part in parts}
                boxes = {part: box for part, box in boxes.items() if box[2] > box[0]}
                assert len(boxes) == len(parts) - (size[0] < 640)  # no list of people on a phone
                for a, (left, top, right, bottom) in boxes.items():
                    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1], (a, size)
                    for b, (left2, top2, right2, bottom2) in boxes.items():
                        apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
                        assert a == b or apart, (a, b, size)
                # Everybody is where no panel is.
                places = np.array(browser.value("shown.people.map(p => project(eyeOf(view), p.middle))"))[:, :2]
                for left, top, right, bottom in boxes.values():
                    assert not ((places > (left, top)) & (places < (right, bottom))).all(axis=-1).any(), size
                browser.press("l")
        assert browser.errors == []
