"""Docstrings have a field for each parameter, for what is returned, and for no error that does not exist."""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_hailuo

PACKAGE = Path(airflow_provider_hailuo.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FIELD = re.compile(r"^ *:(\w+)(?: ([^:\n]*))?:(?: +(\S))?", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def gaps(source: str, errors: frozenset[str] = frozenset()) -> list[str]:
    """Return what the docstrings of a module lack: `<line> <object>: <what>`."""
    module = ast.parse(source)
    known = names_of(module) | errors | set(dir(builtins))
    with_fields = classes_with_fields(module)
    found = []
    for name, node in public(module):
        if isinstance(node, ast.ClassDef):
            parameters = fields_of(node) if node.name in with_fields else constructor_parameters_of(node)
        elif decorators(node) & {"property", "cached_property"}:
            parameters = []
        else:
            parameters = parameters_of(node, is_method="." in name)
            if ast.unparse(node.returns or node) not in {"None", "NoReturn", "Never"}:
                parameters.append(":return:")
        found += [f"{node.lineno} {name}: {gap}" for gap in gaps_of(ast.get_docstring(node), parameters, known)]
    return found


def gaps_of(docstring: str | None, expected: list[str], known: set[str]) -> Iterator[str]:
    if docstring is None:
        yield "no docstring"
        return
    documented = []
    for kind, name, text in FIELD.findall(docstring):
        field = f":{kind} {name}:" if name else f":{kind}:"
        if kind == "raises":
            unknown = [error for error in re.split(", *", name) if error.partition(".")[0] not in known]
            yield from (f":raises {error}: names no error that is known there" for error in unknown)
        else:
            documented.append(field)
        if not text:
            yield f"{field} says nothing"
    required = allowed = Counter(expected)
    if ":param kwargs:" in expected:  # what is passed on to Airflow may be documented, and need not be
        required = required - Counter([":param kwargs:"])
        allowed = allowed | Counter({field for field in documented if field.startswith(":param ")})
    yield from (f"no {field}" for field in required - Counter(documented))
    yield from (f"{field} is not in the signature, or too many" for field in Counter(documented) - allowed)


def public(parent: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def decorators(node: ast.ClassDef | Function) -> set[str]:
    named = (decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list)
    return {ast.unparse(decorator).rpartition(".")[2] for decorator in named}


def classes_with_fields(module: ast.Module) -> set[str]:
    """Return the classes whose annotated fields are the parameters of their constructors."""
    names = {"BaseModel", "NamedTuple", "TypedDict"}
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if bases & names or "dataclass" in decorators(node):
                names.add(node.name)
    return names


def fields_of(node: ast.ClassDef) -> list[str]:
    fields = (statement for statement in node.body if isinstance(statement, ast.AnnAssign))
    return [
        f":param {name}:"
        for name, text in ((ast.unparse(field.target), ast.unparse(field)) for field in fields)
        if not (name.startswith("_") or "ClassVar" in text)
    ]


def constructor_parameters_of(node: ast.ClassDef) -> list[str]:
    for method in node.body:
        if isinstance(method, Function) and method.name == "__init__":
            return parameters_of(method, is_method=True)
    return []


def parameters_of(node: Function, *, is_method: bool) -> list[str]:
    signature = node.args
    named = [*signature.args, signature.vararg, *signature.kwonlyargs, signature.kwarg][is_method:]
    return [f":param {argument.arg}:" for argument in named if argument and not argument.arg.startswith("_")]


def names_of(module: ast.Module) -> set[str]:
    """Return what a module imports, and the classes that it defines."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
    return names


ERRORS = frozenset(
    name
    for module in ("apiframe/errors.py", "exceptions.py")
    for name in names_of(ast.parse((PACKAGE / module).read_text("utf-8")))
)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_fit_signatures(module: Path):
    found = gaps(module.read_text("utf-8"), ERRORS)

    assert not found, "\n".join(["", *(f"{module.relative_to(PACKAGE.parent)}:{gap}" for gap in found)])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f() -> None: ...", ["no docstring"]),
        ("class A:\n  def f(self) -> None: ...", ["no docstring", "no docstring"]),
        ("async def f(a, b, *c, d, _, **e) -> None:\n  ''", [f"no :param {name}:" for name in "abcde"]),
        ("class A:\n  ':param b: 1'\n  def __init__(self, a, **kwargs): ...", ["no :param a:"]),
        ("def f(**kwargs) -> None:\n  ':param kwargs: 1'", []),
        ("@dataclass\nclass A:\n  ''\n  a: int\n  b: ClassVar[int]", ["no :param a:"]),
        ("class A(NamedTuple):\n  ''\n  a: int", ["no :param a:"]),
        ("class _A(BaseModel): ...\nclass A(_A):\n  ''\n  a: int\n  def __init__(self, b): ...", ["no :param a:"]),
        ("class A:\n  ''\n  a: int\n  @property\n  def b(self) -> int:\n    ''", []),
        ("def f() -> int:\n  ''", ["no :return:"]),
        ("def f():\n  ''", ["no :return:"]),
        ("def f() -> NoReturn:\n  ''", []),
        ("def f() -> None:\n  ':return: 1'", [":return: is not in the signature, or too many"]),
        ("def f() -> None:\n  ':param a: 1'", [":param a: is not in the signature, or too many"]),
        ("def f(a) -> None:\n  ''':param a: 1\n:param a: 2'''", [":param a: is not in the signature, or too many"]),
        ("def f(a) -> None:\n  ':arg a: 1'", ["no :param a:", ":arg a: is not in the signature, or too many"]),
        ("def f(a) -> None:\n  ':param a:'", [":param a: says nothing"]),
        ("def f() -> None:\n  ':raises AError: 1'", [":raises AError: names no error that is known there"]),
        ("from a import AError\ndef f() -> None:\n  ':raises AError, OSError: 1'", []),
    ],
)
def test_each_kind_of_gap_is_found(source: str, expected: list[str]):
    assert [gap.partition(": ")[2] for gap in gaps(source)] == expected
