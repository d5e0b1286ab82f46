"""Names that have changed since weights were exported. All such changes are registered here, and nowhere else."""

import re
from typing import Any

# Of tensors: patterns in their names, and what takes their place.
TENSORS: dict[str, str] = {}
# Of a config's fields: the earlier dotted name and the present one.
FIELDS: dict[str, str] = {}
# Fields that earlier configs lack, and the values that mean what networks did then.
NEW_FIELDS: dict[str, Any] = {"model.volume_dtype": "float32", "model.pad_channels": False}


def tensor_now(name: str) -> str:
    """The present name of a tensor in a file of weights."""
    for pattern, present in TENSORS.items():
        name = re.sub(pattern, present, name)
    return name


def config_now(content: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON with the present names of its fields, and with the new ones in the sections that it has."""
    for earlier, present in FIELDS.items():
        section, last = _section(content, earlier)
        target, name = _section(content, present)
        if last in section:
            target[name] = section.pop(last)
    for field, value in NEW_FIELDS.items():
        section, last = _section(content, field)
        if section:
            section.setdefault(last, value)
    return content


def _section(content: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    """The section of a config that a field is in, or an empty one; and the field's own name."""
    *above, last = field.split(".")
    for name in above:
        section = content.get(name)
        content = section if isinstance(section, dict) else {}
    return content, last
