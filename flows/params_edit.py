"""`--set`, `--data`, `--eval` and `--recipe`: changes to `params.yaml`, checked whole before anything is written."""

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.named_sources import NAME, NAMING
from components.errors import UserError
from components.parameters import refuse_secrets
from components.redaction import redact
from components.stages.params import yaml_problem
from flows.yaml_text import parse, remove_key, set_value

RECIPES = Path("infra/recipes")
_NAMED = re.compile(r"[^=/?:]*=")


@dataclass(frozen=True)
class Request:
    """What the command line asks to change."""

    data: str | Mapping[str, str] | None = None
    """One URI, or several by name."""
    eval: str | Mapping[str, str] | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    """`KEY=VALUE`, dotted key, YAML value."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self == Request()


def sources_given(values: Sequence[str] | None, option: str) -> str | dict[str, str] | None:
    """What `--data` or `--eval`, given once or often, stands for.

    What is before the first `=` is a name unless it holds `/`, `?` or `:`, as `scenes?seed=1` and `s3://b/day=1` do; a
    folder `day=1` is written `./day=1`.

    Args:
        values: each `URI` or `NAME=URI`.
        option: as typed, for messages.

    Returns:
        One URI, several by name, or None if nothing is given.

    Raises:
        UserError: if a name is none or is given twice, or if there are several URIs and not all have names.
    """
    if not values:
        return None
    if len(values) == 1 and not _NAMED.match(values[0]):
        return values[0]
    found: dict[str, str] = {}
    for value in values:
        name, equals, uri = value.partition("=")
        if not equals or not _NAMED.match(value):
            message = f"{option} {redact(value)}: of several sources each needs a name"
            raise UserError(message, remedy=f"write {option} NAME=URI; {NAMING}")
        if not NAME.fullmatch(name):
            remedy = f"{NAMING}; a path that holds '=' begins with ./"
            raise UserError(f"{option}: '{name}' before '=' is no name of a source", remedy=remedy)
        if name in found:
            raise UserError(f"{option}: '{name}' is given twice", remedy="give each source a name of its own")
        found[name] = uri
    return found


def edit_params(path: Path, request: Request, check: Callable[[str], object], *, recipes: Path = RECIPES) -> str:
    """Changes `params.yaml` in place, comments kept.

    Later ones win: the recipe, then the sources, then single keys. Of a section that the recipe names, all becomes as
    the recipe says: what it does not name falls back to its default.

    Args:
        path: the file.
        request: what to change.
        check: raises a `UserError` if the new text is no valid set of parameters; called before writing.
        recipes: folder of the recipes.

    Returns:
        The difference, as lines to show; empty if nothing changed.

    Raises:
        UserError: for an unknown recipe, a malformed or secret value, or what `check` refuses.
    """
    if request.is_empty:
        return ""
    before = _read(path)
    after = _changed(before, request, recipes)
    check(after)
    if after == before:
        return ""
    _write(path, after)
    return _difference(before, after, path.name)


def edited_params(path: Path, request: Request, *, recipes: Path = RECIPES) -> str:
    """What `edit_params` would make of `params.yaml`, which stays as it is; the text may be no valid parameters.

    Raises:
        UserError: as `edit_params`.
    """
    return _changed(_read(path), request, recipes)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="run in the root of the project") from None
    _require_mapping(text, path)
    return text


def _changed(text: str, request: Request, recipes: Path) -> str:
    recipe = _read_recipe(request.recipe, recipes) if request.recipe is not None else {}
    text = _without_others(text, recipe)
    # each of these takes 15 ms, and a recipe has a hundred
    present = [*_leaves(parse(text))] if recipe else []
    differing = [one for one in _leaves(recipe) if not _holds(present, one)]
    for keys, value in (*differing, *_changes(request)):
        refuse_secrets(value, keys, "params.yaml")
        text = set_value(text, keys, value)
    return text


def _holds(leaves: list[tuple[list[str], Any]], leaf: tuple[list[str], Any]) -> bool:
    return any(one == leaf and type(one[1]) is type(leaf[1]) for one in leaves)


def known_recipes(recipes: Path = RECIPES) -> list[str]:
    """Names of the recipes there are."""
    return sorted(file.stem for file in recipes.glob("*.yaml"))


def _require_mapping(text: str, path: Path) -> None:
    from ruamel.yaml import YAMLError

    try:
        values = parse(text)
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({yaml_problem(error)})", remedy="mend that line") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no sections", remedy="restore it with `git checkout params.yaml`")


def _without_others(text: str, recipe: Mapping[str, Any]) -> str:
    """The text without the keys that the recipe does not name in the sections that it names."""
    wanted = {tuple(keys) for keys, _ in _leaves(recipe)}
    present = {name: section for name, section in parse(text).items() if name in recipe}
    for keys, _ in _leaves(present):
        # from the outermost mapping that holds nothing of the recipe
        for depth in range(2, len(keys) + 1):
            outer = tuple(keys[:depth])
            if not any(one[:depth] == outer or outer[: len(one)] == one for one in wanted):
                text = remove_key(text, outer)
                break
    return text


def _changes(request: Request) -> list[tuple[list[str], Any]]:
    changes: list[tuple[list[str], Any]] = []
    if request.data is not None:
        # labelled images of another source would say nothing about this one
        changes += [(["snapshot", "source"], _plain(request.data)), (["snapshot", "eval"], None)]
    if request.eval is not None:
        changes.append((["snapshot", "eval"], _plain(request.eval)))
    return changes + [_parse_override(override) for override in request.overrides]


def _plain(given: str | Mapping[str, str]) -> str | dict[str, str]:
    return given if isinstance(given, str) else dict(given)


def _read_recipe(name: str, recipes: Path) -> dict[str, Any]:
    file = recipes / f"{name}.yaml"
    known = known_recipes(recipes)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(known) or 'none'}"
        raise UserError(f"there is no recipe '{name}' in {recipes}", remedy=remedy)
    values = parse(file.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise UserError(f"{file}: no sections", remedy="write it as a part of params.yaml")
    return values


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[list[str], Any]]:
    found: list[tuple[list[str], Any]] = []
    for name, value in values.items():
        here = (*path, str(name))
        found += _leaves(value, here) if isinstance(value, Mapping) and value else [([*here], value)]
    return found


def _parse_override(override: str) -> tuple[list[str], Any]:
    from ruamel.yaml import YAMLError

    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: not KEY=VALUE", remedy="write for example --set pretrain.seed=1")
    try:
        return keys, parse(text)
    except YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML", remedy="quote it: KEY='\"…\"'") from None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(path.stat().st_mode & 0o777)
    temporary.replace(path)


def _difference(before: str, after: str, name: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("@@", "---", "+++")))
