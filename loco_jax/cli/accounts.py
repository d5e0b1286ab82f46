"""Stand-ins for the names of users and groups that have none, as in a container that was started with a number."""

import contextlib
import functools
import grp
import pwd
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """While entered, ids without an account have their number for a name.

    etils, by which TFDS, Orbax and JAX's cache look at files, asks for a file's owner and group, and fails without.
    """
    user, group = pwd.getpwuid, grp.getgrgid
    pwd.getpwuid = _or(user, lambda number: pwd.struct_passwd((str(number), "x", number, number, "", "/", "")))
    grp.getgrgid = _or(group, lambda number: grp.struct_group((str(number), "x", number, [])))
    try:
        yield
    finally:
        pwd.getpwuid, grp.getgrgid = user, group


def _or(look_up: Callable[[int], Any], stand_in: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(look_up)
    def found(number: int) -> Any:
        try:
            return look_up(number)
        except KeyError:
            return stand_in(number)

    return found
