"""Validates files and requests that people write, with error messages that name the field and the correction."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from mtorl.runtime.message import Message, prefixed, rephrased
from mtorl.runtime.messages import UNREADABLE


class StrictModel(BaseModel):
    """A pydantic model that can't be changed, does not convert types, and accepts no unknown fields.

    A docstring under a field becomes the description of the field in the JSON schema.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with changed fields, which is validated like a new model.

        Raises:
            ValidationError: A changed field is invalid.
        """
        return self.model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @model_validator(mode="wrap")
    @classmethod
    def _fields_are_known(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return handler(data)
        if not isinstance(data, Mapping):
            raise PydanticCustomError("mapping", "expected a mapping of fields, got {given}", {"given": short(data)})
        unknown = [key for key in data if key not in cls.model_fields]
        if not unknown:
            return handler(dict(data))
        words, known = "unknown field {key}; known: {known}", ", ".join(cls.model_fields)
        kinds = [PydanticCustomError("unknown_field", words, {"key": repr(key), "known": known}) for key in unknown]
        faults = [InitErrorDetails(type=kind, input=data[key]) for kind, key in zip(kinds, unknown, strict=True)]
        # Add the errors of the known fields, so that one message contains all errors.
        try:
            handler({key: value for key, value in data.items() if key in cls.model_fields})
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                kind = PydanticCustomError(fault["type"], fault["msg"], fault.get("ctx"))
                faults.append(InitErrorDetails(type=kind, loc=fault["loc"], input=fault["input"]))
        raise ValidationError.from_exception_data(cls.__name__, faults)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("text", "expected text, got {given}", {"given": repr(text)})
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
"""Text that is not blank."""

FromList = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Accepts a list where a field is a tuple. For example, `Annotated[tuple[Arm, ...], FromList]` is a list in a file and
a tuple in the model."""


class NoneInWord:
    """Lets a field accept the word `none` instead of null: `Annotated[float | None, NoneInWord()] = 24.0`.

    `kubectl apply` drops null fields, so a field with a default could not be set to null.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: None if value == "none" else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {**found, "anyOf": [*found["anyOf"], {"const": "none", "type": "string"}]}


Model = TypeVar("Model", bound=StrictModel)


def validated(model: type[Model], data: object, fault: type[Exception], folder: Path | None = None) -> Model:
    """Create a model from plain values, such as the content of a YAML file.

    Args:
        fault: Exception to raise if the values are invalid.
        folder: Folder to which paths in the values are relative.
    """
    try:
        return model.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        raise fault(all_faults(error)) from None


def read_yaml(path: Path, what: str, fault: type[Exception]) -> Any:
    """Return the content of a YAML file as plain values, or raise `fault`.

    Args:
        what: Kind of file, for the error message.
    """
    try:
        return plain_values(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fault(UNREADABLE(file=path, what=what, reason=error)) from error


def plain_values(text: str | bytes) -> Any:
    """Return the content of a YAML text as plain values.

    Raises:
        ValueError: The text is not YAML or contains an invalid value.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_yaml(model: type[Model], path: Path, what: str, fault: type[Exception]) -> Model:
    """Create a model from a YAML file, or raise `fault` with the file's name.

    Args:
        what: Kind of file, for the error message.
    """
    data = read_yaml(path, what, fault)
    try:
        return validated(model, data, fault)
    except fault as error:
        raise fault(prefixed(path, error)) from None


def all_faults(error: ValidationError) -> Message:
    """Return one message about all errors in the input; several errors have the code `faults`."""
    faults = [_message(fault) for fault in _of_people(error)]
    lines = "\n  - ".join([f"{len(faults)} faults:", *faults])
    return faults[0] if len(faults) == 1 else Message(lines, "faults", {"faults": faults})


def first_fault(error: ValidationError) -> Message:
    """Return a message about the first error in the input, with the error's code and the path of the field."""
    return _message(_of_people(error)[0])


def _of_people(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors without those about a default that depends on another invalid field."""
    faults = error.errors(include_url=False)
    return [fault for fault in faults if fault["type"] != "default_factory_not_called"] or faults


def _message(fault: ErrorDetails) -> Message:
    # Pydantic puts the exception of a validator here, but for invalid JSON a text.
    error = fault.get("ctx", {}).get("error")
    own = rephrased(error if isinstance(error, ValueError) else ValueError(), "")
    code = own.code or fault["type"].replace("_", "-")
    return Message(_in_words(fault), code, {"at": location(fault["loc"]), **own.values})


def _in_words(fault: ErrorDetails) -> str:
    # The message already contains the invalid key, which pydantic appends to the location.
    loc = fault["loc"][:-2] if fault["loc"][-1:] == ("[key]",) else fault["loc"]
    # For an invalid discriminator of a union, pydantic's location lacks the field.
    if fault["type"].startswith("union_tag"):
        loc = (*loc, fault["ctx"]["discriminator"].strip("'"))
    where = location(loc)
    if fault["type"] in ("missing", "union_tag_not_found"):
        where, field = location(loc[:-1]), loc[-1]
        return f"{where + ': ' if where else ''}missing field {str(field)!r}"
    say = _WORDS.get(fault["type"])
    words = say(fault) if say else fault["msg"].removeprefix("Value error, ")
    return f"{where}: {words}" if where else words


def short(value: object) -> str:
    """Return a value as text of at most 60 characters, for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def location(loc: tuple[int | str, ...]) -> str:
    """Return the path of a field as text, such as `arms[0].weight`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _expected(what: str, hint: str = "") -> Callable[[ErrorDetails], str]:
    return lambda fault: f"expected {what}, got {short(fault['input'])}{hint}"


def _bound(words: str, limit: str) -> Callable[[ErrorDetails], str]:
    def say(fault: ErrorDetails) -> str:
        bound = fault["ctx"][limit]
        # An int bound means that the field is an int.
        number = "a whole number" if isinstance(bound, int) else "a number"
        return f"expected {number} {words} {bound:g}, got {short(fault['input'])}"

    return say


def _count(fault: ErrorDetails, limit: str, what: str = "item") -> str:
    number = fault["ctx"][limit]
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_WORDS: Mapping[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": lambda fault: "unknown field",
    "string_type": _expected("text", " (names such as 'on' or '1' need quotes)"),
    "float_type": _expected("a number"),
    **dict.fromkeys(("int_type", "int_from_float"), _expected("a whole number")),
    "finite_number": _expected("a finite number"),
    "bool_type": _expected("true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), _expected("a list")),
    **dict.fromkeys(("dict_type", "model_attributes_type"), _expected("a mapping")),
    "literal_error": lambda fault: (
        f"{short(fault['input'])} is not one of {fault['ctx']['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    ),
    "union_tag_invalid": lambda fault: (
        f"{short(fault['ctx']['tag'])} is not one of {fault['ctx']['expected_tags'].replace(chr(39), '')}"
    ),
    "too_short": lambda fault: f"expected at least {_count(fault, 'min_length')}, got {fault['ctx']['actual_length']}",
    "too_long": lambda fault: f"expected at most {_count(fault, 'max_length')}, got {fault['ctx']['actual_length']}",
    "string_too_short": lambda fault: f"expected at least {_count(fault, 'min_length', 'character')}, got ''",
    "string_too_long": lambda fault: (
        f"expected at most {_count(fault, 'max_length', 'character')}, got {len(fault['input'])}"
    ),
    "greater_than": _bound("above", "gt"),
    "greater_than_equal": _bound("of at least", "ge"),
    "less_than": _bound("below", "lt"),
    "less_than_equal": _bound("of at most", "le"),
}
