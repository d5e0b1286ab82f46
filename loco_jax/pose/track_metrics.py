"""Scores of tracks in 3D: HOTA, CLEAR MOT and IDF1, jitter, and errors of joints. NumPy, on the host.

`compare` counts over one sequence, `summarise` makes scores of the counts of many. Positions are in metres.

The similarity of two people is max(0, 1 - d / 1.6 m), where d is the mean distance of the joints known of both. It is 0
without such joints. So 0.5 stands for 0.8 m, within which a person is found (`people_metrics.FOUND_WITHIN`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from loco_jax.pose.people_metrics import FOUND_WITHIN

THRESHOLD = 0.5  # least similarity of a pair for MOTA and IDF1
ALPHAS = np.arange(0.05, 0.99, 0.05)  # least similarities of a pair over which HOTA is the mean
_EPSILON = float(np.finfo(np.float64).eps)
_TINY = 1e-10  # so that the mean similarity of no pairs is 1


class Identified(NamedTuple):
    """The people of one frame.

    Attributes:
      ids: who they are; a person keeps its number through a sequence.
      joints: metres; NaN if unknown.
    """

    ids: Int[np.ndarray, "P"]
    joints: Float[np.ndarray, "P J 3"]


class Counts(NamedTuple):
    """Counts and sums over a sequence. Those of several sequences are their sums.

    Attributes:
      true, predicted: numbers of people, summed over frames.
      pairs: the number of HOTA's pairs, for each of `ALPHAS`.
      similarity: the sum of their similarities.
      association: the sum over these pairs of A(c), the number of frames in which the pair's two identities are paired,
        divided by the number of frames with at least one of the two.
      association_recall, association_precision: the same, divided by the number of frames with the true one, and with
        the predicted one.
      matched: the number of CLEAR MOT's pairs.
      switches: the number of these in which a true person has another identity than in its previous pair.
      id_matched: IDTP, the number of frames in which identities that belong together are paired.
      joints, error: the number of joints known of both people of CLEAR MOT's pairs, and the sum of their distances in
        metres.
      jolts, jitter: the number of second differences of predicted joints, and the sum of their norms in metres.
      true_jolts, true_jitter: the same of true joints.
    """

    true: int
    predicted: int
    pairs: Int[np.ndarray, "A"]
    similarity: Float[np.ndarray, "A"]
    association: Float[np.ndarray, "A"]
    association_recall: Float[np.ndarray, "A"]
    association_precision: Float[np.ndarray, "A"]
    matched: int
    switches: int
    id_matched: int
    joints: int
    error: float
    jolts: int
    jitter: float
    true_jolts: int
    true_jitter: float


class _Numbered(NamedTuple):
    """A sequence with identities counted from 0: by frame true and predicted people and their similarities; by identity
    the number of frames with it."""

    true: list[Int[np.ndarray, "M"]]
    predicted: list[Int[np.ndarray, "N"]]
    similarity: list[Float[np.ndarray, "M N"]]
    true_frames: Int[np.ndarray, "I"]
    predicted_frames: Int[np.ndarray, "K"]


def compare(true: Sequence[Identified], predicted: Sequence[Identified]) -> Counts:
    """The counts of a sequence, frame by frame.

    Raises ValueError if the sequences differ in length, or if an identity is twice in a frame.
    """
    if len(true) != len(predicted):
        raise ValueError(f"{len(predicted)} frames are predicted, but {len(true)} are true")
    similarity = [similarities(t.joints, p.joints) for t, p in zip(true, predicted)]
    true_ids, true_frames = _number([frame.ids for frame in true])
    predicted_ids, predicted_frames = _number([frame.ids for frame in predicted])
    numbered = _Numbered(true_ids, predicted_ids, similarity, true_frames, predicted_frames)
    pairs, switches = _clear_pairs(numbered)
    joints, error = _errors(true, predicted, pairs)
    return Counts(
        int(true_frames.sum()),
        int(predicted_frames.sum()),
        *_hota(numbered),
        sum(map(len, pairs)),
        switches,
        _id_matched(numbered),
        joints,
        error,
        *_jitter(predicted),
        *_jitter(true),
    )


def similarities(true: Float[np.ndarray, "M J 3"], predicted: Float[np.ndarray, "N J 3"]) -> Float[np.ndarray, "M N"]:
    """The similarity of each true person to each predicted one, from 0 to 1."""
    apart = np.linalg.norm(true[:, None].astype(np.float64) - predicted[None], axis=-1)
    both = np.isfinite(apart)
    count = both.sum(axis=-1)
    mean = np.divide(apart.sum(axis=-1, where=both), count, out=np.full(count.shape, np.inf), where=count > 0)
    return np.maximum(1 - mean * (1 - THRESHOLD) / FOUND_WITHIN, 0.0)


def summarise(counts: Sequence[Counts]) -> dict[str, Any]:
    """The scores of some sequences together, as JSON; None for means of nothing.

    Counts are summed over the sequences before anything is divided.

    - HOTA (Luiten et al. 2021) is the mean over `ALPHAS` of sqrt(DetA * AssA). DetA is the number of pairs divided by
      the number of pairs and people without a pair. DetRe and DetPr are shares of the true and of the predicted people.
      AssA, AssRe and AssPr are means over pairs, see `Counts`. LocA is the pairs' mean similarity. In each frame, pairs
      have the greatest sum of similarity times the similarity of the identities over the sequence.
    - MOTA (Bernardin and Stiefelhagen 2008) is 1 - (misses + false positives + switches) / true people. Pairs of the
      previous frame are kept; the other pairs have the greatest sum of similarities.
    - IDF1, IDP and IDR (Ristani et al. 2016) are F1, precision and recall of the people whose identities belong
      together. Identities are assigned one to one, so that the number of these people is greatest.
    - `jitter_mm` is the mean norm of the second difference of a joint in three consecutive frames, in mm / frame^2.
    - `error_cm` is the mean distance of the joints of MOTA's pairs.

    As in the authors' code, other scores without anything to divide by are 0, except for LocA, which is 1. Raises
    ValueError without any sequence.
    """
    if not counts:
        raise ValueError("scores need at least one sequence")
    sums: list[Any] = [sum(values) for values in zip(*counts)]
    c = Counts(*sums)
    found, pairs = np.maximum(c.pairs, 1), c.pairs
    detection = pairs / np.maximum(c.true + c.predicted - pairs, 1)
    association = c.association / found
    hota = {
        "hota": np.sqrt(detection * association),
        "det_a": detection,
        "ass_a": association,
        "loc_a": np.maximum(c.similarity, _TINY) / np.maximum(pairs, _TINY),
        "det_re": pairs / max(c.true, 1),
        "det_pr": pairs / max(c.predicted, 1),
        "ass_re": c.association_recall / found,
        "ass_pr": c.association_precision / found,
    }
    false_positives, misses = c.predicted - c.matched, c.true - c.matched
    return {
        "true": c.true,
        "predicted": c.predicted,
        **{name: float(values.mean()) for name, values in hota.items()},
        "mota": (c.matched - false_positives - c.switches) / max(c.true, 1),
        "switches": c.switches,
        "false_positives": false_positives,
        "misses": misses,
        "idf1": 2 * c.id_matched / max(c.true + c.predicted, 1),
        "idp": c.id_matched / max(c.predicted, 1),
        "idr": c.id_matched / max(c.true, 1),
        "jitter_mm": 1000 * c.jitter / c.jolts if c.jolts else None,
        "true_jitter_mm": 1000 * c.true_jitter / c.true_jolts if c.true_jolts else None,
        "error_cm": 100 * c.error / c.joints if c.joints else None,
    }


def _number(ids: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Identities counted from 0, by frame, and the number of frames with each."""
    if any(len(np.unique(frame)) < len(frame) for frame in ids):
        raise ValueError("an identity occurs twice in a frame")
    known, numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]), return_inverse=True)
    frames = np.split(numbers, np.cumsum([len(frame) for frame in ids]))[: len(ids)]
    return frames, np.bincount(numbers, minlength=len(known))


