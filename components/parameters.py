"""The base of every parameter model, and validation errors rewritten for people."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import UserError
from components.redaction import holds_secret


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
        UserError: naming the key, its value (but for one with a password or key in it), what is allowed and, for an
            unknown key, the nearest valid one.
    """
    refuse_secrets(values, (), where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(model, error, where) from None


def refuse_secrets(value: Any, path: Sequence[str], where: str) -> None:
    """Parameters go to git, DVC and MLflow, so that no secret may be among them; the message does not repeat it.

    Args:
        value: a plain value, mappings and lists included.
        path: keys that lead to it.
        where: name of the file, for the message.

    Raises:
        UserError: naming the key.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_secrets(inner, (*path, str(name)), where)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            refuse_secrets(inner, path, where)
    elif isinstance(value, str) and holds_secret(value):
        remedy = "give credentials in the environment (AWS_ACCESS_KEY_ID …) or in ~/.aws"
        raise UserError(f"{where}: the value of '{'.'.join(path)}' contains a password or key", remedy=remedy)


def parameters_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values as canonical JSON: independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        return UserError(f"{where}: key '{key}' is missing{more}", remedy=f"add it: {_meaning(model, location)}")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, (str, int, float, bool, list, type(None))) else ""
    return UserError(f"{where}: '{key}'{shown}{more}" if key else f"{where}{more}", remedy=message)


def _meaning(model: type[BaseModel], path: list[str]) -> str:
    """Description of the field at `path`."""
    owner = _model_at(model, path[:-1])
    found = next((field for name, field in owner.model_fields.items() if path[-1] in (name, field.alias)), None)
    return (found.description if found else None) or "it has no default"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Keys of the model nested at `path`."""
    return [field.alias or name for name, field in _model_at(model, path).model_fields.items()]


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The model nested at `path`; parts that name no model are passed over."""
    for part in path:
        field = next((one for name, one in model.model_fields.items() if part in (name, one.alias)), None)
        model = (_model_in(field.annotation) if field else None) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _model_in(argument):
            return found
    return None
