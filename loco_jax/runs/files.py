"""Small files of a run."""

from etils import epath


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file completely or not at all, and creates its folder. A file with this text already stays as it is."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.part"
    part.write_text(text)
    part.replace(path)