def _hota(of: _Numbered) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`pairs`, `similarity`, `association`, `association_recall` and `association_precision` of the counts."""
    true, predicted = of.true_frames[:, None], of.predicted_frames[None]
    likely = np.zeros((len(of.true_frames), len(of.predicted_frames)))
    for t, p, similar in zip(of.true, of.predicted, of.similarity):
        either = similar.sum(axis=1, keepdims=True) + similar.sum(axis=0, keepdims=True) - similar
        likely[np.ix_(t, p)] += np.divide(similar, either, out=np.zeros_like(similar), where=either > _EPSILON)
    likely /= true + predicted - likely
    pairs, total = np.zeros(len(ALPHAS), np.int64), np.zeros(len(ALPHAS))
    together = np.zeros((len(ALPHAS), *likely.shape))
    for t, p, similar in zip(of.true, of.predicted, of.similarity):
        rows, columns = linear_sum_assignment(-likely[np.ix_(t, p)] * similar)
        similar = similar[rows, columns]
        counts = similar >= ALPHAS[:, None] - _EPSILON
        pairs += counts.sum(axis=1)
        total += counts @ similar
        together[:, t[rows], p[columns]] += counts
    either, recall, precision = (
        (together**2 / frames).sum(axis=(1, 2)) for frames in (true + predicted - together, true, predicted)
    )
    return pairs, total, either, recall, precision


def _clear_pairs(of: _Numbered) -> tuple[list[np.ndarray], int]:
    """By frame CLEAR MOT's pairs `[K, 2]`, places of a true and a predicted person; and the number of switches."""
    last = np.full(len(of.true_frames), -1)  # the identity that each true one was paired with
    before = last.copy()  # the same in the frame before only; frames without people on one side are passed over
    pairs, switches = [], 0
    for t, p, similar in zip(of.true, of.predicted, of.similarity):
        if not similar.size:
            pairs.append(np.zeros((0, 2), np.int64))
            continue
        stays = p == before[t][:, None]
        # A pair that stays is worth more than all others. Pairs that are not allowed are worth 0.
        worth = np.where(similar >= THRESHOLD - _EPSILON, 1000.0 * stays + similar, 0.0)
        rows, columns = linear_sum_assignment(-worth)
        may_be = worth[rows, columns] > 0
        rows, columns = rows[may_be], columns[may_be]
        who, now = t[rows], p[columns]
        switches += int(((last[who] >= 0) & (last[who] != now)).sum())
        last[who] = now
        before = np.full(len(last), -1)
        before[who] = now
        pairs.append(np.stack([rows, columns], axis=1))
    return pairs, switches


