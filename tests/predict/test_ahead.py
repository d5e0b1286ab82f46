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
    """Each call waits until the caller has asked for items beyond it; one thread alone would wait for ever."""
    asked, started = [], threading.Semaphore(0)

    def items():
        for i in range(6):
            asked.append(i)
            yield i

    def call(i):
        started.release()
        return i

    results = ahead.calls(call, items(), threads=1, most=3)
    assert asked == [] and next(results) == 0 and asked == [0, 1, 2]
    for _ in range(3):
        assert started.acquire(timeout=10)  # the calls for 1 and 2 run, though nobody has asked for their results
    assert next(results) == 1 and asked == [0, 1, 2, 3]
    assert list(results) == [2, 3, 4, 5]


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
