"""Names that have changed since weights were exported. All such changes are registered here, and nowhere else."""

import re
from typing import Any

from loco_jax.runs.config import section_of

# Of tensors: patterns in their names, and what takes their place.
TENSORS: dict[str, str] = {}
# Of a config's fields: the earlier dotted name and the present one.
FIELDS: dict[str, str] = {}


def tensor_now(name: str) -> str:
    """The present name of a tensor in a file of weights."""
    for pattern, present in TENSORS.items():
        name = re.sub(pattern, present, name)
    return name


def config_now(content: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON with the present names of its fields."""
    for earlier, present in FIELDS.items():
        (section, last), (target, name) = section_of(content, earlier), section_of(content, present)
        if last in section:
            target[name] = section.pop(last)
    return content
