"""What the documentation names exists: links, files, headings, commands and their flags."""

import contextlib
import json
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import yaml
from PIL import Image

import loco_jax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
SENTINEL = "no_such_flag"  # put at the end of a command, so that it is refused for this flag and for nothing else

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    """Markdown without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", without_code(page.read_text(encoding="utf-8")), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(page: pathlib.Path) -> list[str]:
    """The lines of a page that go into a shell: those of fenced blocks without a language, and code in backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    code = "".join(block for language, block in blocks if language in ("", "bash", "sh"))
    spans = re.findall(r"`((?:python -m loco_jax|make )[^`]*)`", without_code(text))
    return [*code.replace("\\\n", " ").splitlines(), *(" ".join(span.split()) for span in spans)]


def commands(page: pathlib.Path) -> list[list[str]]:
    """The arguments of all commands in a page's code, as `python -m` takes them: a module, flags, paths.

    For a script of `launch/` these are `loco_jax.main` and the flags of its config.
    """
    found = []
    for line in filter(re.compile(r"python -m loco_jax|launch/").search, shell_lines(page)):
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            found.append(words[2:])
        elif flags := [word for word in words if word.startswith("--config=")]:
            found.append(["loco_jax.main", *flags, *(word for word in words if word.startswith("--config."))])
    return found


@every_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    for link in (link for link in links if not re.match(r"https?:", link)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    folders, endings = "loco_jax|configs|launch|tests|docs", "py|sh|md|ipynb|html|jpg|png"
    named = re.findall(rf"(?<![\w/.])((?:{folders})/[\w./]*\w\.(?:{endings}))\b", text)
    missing = sorted({name for name in named if not (ROOT / name).is_file()})
    assert not missing


@every_page
def test_targets_of_make_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert {line.split()[1] for line in shell_lines(page) if line.startswith("make ")} <= set(targets)


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 9000


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == loco_jax.__version__
    assert citation["preferred-citation"]["url"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_in_the_docs_compiles():
    blocks = [block for page in PAGES for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)]
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "docs", "exec")


def test_the_docs_remake_the_pictures_of_the_crowd(tmp_path, monkeypatch):
    code = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.M | re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    made, shown = (
        np.asarray(Image.open(path), int) for path in ("crowd_pictures.jpg", ROOT / "docs/crowd_pictures.jpg")
    )
    assert made.shape == shown.shape and np.abs(made - shown).mean() < 2


def refusal(words: list[str]) -> str:
    """What a command says to its command line and an unknown flag at the end. It ends before it does anything."""
    from absl import flags

    before, said = set(flags.FLAGS), tempfile.TemporaryFile("w+")  # with a file's number, for faulthandler
    sys.argv = [words[0], *words[1:], f"--{SENTINEL}"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            print(end.code)
        except ImportError as error:
            print(error)
    for name in set(flags.FLAGS) - before:  # commands share names of flags
        if name.startswith("config.") or not flags.FLAGS.find_module_defining_flag(name, "").startswith("absl"):
            delattr(flags.FLAGS, name)
    said.seek(0)
    return said.read()


def main() -> None:
    """Reads commands as JSON, writes what each says."""
    print(json.dumps([refusal(words) for words in json.load(sys.stdin)]))


def test_commands_have_the_flags_that_are_named():
    """One process parses all of them. A flag, a value or a field that the command does not know is refused first."""
    found = [words for page in PAGES for words in commands(page) if words[1:]]
    assert len(found) >= 20
    program = [sys.executable, "-c", "from tests import test_docs; test_docs.main()"]
    done = subprocess.run(program, input=json.dumps(found), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    wrong = {" ".join(words): text for words, text in zip(found, json.loads(done.stdout)) if SENTINEL not in text}
    assert not wrong
