"""The house rules of grow/ that no linter knows: import circles, sizes of files and rooms, names, docstrings."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("grow/**/*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
LONGEST_FILE, LARGEST_ROOM = 300, 12


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(node: ast.AST) -> Iterator[str]:
    """Names of grow's modules that a file imports anywhere, imports for type checking alone left out."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_by(child)


def circle_from(start: str, imports: dict[str, set[str]]) -> list[str]:
    """A chain of imports that leads from a module back to it, or nothing."""
    chains, seen = [[start]], set()
    while chains:
        chain = chains.pop()
        for name in imports[chain[-1]]:
            if name == start:
                return [*chain, name]
            if name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []


def is_public(node: ast.AST) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if not isinstance(node, kinds) or node.name.startswith("_"):
        return False
    return "overload" not in map(ast.unparse, node.decorator_list)  # an overload only declares types


def arguments_in(docstring: str) -> list[str]:
    """Entries of a docstring's `Args:` section, each with its first line."""
    section = re.split(r"^(?!Args)\w+:$", docstring.partition("\nArgs:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^ {4}(?=[\w*])(.*)$", section, re.MULTILINE)


def test_no_file_imports_itself_by_way_of_others():
    modules = {module_of(path): tree for path, tree in TREES.items()}
    imports = {name: {*imported_by(tree)} & modules.keys() - {name} for name, tree in modules.items()}
    circles = [circle_from(name, imports) for name in imports]
    assert [circle for circle in circles if circle] == []


def test_the_search_for_circles_finds_one():
    assert circle_from("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_no_file_is_longer_than_a_reader_can_hold():
    assert {path: n for path in FILES if (n := len(path.read_text().splitlines())) > LONGEST_FILE} == {}


def test_no_room_of_training_holds_more_files_than_can_be_named():
    rooms = Counter(path.parent for path in FILES if path.is_relative_to(ROOT / "grow" / "training"))
    assert {room: count for room, count in rooms.items() if count > LARGEST_ROOM} == {}


def test_no_module_name_serves_twice():
    names = Counter(path.stem for path in FILES if path.stem not in ("__init__", "settings"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_public_class_name_serves_twice():
    nodes = [node for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    names = Counter(node.name for node in nodes if is_public(node))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_file_opens_with_its_purpose():
    assert [path for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_every_public_function_and_class_of_a_module_has_a_docstring():
    missing = [
        f"{module_of(path)}.{node.name}"
        for path, tree in TREES.items()
        for node in tree.body
        if is_public(node) and not ast.get_docstring(node)
    ]
    assert missing == []


def test_every_argument_is_described_by_a_noun_with_a_capital():
    low = [
        f"{module_of(path)}.{node.name}: {entry}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for entry in arguments_in(ast.get_docstring(node) or "")
        if entry.partition(": ")[2][:1].islower()
    ]
    assert low == []
