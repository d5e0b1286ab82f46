"""Scores of tracks beside those of TrackEval, and by hand: identities that swap, people who come and go, jolts."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_jax.pose import track_metrics
from loco_jax.pose.track_metrics import Identified

with contextlib.redirect_stdout(io.StringIO()):  # it says which of its other parts cannot be used
    from trackeval.metrics import CLEAR, HOTA, Identity

seeds = st.integers(0, 10**6)
HOTAS = {
    "hota": "HOTA", "det_a": "DetA", "ass_a": "AssA", "loc_a": "LocA", "det_re": "DetRe", "det_pr": "DetPr",
    "ass_re": "AssRe", "ass_pr": "AssPr",
}  # fmt: skip
OTHERS = {
    "mota": "MOTA", "switches": "IDSW", "false_positives": "CLR_FP", "misses": "CLR_FN", "idf1": "IDF1", "idp": "IDP",
    "idr": "IDR",
}  # fmt: skip


def theirs(sequences) -> dict[str, float]:
    """The scores of TrackEval, which knows neither people nor metres: it gets a plain loop's similarities."""
    results = []
    for metric in (HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})):
        each = {str(i): metric.eval_sequence(as_data(*both)) for i, both in enumerate(sequences)}
        results.append(metric.combine_sequences(each))
    scores = {ours: results[0][name].mean() for ours, name in HOTAS.items()}
    return scores | {ours: (results[1] | results[2])[name] for ours, name in OTHERS.items()}


def as_data(true, predicted) -> dict:
    numbers = [{i: n for n, i in enumerate(sorted({i for f in some for i in f.ids}))} for some in (true, predicted)]
    ids = [[np.array([of[i] for i in f.ids], int) for f in some] for of, some in zip(numbers, (true, predicted))]
    return {
        "gt_ids": ids[0],
        "tracker_ids": ids[1],
        "num_gt_ids": len(numbers[0]),
        "num_tracker_ids": len(numbers[1]),
        "num_gt_dets": sum(map(len, ids[0])),
        "num_tracker_dets": sum(map(len, ids[1])),
        "num_timesteps": len(true),
        "similarity_scores": [
            np.array([[likeness(a, b) for b in p.joints] for a in t.joints]).reshape(len(t.ids), len(p.ids))
            for t, p in zip(true, predicted)
        ],
    }


def likeness(a, b) -> float:
    distances = [np.linalg.norm(p - q) for p, q in zip(a, b) if not np.isnan([p, q]).any()]
    return max(0.0, 1 - np.mean(distances) / 1.6) if distances else 0.0


def walk(rng, frames=12, people=5):
    """A sequence whose people stand close, come and go, and lack joints; it is found with errors and swapped ids."""
    places = rng.uniform(-1.5, 1.5, (people, 1, 3)) + rng.normal(0, 0.2, (people, 4, 3))
    speed, names = rng.normal(0, 0.1, (people, 1, 3)), rng.permutation(50)[:people] - 5
    tracks, true, predicted = rng.permutation(80)[:people], [], []
    for t in range(frames):
        joints = places + t * speed
        joints[rng.random((people, 4)) < 0.15] = np.nan
        there = rng.random(people) < 0.8
        true.append(Identified(names[there], joints[there]))
        if rng.random() < 0.3:
            tracks = rng.permutation(tracks)
        if rng.random() < 0.2:
            tracks = np.where(rng.random(people) < 0.2, 100 + 10 * t + np.arange(people), tracks)
        found, places_found = rng.random(people) < 0.8, places + t * speed + rng.normal(0, 0.3, places.shape)
        places_found[rng.random((people, 4)) < 0.15] = np.nan
        predicted.append(Identified(tracks[found], places_found[found]))
    return true, predicted


def scores(*sequences) -> dict:
    summary = track_metrics.summarise([track_metrics.compare(*both) for both in sequences])
    return json.loads(json.dumps(summary, allow_nan=False))


def frame(ids, *places) -> Identified:
    """People of three joints, all at the same place."""
    return Identified(np.array(ids, int), np.repeat(np.array(places, float).reshape(-1, 1, 3), 3, axis=1))


EMPTY = frame([])


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 3))
def test_scores_are_trackevals(seed, number):
    rng = np.random.default_rng(seed)
    sequences = [walk(rng, frames=rng.integers(1, 15), people=rng.integers(1, 7)) for _ in range(number)]
    ours = scores(*sequences)
    for name, value in theirs(sequences).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_the_random_sequences_are_hard():
    """They have what scores tell apart, so equal scores mean something."""
    found = scores(*(walk(np.random.default_rng(seed)) for seed in range(10)))
    assert found["switches"] > 20 and 0.2 < found["hota"] < 0.6 and found["false_positives"] and found["misses"]


@pytest.mark.parametrize("odd", ["nobody", "nothing", "nobody true", "half"])
def test_sequences_without_people_count_as_trackevals(odd):
    true, predicted = walk(np.random.default_rng(1))
    gone = [Identified(f.ids[:0], f.joints[:0]) for f in true]
    rare = {
        "nobody": (gone, gone),
        "nothing": (true, gone),
        "nobody true": (gone, predicted),
        "half": (true, [*predicted[:6], *gone[6:]]),
    }[odd]
    for sequences in ([rare], [rare, (true, predicted)], [rare, rare]):
        ours = scores(*sequences)
        for name, value in theirs(sequences).items():
            assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_a_swap_of_two_identities():
    places = (0, 0, 5), (3, 0, 5)
    true = [frame([1, 2], *places)] * 10
    predicted = [frame([7, 8], *places)] * 5 + [frame([8, 7], *places)] * 5
    found = scores((true, predicted))
    # Each of four pairs of identities is paired in 5 frames, and either is there in 15.
    assert found["det_a"] == found["loc_a"] == 1
    assert found["ass_a"] == pytest.approx(1 / 3) and found["hota"] == pytest.approx(np.sqrt(1 / 3))
    assert found["ass_re"] == found["ass_pr"] == found["idf1"] == found["idp"] == found["idr"] == 0.5
    assert found["switches"] == 2 and found["mota"] == pytest.approx(0.9)
    assert found["false_positives"] == found["misses"] == 0 and found["error_cm"] == 0
    assert found["true"] == found["predicted"] == 20


