"""How large things may grow before somebody has to move a wall: classes, functions, modules."""

import ast
import statistics

import pytest

from tests.unit.imports import dotted, parse, paths

MAX_ATTRIBUTES = 16
MAX_FUNCTION_LINES = 45
MAX_MODULE_LINES = 450
MEDIAN_MODULE_LINES = 134
"""The median before the walls were moved. It should only fall."""


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of(function):
    """Return how many lines a function has without its docstring and its signature."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def attributes_of(node):
    """Return the attributes of its instances that a class sets itself, or declares as slots."""
    found = set()
    for statement in node.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__slots__":
            found |= {name for name in ast.literal_eval(statement.value) if not name.startswith("__")}
    for function in (f for f in node.body if isinstance(f, ast.FunctionDef)):
        for inner in ast.walk(function):
            is_set = isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
            found |= {inner.attr} if is_set and getattr(inner.value, "id", "") == "self" else set()
    return found


@pytest.mark.parametrize("path", paths(), ids=dotted)
def test_nothing_has_grown_past_comfort(path):
    tree = parse(path)
    too_large = {f.name: lines_of(f) for f in functions(tree) if lines_of(f) > MAX_FUNCTION_LINES}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    too_large |= {node.name: len(attributes_of(node)) for node in classes if len(attributes_of(node)) > MAX_ATTRIBUTES}
    lines = path.read_text().count("\n")
    too_large |= {dotted(path): lines} if lines > MAX_MODULE_LINES else {}
    assert {} == too_large


def test_modules_and_functions_are_as_small_as_they_were():
    modules = [path.read_text().count("\n") for path in paths() if path.name not in {"__init__.py", "__main__.py"}]
    lengths = [lines_of(function) for path in paths() for function in functions(parse(path))]
    assert statistics.median(modules) <= MEDIAN_MODULE_LINES
    assert statistics.median(lengths) <= 6
    assert statistics.quantiles(lengths, n=10)[8] <= 15