def _id_matched(of: _Numbered) -> int:
    near = np.zeros((len(of.true_frames), len(of.predicted_frames)), np.int64)
    for t, p, similar in zip(of.true, of.predicted, of.similarity):
        near[np.ix_(t, p)] += similar >= THRESHOLD
    return int(near[linear_sum_assignment(near, maximize=True)].sum())


def _errors(
    true: Sequence[Identified], predicted: Sequence[Identified], pairs: Sequence[np.ndarray]
) -> tuple[int, float]:
    """The number of joints known of both people of some pairs, and the sum of their distances in metres."""
    count, total = 0, 0.0
    for t, p, (rows, columns) in zip(true, predicted, (some.T for some in pairs)):
        apart = np.linalg.norm(t.joints[rows].astype(np.float64) - p.joints[columns], axis=-1)
        count += int(np.isfinite(apart).sum())
        total += float(np.nansum(apart))
    return count, total


def _jitter(frames: Sequence[Identified]) -> tuple[int, float]:
    """The number of joints that are known in three consecutive frames, and the sum of the norms of their second
    differences in metres."""
    count, total = 0, 0.0
    for some in zip(frames, frames[1:], frames[2:]):
        who = set.intersection(*(set(frame.ids.tolist()) for frame in some))
        first, second, third = (_of(frame, sorted(who)) for frame in some)
        jolts = np.linalg.norm(first - 2 * second + third, axis=-1)
        count += int(np.isfinite(jolts).sum())
        total += float(np.nansum(jolts))
    return count, total


def _of(frame: Identified, ids: list[int]) -> np.ndarray:
    """The joints of the people with these ids, in their order."""
    order = np.argsort(frame.ids)
    return frame.joints[order][np.searchsorted(frame.ids, ids, sorter=order)].astype(np.float64)
