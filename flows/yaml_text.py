"""Changes single values in the text of a YAML file and leaves every other character alone."""

import io
from collections.abc import Sequence
from typing import Any

from components.errors import UserError


def parse(text: str) -> Any:
    """The plain value that YAML text stands for."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """Sets one value.

    Args:
        text: a YAML mapping.
        path: keys from the root to the value; those that do not exist are added at the end of their mapping,
            and nothing (null) becomes a mapping.
        value: a plain value.

    Returns:
        The new text; the same one if the value is there already.

    Raises:
        UserError: if a key on the way holds something else than a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode

    node = YAML(typ="safe", pure=True).compose(text)
    key_node = node
    for depth, name in enumerate(path):
        if depth and _is_null(text, node):
            return _replace(text, key_node, node, _nest(path[depth:], value))
        if not isinstance(node, MappingNode):
            key = ".".join(path[:depth])
            raise UserError(f"'{key}' is a value and has no key '{name}'", remedy=f"set '{key}' itself")
        found = next((pair for pair in node.value if pair[0].value == name), None)
        if found is None:
            return _insert(text, node, _nest(path[depth:], value))
        key_node, node = found
    plain = _plain(text, node, path)
    if plain == value and isinstance(plain, bool) == isinstance(value, bool):
        return text
    return _replace(text, key_node, node, value)


def remove_key(text: str, path: Sequence[str]) -> str:
    """Removes one key with its value; comments on lines of their own stay.

    Args:
        text: a YAML mapping.
        path: keys from the root.

    Returns:
        The new text; the same one if there is no such key. A mapping that loses its last key becomes `{}`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode

    node = YAML(typ="safe", pure=True).compose(text)
    for name in path[:-1]:
        node = next((value for key, value in node.value if key.value == name), None)
        if not isinstance(node, MappingNode):
            return text
    found = next((pair for pair in node.value if pair[0].value == path[-1]), None)
    if found is None:
        return text
    if node.flow_style or len(node.value) == 1:
        parent: Any = parse(text)
        for name in path[:-1]:
            parent = parent[name]
        return set_value(text, path[:-1], {key: value for key, value in parent.items() if key != path[-1]})
    key, value = found
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    end = text.find("\n", _end(text, key, value))
    return text[:start] + (text[end + 1 :] if end >= 0 else "")


def _plain(text: str, node: Any, path: Sequence[str]) -> Any:
    """The value of the node at the path. A scalar is read by itself: the whole text takes a hundred times longer."""
    from ruamel.yaml.nodes import ScalarNode

    if isinstance(node, ScalarNode):
        return parse(text[node.start_mark.index : node.end_mark.index])
    plain = parse(text)
    for name in path:
        plain = plain[name]
    return plain


def _is_null(text: str, node: Any) -> bool:
    from ruamel.yaml.nodes import ScalarNode

    return isinstance(node, ScalarNode) and _plain(text, node, ()) is None


def _replace(text: str, key: Any, node: Any, value: Any) -> str:
    end = _end(text, key, node)
    start = min(node.start_mark.index, end)
    if not text[key.end_mark.index : start].replace(":", "", 1).strip():
        return f"{text[: key.end_mark.index]}: {_inline(value)}{text[end:]}"
    return f"{text[:start]}{_inline(value)}{text[end:]}"


def _insert(text: str, mapping: Any, value: dict[str, Any]) -> str:
    if mapping.flow_style:
        separator = ", " if mapping.value else ""
        at = mapping.end_mark.index - 1
        return f"{text[:at]}{separator}{_inline(value)[1:-1]}{text[at:]}"
    at = text.find("\n", _end(text, mapping, mapping))
    at, newline = (len(text), "" if text.endswith("\n") else "\n") if at < 0 else (at + 1, "")
    indent = " " * mapping.start_mark.column
    lines = "".join(f"{indent}{line}\n" for line in _block(value))
    return f"{text[:at]}{newline}{lines}{text[at:]}"


def _end(text: str, key: Any, node: Any) -> int:
    """Where the content of a node ends. The marks of block collections and empty values stand at what follows them."""
    from ruamel.yaml.nodes import CollectionNode, MappingNode

    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last_key, last = node.value[-1] if isinstance(node, MappingNode) else (node.value[-1], node.value[-1])
        return _end(text, last_key, last)
    if node.start_mark.index == node.end_mark.index and key is not node:
        return text.index(":", key.end_mark.index) + 1
    index: int = node.end_mark.index
    return index


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    nested: dict[str, Any] = value
    return nested


def _block(value: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            lines += [f"{_inline(name)}:", *[f"  {line}" for line in _block(inner)]]
        else:
            lines.append(f"{_inline(name)}: {_inline(inner)}")
    return lines


def _inline(value: Any) -> str:
    """A value on one line."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10**6
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue().removesuffix("...\n").rstrip("\n")
