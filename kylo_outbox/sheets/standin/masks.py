"""Field masks: `a,b.c,d(e,f)` read into a tree, used to cut answers and to merge updates."""

from __future__ import annotations

import re
from typing import Any

from kylo_outbox.sheets.standin import schema
from kylo_outbox.sheets.standin.errors import ApiError, Refusal

Tree = dict[str, "Tree"]
"""Field name -> what is wanted below it; an empty tree means everything."""

_TOKEN = re.compile(r"[A-Za-z_*][\w*]*|[(),./]")


def parse(mask: str) -> Tree:
    """Read a mask; `*` alone stands for everything and comes back as {"*": {}}.

    Raises:
        ApiError: 400, not a field mask.
    """
    text = re.sub(r"\s", "", mask)
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ApiError(400, f"Request contains an invalid argument: fields {mask!r}")
    tree: Tree = {}
    rest = _group(tokens, tree)
    if rest:
        raise ApiError(400, f"Request contains an invalid argument: fields {mask!r}")
    return tree


def _group(tokens: list[str], tree: Tree) -> list[str]:
    while tokens:
        name, tokens = tokens[0], tokens[1:]
        if not (name[0].isalpha() or name[0] in "_*"):
            raise ApiError(400, "Request contains an invalid argument: fields")
        tokens = _below(tokens, tree.setdefault(name, {}))
        if not tokens or tokens[0] == ")":
            return tokens
        if tokens[0] != ",":
            raise ApiError(400, "Request contains an invalid argument: fields")
        tokens = tokens[1:]
    raise ApiError(400, "Request contains an invalid argument: fields ends too early")


def _below(tokens: list[str], tree: Tree) -> list[str]:
    while tokens and tokens[0] in "./":
        if len(tokens) == 1:
            raise ApiError(400, "Request contains an invalid argument: fields ends too early")
        tree, tokens = tree.setdefault(tokens[1], {}), tokens[2:]
    if tokens and tokens[0] == "(":
        tokens = _group(tokens[1:], tree)
        if not tokens:
            raise ApiError(400, "Request contains an invalid argument: fields misses a closing parenthesis")
        return tokens[1:]
    return tokens


def check_answer(tree: Tree, of: str) -> None:
    """Judge the `fields` parameter of a call against the type of its answer (400 on an unknown name)."""
    for name, below in tree.items():
        if name == "*":
            continue
        if name not in schema.properties(of):
            raise ApiError(400, f"Request contains an invalid argument: cannot find field {name!r} of {of}")
        inner = schema.field_type(schema.properties(of)[name])
        if below and inner is not None:
            check_answer(below, inner)


def project(value: Any, tree: Tree) -> Any:
    """Return the part of an answer that a mask asks for; what is not there stays away."""
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [project(item, tree) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: project(value[name], below) for name, below in tree.items() if name in value}


def update_mask(mask: str | None, of: str) -> Tree:
    """Read the mask of an update of a type; it must name something, and only fields of the type.

    Raises:
        Refusal: Missing, or naming a field that the type does not have.
    """
    if not mask:
        raise Refusal("At least one field must be listed in 'fields'. (Use '*' to indicate all fields.)")
    try:
        tree = parse(mask)
        check_answer(tree, of)
    except ApiError as error:
        raise Refusal(error.message) from error
    return tree


def merge(old: dict[str, Any], new: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """Return `old` with the masked fields taken from `new`; a field that `new` does not have is cleared.

    Neither argument is changed, so a state that shares parts with `old` stays as it was.
    """
    if "*" in tree:
        return dict(new)
    result = dict(old)
    for name, below in tree.items():
        if below and "*" not in below:
            inner = merge(old.get(name, {}), new.get(name, {}), below)
            if inner:
                result[name] = inner
            else:
                result.pop(name, None)
        elif name in new:
            result[name] = new[name]
        else:
            result.pop(name, None)
    return result
