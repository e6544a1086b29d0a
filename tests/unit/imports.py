"""The package's imports as a graph, read from the source: what `test_floors` asserts about.

Every import counts: those at the top, those inside functions, and those that only a type checker sees, since a reader
follows all of them. A name in a string counts as well where it is a module's (`import_module("procjobs.client.pool")`).
"""

import ast
import pathlib
from functools import cache

import procjobs

ROOT = pathlib.Path(procjobs.__file__).parent


def paths():
    return sorted(ROOT.rglob("*.py"))


def dotted(path):
    """Return a module's name below `procjobs`; that of the package itself is empty."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


@cache
def parse(path):
    return ast.parse(path.read_text())


@cache
def is_module(name):
    base = ROOT / name.replace(".", "/")
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


@cache
def imports_of(path):
    """Return the names, below `procjobs`, of the modules that a module imports in whatever way."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module):
            base = _below(node.module)
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if is_module(inner) else base)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}:{node.lineno}: a relative import, which a reader cannot search for")
        elif isinstance(node, ast.Import):
            found |= {_below(alias.name) for alias in node.names if _is_ours(alias.name)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("procjobs."):
            found |= {name for name in [_below(node.value)] if is_module(name)}
    return frozenset(found - {dotted(path)})


def _is_ours(name):
    return name is not None and (name == "procjobs" or name.startswith("procjobs."))


def _below(name):
    return name.removeprefix("procjobs").lstrip(".")


@cache
def graph():
    """Return {module: the modules that it imports}."""
    return {dotted(path): imports_of(path) for path in paths()}


def circles(edges):
    """Return the groups of modules that reach each other (Tarjan's strongly connected components), the largest first."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for following in edges.get(node, ()):
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in on_stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
                on_stack.discard(group[-1])
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)
