"""What a chat template's text tells without rendering it: its variables, their words, and the fields that it reads."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tpo.config.template_arguments import TAKEN

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a turn, in most templates
_IS_THOUGHT = re.compile(r"(?:\w+_)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|cot)(?:_\w+)?", re.IGNORECASE)
_FUNCTIONS = frozenset({"raise_exception", "strftime_now"})  # of transformers


class _Generation(Extension):
    """`{% generation %}`, with which templates mark what an assistant says."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's name)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the block's contents."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True)
class TemplateSource:
    """What a template's text tells.

    Attributes:
        text: Of the template.
        choices: The variables that a user may give, each with the values, beside true and false, that the template
            compares it with: words such as "high", or `{"type": "disabled"}` where it compares an attribute.
        fields: Names under which a turn may hold its thought.
    """

    text: str
    choices: Mapping[str, tuple[Any, ...]]
    fields: tuple[str, ...]


def read_source(text: str) -> TemplateSource:
    """Return what a template's text tells; nothing of one that is no Jinja template, which rendering tells."""
    environment = ImmutableSandboxedEnvironment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(text)
        names = meta.find_undeclared_variables(tree) - TAKEN - _FUNCTIONS - _own_names(tree)
    except TemplateSyntaxError:
        return TemplateSource(text, {}, THOUGHT_FIELDS)
    found: dict[str, list[Any]] = {name: [] for name in sorted(names)}
    for name, value in _compared(tree, names):
        if value not in found[name]:
            found[name].append(value)
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    attributes |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    fields = sorted(name for name in attributes if name.isidentifier() and _IS_THOUGHT.fullmatch(name))
    choices = {name: tuple(values) for name, values in found.items()}
    return TemplateSource(text, choices, tuple(dict.fromkeys((*THOUGHT_FIELDS, *fields))))


def _own_names(tree: nodes.Template) -> set[str]:
    """Return the names that the template sets for itself, and not only where they were not given.

    `find_undeclared_variables` counts those that are set in one branch and read after it.
    """
    own = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in ("defined", "undefined", "none", "default", "d") and isinstance(node.node, nodes.Name):
            own.discard(node.node.name)
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.node, nodes.Or):
            own -= _names(assign.target) & _names(assign.node)
    return own


def _compared(tree: nodes.Template, names: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield variables with the words that they are compared with, also under the names that the template gives them."""
    aliases: dict[str, set[str]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            aliases.setdefault(assign.target.name, set()).update(_names(assign.node))
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        words = [word for side in sides for word in _words(side)]
        for name, path in filter(None, map(_variable, sides)):
            for known in sorted(({name} | aliases.get(name, set())) & names):
                for word in words:
                    value: Any = word
                    for key in reversed(path):
                        value = {key: value}
                    yield known, value


def _names(node: nodes.Node) -> set[str]:
    own = {node.name} if isinstance(node, nodes.Name) else set()
    return own | {name.name for name in node.find_all(nodes.Name)}


def _words(node: nodes.Expr) -> list[str]:
    """Return the words of an operand: one, or those of a list."""
    try:
        value = node.as_const()
    except nodes.Impossible:
        return []
    listed = value if isinstance(value, list | tuple) else [value]
    return [word for word in listed if isinstance(word, str)]


def _variable(node: nodes.Expr) -> tuple[str, tuple[str, ...]] | None:
    """Return the name and the attributes that an operand is read from: `(x | lower)`, `x.strip()`, `x.type`."""
    path: list[str] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            node = node.node.node
        elif isinstance(node, nodes.Filter) and node.node is not None:
            node = node.node
        elif isinstance(node, nodes.Getattr):
            path.insert(0, node.attr)
            node = node.node
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            path.insert(0, node.arg.value)
            node = node.node
        else:
            return None
    return node.name, tuple(path)
