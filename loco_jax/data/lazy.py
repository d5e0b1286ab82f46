"""Sequences whose items are made when they are asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

Item = TypeVar("Item")


class Lazy(Sequence[Item], Generic[Item]):
    """`length` items that `make(index)` makes. It can be pickled if `make` can, as processes that read require."""

    def __init__(self, length: int, make: Callable[[int], Item]):
        self._places, self._make = range(length), make

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._places[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._make, self._places)  # `Sequence.__iter__` would stop at an IndexError of `make`


def in_a_row(lengths: Iterable[int]) -> list[range]:
    """The places of sequences of these lengths, one after another."""
    ends = np.cumsum([0, *lengths]).tolist()
    return [range(first, end) for first, end in zip(ends, ends[1:])]
