"""The structure: imports point one way, examples in docstrings run, and the project speaks of itself alone."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import recur

ROOT = Path(recur.__file__).parent
# each may import itself and what stands before it
ORDER = [
    "errors",
    "files",
    "cells",
    "compiler",
    "scan",
    "stream",
    "layers",
    "gradients",
    "remedies",
    "models",
    "data",
    "report",
    "flow",
    "tasks",
    "lightning",
    "bench",
    "app",
]
# these stand alone: data and report know nothing of networks
ALONE = {"data": {"errors", "files"}, "report": {"errors", "files"}}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    own = part(path)
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"recur.{alias.name}" for alias in node.names] if node.module == "recur" else [node.module or ""]
        for name in names:
            if not name.startswith("recur."):
                continue
            other = name.split(".")[1]
            if other == "__version__":
                continue
            assert ORDER.index(other) <= ORDER.index(own), f"{path}, line {node.lineno}: {own} must not import {other}"
            if own in ALONE:
                assert other in ALONE[own] | {own}, f"{path}, line {node.lineno}: {own} must not import {other}"


def test_every_folder_has_its_place():
    assert {part(path) for path in modules()} == set(ORDER)


MODULES = [module.name for module in pkgutil.walk_packages(recur.__path__, "recur.") if "main" not in module.name]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str):
    names = {name: getattr(recur, name) for name in recur.__all__} | {"torch": torch, "nn": torch.nn}
    result = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert result.failed == 0
