"""`selfsight doctor --parameters`: every key of params.yaml with its value and meaning."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel


def describe_parameters(params: BaseModel) -> Iterator[tuple[str, str, str]]:
    """Yields (dotted key, present value, description) of every parameter, in the order of the models."""
    for name, field in type(params).model_fields.items():
        key = field.alias or name
        value = getattr(params, name)
        if isinstance(value, BaseModel):
            for inner, shown, description in describe_parameters(value):
                yield f"{key}.{inner}", shown, description
        else:
            yield key, _shown(value), field.description or ""


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
