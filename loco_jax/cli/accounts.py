"""Names for users and groups without an account, as in a container that runs under a numeric user ID."""

import contextlib
import grp
import pwd
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """While entered, the name of a user or group without an account is its number.

    TFDS, Orbax and JAX's cache look at files through etils, which asks for a file's owner and fails without a name.
    """
    user, group = pwd.getpwuid, grp.getgrgid
    pwd.getpwuid = _or(user, lambda number: pwd.struct_passwd((str(number), "x", number, number, "", "/", "")))
    grp.getgrgid = _or(group, lambda number: grp.struct_group((str(number), "x", number, [])))
    try:
        yield
    finally:
        pwd.getpwuid, grp.getgrgid = user, group


def _or(look_up: Callable[[int], Any], stand_in: Callable[[int], Any]) -> Any:
    def found(number: int) -> Any:
        try:
            return look_up(number)
        except KeyError:
            return stand_in(number)

    return found