def test_the_threshold_is_the_distance_within_which_people_are_found():
    for apart, is_found in [(0.79, True), (0.81, False)]:
        found = scores(([frame([1], (0, 0, 5))] * 4, [frame([9], (0, 0, 5 + apart))] * 4))
        assert found["idf1"] == is_found and found["mota"] == (1 if is_found else -1)
        assert found["misses"] == found["false_positives"] == (0 if is_found else 4)
        assert found["error_cm"] == (pytest.approx(100 * apart) if is_found else None)
        # A tenth of the thresholds more or less: similarities from 0.05 to 1 - apart / 1.6 are paired.
        assert found["det_a"] == pytest.approx((10 if is_found else 9) / 19)


def test_a_person_who_is_found_late_by_a_new_track():
    there = frame([1], (0, 0, 5))
    predicted = [EMPTY, frame([5], (0, 0, 5)), frame([5], (0, 0, 5)), EMPTY, frame([6], (0, 0, 5)), EMPTY]
    found = scores(([there] * 6, predicted))
    assert found["misses"] == 3 and found["switches"] == 1 and found["false_positives"] == 0
    assert found["mota"] == pytest.approx((3 - 1) / 6)
    assert found["idr"] == pytest.approx(2 / 6) and found["idp"] == pytest.approx(2 / 3)
    assert found["idf1"] == pytest.approx(4 / 9)
    assert found["det_re"] == 0.5 and found["det_pr"] == 1
    assert found["ass_a"] == found["ass_re"] == pytest.approx((2 * 2 / 6 + 1 / 6) / 3) and found["ass_pr"] == 1


def test_one_frame_and_no_frames():
    one = scores(([frame([3], (1, 1, 9))], [frame([4], (1, 1, 9))]))
    assert one["hota"] == one["mota"] == one["idf1"] == 1 and one["jitter_mm"] is None
    none = scores(([], []))
    assert none["true"] == none["predicted"] == none["hota"] == 0 and none["error_cm"] is None


def test_jitter_is_of_three_frames_in_a_row():
    def fall(times, ids):
        """A fall of 2 * 0.01 m / frame^2, and people who go straight on."""
        return [frame([ids[t]], (0.3 * t, 0.01 * t**2, 5)) if t in times else EMPTY for t in range(8)]

    one = [7] * 8
    found = scores((fall(range(8), one), fall({0, 1, 2, 5, 6}, one)))
    assert found["jitter_mm"] == pytest.approx(20) and found["true_jitter_mm"] == pytest.approx(20)
    assert scores((fall(range(8), one), fall({0, 1, 3, 4, 6, 7}, one)))["jitter_mm"] is None
    # A new identity is a new track.
    assert scores((fall(range(8), one), fall(range(4), [1, 1, 2, 2])))["jitter_mm"] is None
    straight = [frame([2, 1], (t, 0, 5), (0, t, 9)) if t % 2 else frame([1, 2], (0, t, 9), (t, 0, 5)) for t in range(5)]
    assert scores((straight, straight))["jitter_mm"] == pytest.approx(0, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_jitter_beside_a_loop(seed):
    true, predicted = walk(np.random.default_rng(seed))
    for name, frames in (("jitter_mm", predicted), ("true_jitter_mm", true)):
        at = [{(i, j): x for i, person in zip(f.ids, f.joints) for j, x in enumerate(person)} for f in frames]
        jolts = [
            np.linalg.norm(a[k] - 2 * b[k] + c[k])
            for a, b, c in zip(at, at[1:], at[2:])
            for k in a.keys() & b.keys() & c.keys()
        ]
        jolts = [jolt for jolt in jolts if not np.isnan(jolt)]
        wanted = pytest.approx(1000 * np.mean(jolts)) if jolts else None
        assert scores((true, predicted))[name] == wanted


def test_unknown_joints_do_not_count():
    true, predicted = frame([1], (0, 0, 5)), frame([1], (0, 0.2, 5))
    true.joints[0, 1] = predicted.joints[0, 2] = np.nan
    predicted.joints[0, 1] = 50.0
    assert scores(([true], [predicted]))["error_cm"] == pytest.approx(20)
    true.joints[0, 0] = np.nan  # now no joint is known of both
    found = scores(([true], [predicted]))
    assert found["misses"] == found["false_positives"] == 1 and found["hota"] == 0


def test_what_cannot_be_compared_is_told():
    with pytest.raises(ValueError, match="2 frames are predicted, but 1 are true"):
        track_metrics.compare([EMPTY], [EMPTY, EMPTY])
    with pytest.raises(ValueError, match="an identity occurs twice in a frame"):
        track_metrics.compare([frame([1, 1], (0, 0, 5), (1, 0, 5))], [EMPTY])
    with pytest.raises(ValueError, match="scores need at least one sequence"):
        track_metrics.summarise([])
