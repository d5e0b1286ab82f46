"""Users without an account: as `docker run --user 12345` makes them."""

import grp
import os
import pwd

import pytest
from etils import epath

from loco_jax import cli
from loco_jax.cli import accounts
from loco_jax.data import jta
from tests.support.annotations import GOOD_ROW, write_jta


@pytest.fixture
def nobody_has_a_name(monkeypatch):
    def fail(number):
        raise KeyError(f"uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", fail)
    monkeypatch.setattr(grp, "getgrgid", fail)


def test_files_of_such_users_can_be_looked_at(nobody_has_a_name, tmp_path):
    path = epath.Path(tmp_path / "file")
    path.write_text("12345")
    with pytest.raises(KeyError):
        path.stat()
    with accounts.stand_ins():
        stat = path.stat()
    assert (stat.length, stat.owner, stat.group) == (5, str(os.getuid()), str(os.getgid()))
    assert cli.call(lambda: path.stat().length) == 5
    with pytest.raises(KeyError):
        path.stat()


def test_those_who_have_a_name_keep_it():
    known = pwd.getpwuid(0), grp.getgrgid(0)
    with accounts.stand_ins():
        assert (pwd.getpwuid(0), grp.getgrgid(0)) == known


def test_such_a_user_prepares_and_loads_jta(nobody_has_a_name, tmp_path):
    write_jta(tmp_path / "jta", {0: [GOOD_ROW]})
    assert not jta.prepare(tmp_path / "jta", tmp_path / "data").reused
    assert jta.prepare(tmp_path / "jta", tmp_path / "data").reused
    example = jta.load(tmp_path / "data", "test")[0]
    assert (example["sequence"], example["frame"], example["people"]["id"].tolist()) == (256, 10, [7])
