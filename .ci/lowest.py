"""Prints the lowest versions that pyproject.toml allows, as constraints for `pip install -c`.

Of sepcli's own dependencies, its extras and the test tools; not of what those depend on.
"""

import re
import sys
import tomllib
from pathlib import Path

LOWEST = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*?\])?\s*(?:>=|==)\s*([0-9][0-9a-z.]*)")


def lowest(project: dict) -> list[str]:
    """["torch==2.6", ...]; ValueError where a requirement has no lower bound."""
    requirements = [
        *project["project"]["dependencies"],
        *(one for extra in project["project"].get("optional-dependencies", {}).values() for one in extra),
        *(one for one in project["dependency-groups"]["test"] if isinstance(one, str)),  # the extras once more
    ]
    found = set()
    for text in requirements:
        if text.startswith("sepcli"):
            continue  # an extra made of others
        match = LOWEST.match(text)
        if match is None:
            raise ValueError(f"no lower bound: {text}")
        found.add(f"{match[1]}=={match[2]}")
    return sorted(found)


if __name__ == "__main__":
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    sys.stdout.write("\n".join(lowest(tomllib.loads(pyproject.read_text(encoding="utf-8")))) + "\n")
