"""Messages with a text for people, and with a code and values for programs and tests.

    NO_COLUMN = Words("no-column", "{file}: no column {column}. Name it under columns in {dataset}.")
    raise LogError(NO_COLUMN(file=path, column="cost", dataset="my-log.yaml"))

The items of a list are separated by commas in the text.
"""

import string
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple


class Message(str):
    """A string that also has a `code` and `values`."""

    code: str
    values: dict[str, Any]

    def __new__(cls, text: str, code: str = "", values: dict[str, Any] | None = None) -> "Message":
        """Create a message from its text."""
        message = super().__new__(cls, text)
        message.code, message.values = code, values or {}
        return message

    @property
    def body(self) -> dict[str, Any]:
        """The message as the body of an HTTP response."""
        return {"error": self, "code": self.code, "values": self.values}

    @property
    def camel_code(self) -> str:
        """The code as the reason of a Kubernetes condition: `no-column` becomes NoColumn."""
        return "".join(part.capitalize() for part in self.code.split("-"))


def rephrased(said: BaseException | str, text: str) -> Message:
    """Return a message with the new `text`, and with the code and values of `said`."""
    message = said.args[0] if isinstance(said, BaseException) and said.args else said
    return Message(text, getattr(message, "code", ""), getattr(message, "values", None))


def prefixed(where: object, said: BaseException | str) -> Message:
    """Put the place of an error in front of a message, as `WHERE: TEXT`."""
    return rephrased(said, f"{where}: {said}" if where else str(said))


def joined(said: Sequence[str], by: str = "; ") -> Message:
    """Join the texts of several messages; code and values are those of the first."""
    return rephrased(said[0], by.join(said))


def plain(value: Any) -> Any:
    """Convert a value to types that JSON knows; an unknown type, such as a path, becomes text."""
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
    """The template of a message, with a `{name}` for each value."""

    code: str
    template: str

    def __call__(self, **values: Any) -> Message:
        """Create the message by filling values into the template.

        Raises:
            TypeError: The values do not match the fields of the template.
        """
        if values.keys() != (names := self.names):
            raise TypeError(f"message {self.code} takes {sorted(names)}, not {sorted(values)}")
        text = _Lists().vformat(self.template, (), values)
        return Message(text, self.code, {name: plain(value) for name, value in values.items()})

    @property
    def names(self) -> set[str]:
        """Names of the fields in the template."""
        return {
            field.split(".")[0].split("[")[0] for _, field, _, _ in string.Formatter().parse(self.template) if field
        }
