"""The store with one safeguard left out, for every safeguard there is, found in its own source.

A mutant is a function of the store with one statement or comparison changed. It is put in place by
its code object, so that whoever imported the function before runs the mutant too.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

MODULES = ("durable", "manifest", "writer", "rows", "snapshot", "verify", "purge")
_SYNCS = ("_sync", "fsync", "sync_folder")
_CHECKSUMS = ("checksums", "sha256", "sha256_of", "_sealed", "_holds")


class Mutant(NamedTuple):
    """One safeguard that is left out: the module, what was changed, and the tree of its source."""

    module: str
    change: str
    tree: ast.Module

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """In here the store runs without that safeguard."""
        module = importlib.import_module(f"perception_search.{self.module}")
        ours = _codes(compile(ast.unparse(self.tree), inspect.getsourcefile(module), "exec"))
        known = _codes(compile(ast.unparse(_tree(self.module)), module.__file__, "exec"))
        [name] = [name for name in known if _differ(known[name], ours[name])]
        function = _function(module, name)
        whole = function.__code__
        function.__code__ = ours[name]
        try:
            yield
        finally:
            function.__code__ = whole


def mutants() -> list[Mutant]:
    """Every mutant of the store, in the order of its source."""
    found = []
    for module in MODULES:
        tree = _tree(module)
        changes = [change for node in ast.walk(tree) for change in _changes(node)]
        for number, (described, _) in enumerate(changes):
            changed = copy.deepcopy(tree)
            again = [change for node in ast.walk(changed) for change in _changes(node)]
            again[number][1]()
            found.append(Mutant(module, described, ast.fix_missing_locations(changed)))
    return found


def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(f"perception_search.{module}")))


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be left out at this node: a sentence, and what does it to the tree."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if not isinstance(block, list):
            continue
        for place, statement in enumerate(block):
            called = _called(statement)
            where = f"line {getattr(statement, 'lineno', 0)}: "
            if called in _SYNCS:
                yield where + f"no {ast.unparse(statement)}", _drop(block, place)
            elif called in ("replace", "rename"):
                yield where + f"{ast.unparse(statement)} first", _move(block, place, 0)
                yield where + f"{ast.unparse(statement)} last", _move(block, place, len(block))
    for name, value in ast.iter_fields(node):
        values = value if isinstance(value, list) else [value]
        for place, part in enumerate(values):
            if isinstance(part, ast.Compare) and _compares_checksums(part):
                equal = isinstance(part.ops[0], ast.Eq)
                instead = ast.Constant(equal)
                sentence = f"line {part.lineno}: {ast.unparse(part)} is not compared"
                yield sentence, _put(node, name, value, place, instead)


def _called(statement: ast.AST) -> str:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return ""
    function = statement.value.func
    return getattr(function, "attr", getattr(function, "id", ""))


def _compares_checksums(part: ast.Compare) -> bool:
    names = {getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(part)}
    is_equality = isinstance(part.ops[0], ast.Eq | ast.NotEq)
    return is_equality and bool(names & {*_CHECKSUMS, "content"})


def _drop(block: list, place: int) -> Callable[[], None]:
    return lambda: block.__setitem__(place, ast.Pass())


def _move(block: list, place: int, to: int) -> Callable[[], None]:
    def move() -> None:
        statement = block.pop(place)
        block.insert(min(to, len(block)), statement)

    return move


def _put(node: ast.AST, name: str, value: object, place: int, instead: ast.expr):
    if isinstance(value, list):
        return lambda: value.__setitem__(place, instead)
    return lambda: setattr(node, name, instead)


def _codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """Every function's code by its qualified name."""
    found = {}
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            found[part.co_qualname] = part
            found |= _codes(part)
    return found


def _differ(one: types.CodeType, other: types.CodeType) -> bool:
    return (one.co_code, one.co_names, _plain(one)) != (
        other.co_code,
        other.co_names,
        _plain(other),
    )


def _plain(code: types.CodeType) -> list:
    return [part for part in code.co_consts if not isinstance(part, types.CodeType)]


def _function(module: types.ModuleType, name: str) -> types.FunctionType:
    found = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    return inspect.unwrap(getattr(found, "__func__", found))
