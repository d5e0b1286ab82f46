"""Sequences whose items are made when they are asked for."""

import functools
import pickle

import pytest

from loco_jax.data.lazy import Lazy, in_a_row


def test_items_are_made_when_they_are_asked_for():
    made = []
    tens = Lazy(3, lambda place: made.append(place) or 10 * place)
    assert len(tens) == 3 and made == []
    assert (tens[1], tens[-1]) == (10, 20) and made == [1, 2]
    assert list(tens) == [0, 10, 20]
    with pytest.raises(IndexError):
        tens[3]


def test_an_error_of_an_item_is_not_the_end():
    with pytest.raises(IndexError, match="of an item"):
        list(Lazy(3, lambda place: [0, 1][place] if place < 2 else _fail()))


def _fail():
    raise IndexError("of an item")


def test_workers_get_a_copy():
    assert list(pickle.loads(pickle.dumps(Lazy(4, functools.partial(pow, 2))))) == [1, 2, 4, 8]


def test_sequences_lie_one_behind_the_other():
    assert in_a_row([2, 0, 3]) == [range(0, 2), range(2, 2), range(2, 5)] and in_a_row([]) == []
