"""Messages with a code and values for programs and tests, and words for people.

    # messages.py of a package: its catalogue
    NO_COLUMN = Words("no-column", "{file}: no column {column}. Name it under columns in {dataset}.")

    # where the error occurs
    raise LogError(NO_COLUMN(file=path, column="cost", dataset="my-log.yaml"))

The words say what happened, where, and what to do. The items of a list are separated by commas, or by the text after
the colon in the list's field: `{checks:; }`.
"""

import string
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple


class Message(str):
    """The text of one message, with its `code` and `values`."""

    code: str
    values: dict[str, Any]

    def __new__(cls, text: str, code: str = "", values: dict[str, Any] | None = None) -> "Message":
        """Create a message from its text; without a code it is an ordinary string."""
        message = super().__new__(cls, text)
        message.code, message.values = code, values or {}
        return message

    @property
    def body(self) -> dict[str, Any]:
        """The body of an HTTP response: `error`, `code` and `values`."""
        return {"error": self, "code": self.code, "values": self.values}

    @property
    def camel_code(self) -> str:
        """The code in the form of a Kubernetes reason: `no-column` becomes NoColumn."""
        return "".join(part.capitalize() for part in self.code.split("-"))


def rephrased(said: BaseException | str, text: str) -> Message:
    """A message with a new text, and the code and values of an error or message."""
    message = said.args[0] if isinstance(said, BaseException) and said.args else said
    return Message(text, getattr(message, "code", ""), getattr(message, "values", None))


def prefixed(where: object, said: BaseException | str) -> Message:
    """A message whose text begins with the file, row or field, if there is one; code and values stay."""
    return rephrased(said, f"{where}: {said}" if where else str(said))


def joined(said: Sequence[str], by: str = "; ") -> Message:
    """Several messages as one, with the code and values of the first."""
    return rephrased(said[0], by.join(said))


def plain(value: Any) -> Any:
    """A value in JSON's types: a dataclass becomes a mapping, and any other type, such as a path, becomes text."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case None | str() | int() | float():
            return value
        case dict():
            return {str(name): plain(one) for name, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
    return value.item() if hasattr(value, "item") else str(value)  # `item` converts NumPy numbers


class _Lists(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if isinstance(value, list | tuple):
            return (format_spec or ", ").join(map(str, value))
        return super().format_field(value, format_spec)


class Words(NamedTuple):
    """An entry of a catalogue: a code, and a text with a `{name}` for each value."""

    code: str
    template: str

    def __call__(self, **values: Any) -> Message:
        """Fill in the values. TypeError, a bug of the caller: a value is missing or unknown."""
        if values.keys() != (names := self.names):
            raise TypeError(f"message {self.code} takes {sorted(names)}, not {sorted(values)}")
        text = _Lists().vformat(self.template, (), values)
        return Message(text, self.code, {name: plain(value) for name, value in values.items()})

    @property
    def names(self) -> set[str]:
        """Names of the values."""
        return {
            field.split(".")[0].split("[")[0] for _, field, _, _ in string.Formatter().parse(self.template) if field
        }
