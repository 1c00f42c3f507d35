"""YAML text -> plain values, with the place in the text of each of them.

Composed, not loaded: nodes keep their marks, no tag runs a constructor, and `1:30` or `on` do not
turn into a number or a boolean where a name stands. Field names are always text. Aliases are
refused: with them one screen of text can stand for gigabytes, and no two readers of a policy
should have to expand it in their heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from controller.core.model import Json
from controller.errors import Problem

Path: TypeAlias = tuple[str | int, ...]

_DEEPEST: Final = 40
_WIDEST_QUOTE: Final = 60
_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = frozenset(
    _TAG + name
    for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "map", "seq")
)


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and where.

    values   the node at each path; keys: the node of the field's name, where there is one
    faults   what can be said against the text before anybody knows what it should mean
    """

    text: str
    value: Json
    values: dict[Path, Node] = field(default_factory=dict)
    keys: dict[Path, ScalarNode] = field(default_factory=dict)
    faults: tuple[Problem, ...] = ()

    def found(self, path: Path) -> str:
        """The value at `path` as written; `nothing` where nothing is."""
        node = self.values.get(path)
        return "nothing" if node is None else quote(self.text, node)

    def at(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of `path`, or of the closest parent that was written."""
        while path and path not in self.values:
            path = path[:-1]
        node = self.values.get(path)
        if path in self.keys and not (isinstance(node, ScalarNode) or _is_flow(node)):
            node = self.keys[path]  # a block begins at its name, not at its first child
        return (1, 1) if node is None else _place(node)


def render(path: Sequence[str | int]) -> str:
    """A path for people: `spec.stages[1].canary.steps[2]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def quote(text: str, node: Node) -> str:
    """What was written for `node`, on one short line."""
    written = text[node.start_mark.index : node.end_mark.index].strip()
    first, *rest = written.splitlines() or ["nothing"]
    if len(first) > _WIDEST_QUOTE:
        return first[:_WIDEST_QUOTE] + " …"
    return f"{first} …" if rest else first


def read(text: str) -> Document:
    """What `text` says. Faults of the text are in the answer: nothing is raised."""
    try:
        nodes = list(_documents(text))
    except (yaml.YAMLError, ValueError, OverflowError) as exc:
        return Document(text, None, faults=(_syntax(text, exc),))
    if not nodes:
        return Document(text, None)
    reading = _Reading(text)
    value = reading.value((), nodes[0])
    for extra in nodes[1:]:
        reading.blame((), extra, "another document", "one policy in each file")
    return Document(text, value, reading.values, reading.keys, tuple(reading.faults))


class _Loader(yaml.SafeLoader):
    """Composes without aliases, and not deeper than any policy is."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("the value itself: aliases are not allowed")
        if self.depth >= _DEEPEST:
            raise self._refusal(f"at most {_DEEPEST} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refusal(self, expected: str) -> ComposerError:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return ComposerError(problem=expected, problem_mark=mark)


def _documents(text: str) -> Iterator[Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    finally:
        loader.dispose()


def _syntax(text: str, exc: Exception) -> Problem:
    if isinstance(exc, ReaderError):
        before = text[: exc.position]
        line = before.count("\n") + 1
        column = exc.position - (before.rfind("\n") + 1) + 1
        found = repr(text[exc.position : exc.position + 1])
        return Problem("", found, "YAML made of printable characters", line, column)
    mark = exc.problem_mark if isinstance(exc, yaml.MarkedYAMLError) else None
    if not isinstance(exc, yaml.MarkedYAMLError) or mark is None:
        return Problem("", f"YAML that cannot be read ({exc})", "YAML", 1, 1)
    lines = text.splitlines()
    written = lines[mark.line].strip() if mark.line < len(lines) else ""
    if isinstance(exc, ComposerError):
        expected = str(exc.problem)
    else:
        expected = f"YAML: {', '.join(part for part in (exc.context, exc.problem) if part)}"
    found = written[:_WIDEST_QUOTE] or "the end of the text"
    return Problem("", found, expected, mark.line + 1, mark.column + 1)


def _is_flow(node: Node | None) -> bool:
    return bool(getattr(node, "flow_style", False))


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Reading:
    """One walk over the nodes of a document: collects places and faults."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[Path, Node] = {}
        self.keys: dict[Path, ScalarNode] = {}
        self.faults: list[Problem] = []

    def value(self, path: Path, node: Node) -> Json:
        """The plain value of `node`."""
        self.values[path] = node
        if node.tag not in _PLAIN_TAGS:
            self.blame(path, node, quote(self.text, node), "a plain value, without a tag")
        if isinstance(node, MappingNode):
            return self._mapping(path, node)
        if isinstance(node, SequenceNode):
            return [self.value((*path, i), child) for i, child in enumerate(node.value)]
        return _scalar(node) if isinstance(node, ScalarNode) else None

    def blame(self, path: Path, node: Node, found: str, expected: str) -> None:
        """Keep one fault, at the place of `node`."""
        line, column = _place(node)
        self.faults.append(Problem(render(path), found, expected, line, column))

    def _mapping(self, path: Path, node: MappingNode) -> Json:
        values: dict[str, Json] = {}
        for key, child in node.value:
            if not isinstance(key, ScalarNode) or not key.value:
                self.blame(path, key, quote(self.text, key), "the name of a field")
                continue
            # An escape can smuggle in half a surrogate pair, which no encoder takes.
            name = key.value.encode("utf-8", "backslashreplace").decode("utf-8")
            below = (*path, name)
            if name in values:
                first = _place(self.keys[below])[0]
                expected = f"each field once: it stands on line {first} already"
                self.blame(below, key, f"{name} again", expected)
                continue
            self.keys[below] = key
            values[name] = self.value(below, child)
        return values


def _scalar(node: ScalarNode) -> Json:
    """The value of a scalar: a number, a boolean, nothing, or else the text as it stands."""
    kind = node.tag.removeprefix(_TAG)
    text = str(node.value)
    constructor = SafeConstructor()
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return constructor.construct_yaml_bool(node)
        if kind == "int":
            return constructor.construct_yaml_int(node)
        if kind == "float":
            return constructor.construct_yaml_float(node)
    except (ConstructorError, ValueError, OverflowError, KeyError, IndexError):
        return text  # `!!int five`: left as text, so that its field's type refuses it
    return text
