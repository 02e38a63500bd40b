"""The base of every parameter model, and validation errors rewritten for people."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import UserError


class Params(BaseModel):
    """Frozen parameters; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


P = TypeVar("P", bound=Params)


def validate(model: type[P], values: Mapping[str, Any], *, where: str) -> P:
    """Build `model` from plain values.

    Args:
        model: the parameter model.
        values: plain mapping, as read from YAML.
        where: name of the file the values come from, for the message.

    Raises:
        UserError: naming the key, its value, what is allowed and, for an unknown key, the nearest valid one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(model, error, where) from None


def _explain(model: type[Params], error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(model, location[:-1])
        nearest = difflib.get_close_matches(location[-1], allowed, n=1, cutoff=0.5)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else f"known keys are {', '.join(allowed)}"
        return UserError(f"{where}: unknown key '{key}'{more}", remedy=remedy)
    if first["type"] == "missing":
        return UserError(f"{where}: key '{key}' is missing{more}", remedy="add it; `selfsight doctor` lists all keys")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, (str, int, float, bool, list, type(None))) else ""
    return UserError(f"{where}: '{key}'{shown}{more}" if key else f"{where}{more}", remedy=message)


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the model nested at `path`."""
    for part in path:
        field = model.model_fields.get(part)
        nested = _model_in(field.annotation) if field else None
        if nested is None:
            continue
        model = nested
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _model_in(argument):
            return found
    return None
