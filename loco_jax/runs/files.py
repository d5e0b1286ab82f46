"""Small files, written completely or not at all."""

import uuid

from etils import epath


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file and creates its folder. A file that has this text already stays untouched."""
    if not (path.exists() and path.read_text() == text):
        write_bytes(path, text.encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes a file and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"  # several machines may write it at once
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
