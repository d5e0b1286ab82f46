"""The exact versions that make installs are those that pyproject.toml allows, for each Python."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_every_dependency_has_one_exact_version_within_its_range(python, platform):
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": platform,
    }
    exact = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        wanted = None if line.startswith("#") else Requirement(line)
        if wanted and (wanted.marker is None or wanted.marker.evaluate(environment)):
            (specifier,) = wanted.specifier
            assert specifier.operator == "==" and wanted.url is None
            assert exact.setdefault(canonicalize_name(wanted.name), specifier.version) == specifier.version, line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        assert wanted.specifier.contains(exact[canonicalize_name(wanted.name)]), wanted
        assert {s.operator for s in wanted.specifier} == {">=", "<"}, wanted


def test_no_host_or_folder_is_named():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|file:|--(extra-)?index-url|--find-links|/(home|root|tmp|opt|work)\b", text)
