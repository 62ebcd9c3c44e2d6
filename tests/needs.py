"""What installed packages need, by their own metadata."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def installed_needs(requirements: Iterable[str]) -> set[str]:
    """The names of all installed packages that `requirements` bring, themselves among them."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for need in map(Requirement, importlib.metadata.requires(requirement.name) or []):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *key[1])):
                todo.append(need)
    return {name for name, _ in found}
