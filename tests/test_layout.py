"""The tree is what pyproject.toml and the docs say it is."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"encas": "encas", "search": "encas.search", "export": "encas.export", "runtime": "encas.runtime"}
FOLDERS["serve"] = "encas.serve"
# What each package may import of the others, besides itself.
ALLOWED = {
    "encas": set(),
    "encas.search": {"encas"},
    # Supernetworks stand before pools: what they hold is recorded and exported as other networks are.
    # They are evaluated on images that are prepared as they will be.
    "encas.search.nat": {"encas", "encas.search", "encas.runtime"},
    # Runs cascades of a front, which it exports, to correct the search.
    "encas.search.device": {"encas", "encas.search", "encas.runtime", "encas.export"},
    # Their networks are recorded and evaluated as those of other supernetworks are.
    "encas.search.joint": {"encas", "encas.search", "encas.search.nat", "encas.runtime", "encas.export"},
    # Does what a user would do by one command after the other.
    "encas.search.experiment": {
        "encas",
        "encas.search",
        "encas.search.nat",
        "encas.search.joint",
        "encas.runtime",
        "encas.export",
    },
    "encas.runtime": {"encas"},
    "encas.export": {"encas", "encas.runtime", "encas.search.nat"},
    "encas.serve": {"encas", "encas.runtime"},
}
# The two places where the arrows meet: the command line, and the demo that walks the whole path.
MEETING = {"encas/cli", "encas/demo.py"}


def package_of(module: str) -> str:
    """The innermost package with rules of its own."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((name for name in names if name in ALLOWED), parts[0])


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def sources() -> list[tuple[str, Path]]:
    return [(package, file) for folder, package in FOLDERS.items() for file in (ROOT / folder).rglob("*.py")]


def test_the_packages_of_the_wheel_are_those_of_the_tree() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for package, file in sources():
        inside = file.parent.relative_to(ROOT / package.split(".")[-1]).parts
        found.add(".".join([package, *inside]))
    assert set(listed) == found


def test_imports_go_one_way() -> None:
    wrong = []
    for package, file in sources():
        place = str(file.relative_to(ROOT))
        if any(place.startswith(meeting) for meeting in MEETING):
            continue
        own = package_of(".".join([package, *file.relative_to(ROOT).parent.parts[1:]]))
        for module in imports(file):
            target = package_of(module)
            if target in ALLOWED and target != own and target not in ALLOWED[own]:
                wrong.append(f"{place} imports {module}")
    assert wrong == []


def test_the_nouns_need_numpy_pydantic_and_yaml_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"encas", "numpy", "pydantic", "yaml"}
    wrong = [
        f"{file.name} imports {module}"
        for file in (ROOT / "encas").glob("*.py")
        if file.name != "demo.py"
        for module in imports(file)
        if module.split(".")[0] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["encas.runtime", "encas.serve"])
def test_serving_needs_no_training_libraries(package: str) -> None:
    heavy = {"torch", "torchvision", "timm", "pymoo", "numba", "scipy"}
    wrong = [
        f"{file} imports {module}"
        for found, file in sources()
        if found == package
        for module in imports(file)
        # This one is imported late, and only where numba is installed.
        if module.split(".")[0] in heavy and file.name != "resize_kernels.py"
    ]
    assert wrong == []


def test_the_command_line_starts_without_numpy_and_pydantic() -> None:
    code = "import sys, encas.cli; print([m for m in ('numpy', 'pydantic', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_importing_a_subpackage_is_light() -> None:
    code = (
        "import sys, encas.search.nat, encas.export, encas.runtime, encas.serve;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numba', 'fastapi') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
