"""Packaging says what the tree says: packages, data files, versions, pins."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hanpaca

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "rag", "integrations")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_list_of_packages_equals_the_tree(pyproject: dict[str, Any]) -> None:
    tree = {"hanpaca"}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            tree.add(".".join(["hanpaca", *file.parent.relative_to(ROOT).parts]))
    # The web UI's folder is copied whole and run as a script: it is data.
    tree = {name for name in tree if not name.startswith("hanpaca.integrations.text_generation_webui")}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == tree


def test_every_package_has_an_init(pyproject: dict[str, Any]) -> None:
    folders = [ROOT.joinpath(*name.split(".")[1:]) for name in pyproject["tool"]["setuptools"]["packages"]]
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_no_stray_module_at_the_root() -> None:
    assert [file.name for file in ROOT.glob("*.py")] == ["__init__.py"]


def test_package_data_globs_find_files(pyproject: dict[str, Any]) -> None:
    for package, globs in pyproject["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        assert not [glob for glob in globs if not list(folder.glob(glob))], package


def test_data_files_inside_packages_are_shipped(pyproject: dict[str, Any]) -> None:
    """A file that is no module is useless in a wheel unless a glob names it."""
    globs = pyproject["tool"]["setuptools"]["package-data"]
    shipped = {
        file
        for package, patterns in globs.items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    data = {
        file
        for room in ROOMS
        for file in (ROOT / room).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert not data - shipped


def test_the_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    assert hanpaca.__version__ == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == version


def test_every_dependency_has_a_pin_that_its_range_allows(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    wanted += [Requirement(line) for extra in project["optional-dependencies"].values() for line in extra]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name != "hanpaca":
            assert name in pins, f"constraints.txt does not pin {name}"
            assert requirement.specifier.contains(pins[name]), f"{requirement} excludes the pin {pins[name]}"


@pytest.mark.parametrize("archived", ["langchain-community", "langchain-classic", "pymupdf", "ebooklib"])
def test_what_the_project_refuses_is_not_installed_by_it(archived: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + (ROOT / "constraints.txt").read_text(
        encoding="utf-8"
    )
    assert archived not in text.lower()
