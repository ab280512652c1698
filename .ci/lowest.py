"""Print the lowest version of every dependency that pyproject.toml allows, as pip constraints.

python .ci/lowest.py > constraints.txt
"""

from __future__ import annotations

import re
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = ("video", "app", "heif")  # what users install; the tests' own packages are those at hand

requirements = [*PROJECT["dependencies"], *(need for name in EXTRAS for need in PROJECT["optional-dependencies"][name])]
lowest = {
    found[1]: found[2]
    for need in requirements
    if (found := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([\d.]+)", need))
}
for name, version in sorted(lowest.items()):
    print(f"{name}=={version}")
if "mlx" in lowest:
    print(f"mlx-cpu=={lowest['mlx']}")  # its other half on Linux
