"""Threads that read ahead and write behind, so that a network does not wait for files."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")
_END: Any = object()


def calls(function: Callable[[T], U], items: Iterable[T], threads: int = 1, most: int = 2) -> Iterator[U]:
    """The results of a function, in the order of the items. Threads work on up to `most` items ahead of the caller.

    The caller's thread asks for the items. An error of the function is raised in place of its result, and one of the
    items after the results of those before it.
    """
    waiting: collections.deque[Future[U]] = collections.deque()
    failed: list[Exception] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in _until_error(items, failed):
                waiting.append(pool.submit(function, item))
                while waiting and (len(waiting) >= most or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failed:
                raise failed[0]
        finally:
            for call in waiting:
                call.cancel()


def items(source: Iterable[T], most: int = 2) -> Iterator[T]:
    """The items of a source, which a thread asks for, up to `most` ahead of the caller. Errors come in their place."""
    iterator = iter(source)
    found = calls(lambda _: next(iterator, _END), itertools.repeat(None), most=most)
    return itertools.takewhile(lambda item: item is not _END, found)


def groups(source: Iterable[T], most: int, kind: Callable[[T], Any] = lambda item: None) -> Iterator[list[T]]:
    """Lists of up to `most` items of the same kind that follow each other. An error of the source comes after the items
    before it.
    """
    group: list[T] = []
    failed: list[Exception] = []
    for item in _until_error(source, failed):
        if group and (len(group) == most or kind(item) != kind(group[0])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
    if failed:
        raise failed[0]


def _until_error(source: Iterable[T], failed: list[Exception]) -> Iterator[T]:
    """The items of a source. Its error is not raised, but put into `failed`."""
    try:
        yield from source
    except Exception as error:
        failed.append(error)
