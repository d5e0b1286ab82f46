"""What threads do ahead of the caller comes in order, and errors come in their place."""

import threading
import time

import pytest

from loco_jax.predict import ahead


def failing(most):
    yield from range(most)
    raise OSError("the end")


def test_results_come_in_order_whatever_they_take():
    def slow(i):
        time.sleep(0.02 * ((7 * i) % 5))
        return i * i

    assert list(ahead.calls(slow, range(12), threads=4, most=4)) == [i * i for i in range(12)]
    assert list(ahead.calls(slow, [])) == []


def test_calls_go_on_while_the_caller_waits_but_not_far():
    """The first call ends when two more items were asked for, and the caller asks for no more meanwhile."""
    asked, third = [], threading.Event()

    def items():
        for i in range(6):
            asked.append(i)
            if i == 2:
                third.set()
            yield i

    def call(i):
        assert third.wait(timeout=10)
        return i

    results = ahead.calls(call, items(), threads=1, most=3)
    assert asked == [] and next(results) == 0 and asked == [0, 1, 2]
    assert list(results) == [1, 2, 3, 4, 5]


def test_a_result_is_given_out_when_it_is_there():
    """It does not wait for others: the source gives its third item only after that."""
    out = []

    def items():
        yield 1
        time.sleep(0.2)  # so that the call is done
        yield 2
        assert out == [1]
        yield 3

    for result in ahead.calls(lambda x: x, items(), most=10):
        out.append(result)
    assert out == [1, 2, 3]


def test_an_error_comes_in_its_place():
    results = ahead.calls(lambda x: 1 / x, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = ahead.calls(lambda x: -x, failing(4), threads=2, most=3)
    assert [next(results) for _ in range(4)] == [0, -1, -2, -3]
    with pytest.raises(OSError, match="the end"):
        next(results)
    results = ahead.items(failing(3))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the end"):
        next(results)


def test_items_are_asked_for_by_a_thread():
    caller, threads = threading.get_ident(), []

    def items():
        for i in range(5):
            threads.append(threading.get_ident())
            yield i

    assert list(ahead.items(items())) == list(range(5))
    assert len(set(threads)) == 1 and caller not in threads


def test_a_caller_who_stops_leaves_no_thread():
    before = threading.active_count()
    results = ahead.calls(lambda x: x, range(1000), threads=3, most=5)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_groups():
    words = ["a", "b", "cc", "d", "ee", "ff", "gg", "hh"]
    wanted = [["a", "b"], ["cc"], ["d"], ["ee", "ff", "gg"], ["hh"]]
    assert list(ahead.groups(words, 3, len)) == wanted
    assert list(ahead.groups(range(5), 2)) == [[0, 1], [2, 3], [4]] and list(ahead.groups([], 2)) == []
    found = ahead.groups(failing(3), 2)
    assert [next(found), next(found)] == [[0, 1], [2]]
    with pytest.raises(OSError, match="the end"):
        next(found)
