"""Messages with a code: programs and tests compare codes and values, people read the words.

    # messages.py of a room: its catalogue
    NO_COLUMN = Words("no-column", "{file}: no column {column}. Name it under columns in {dataset}.")

    # where it happens
    raise LogError(NO_COLUMN(file=path, column="cost", dataset="my-log.yaml"))

Words say what happened, where, and what to do. A list among the values is written with commas, or with the separator
that follows a colon in its place.
"""

import string
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple


class Message(str):
    """The words of one case, with its `code` and `values`."""

    code: str
    values: dict[str, Any]

    def __new__(cls, text: str, code: str = "", values: dict[str, Any] | None = None) -> "Message":
        """Make a message of its words; without a code it is like any other string."""
        message = super().__new__(cls, text)
        message.code, message.values = code, values or {}
        return message

    @property
    def body(self) -> dict[str, Any]:
        """The body of an HTTP answer: `error`, `code` and `values`."""
        return {"error": self, "code": self.code, "values": self.values}

    @property
    def camel_code(self) -> str:
        """The code as Kubernetes writes a reason: `no-column` is NoColumn."""
        return "".join(part.capitalize() for part in self.code.split("-"))


def rephrased(said: BaseException | str, text: str) -> Message:
    """Other words for an error or a message, with its code and values."""
    message = said.args[0] if isinstance(said, BaseException) and said.args else said
    return Message(text, getattr(message, "code", ""), getattr(message, "values", None))


def prefixed(where: object, said: BaseException | str) -> Message:
    """An error or a message after the file, row or field that it is about, if any; code and values stay."""
    return rephrased(said, f"{where}: {said}" if where else str(said))


def joined(said: Sequence[str], by: str = "; ") -> Message:
    """Several messages as one, with code and values of the first."""
    return rephrased(said[0], by.join(said))


def plain(value: Any) -> Any:
    """A value as JSON has it: a dataclass as its fields; of what JSON has no type for, such as a path, the text."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case None | str() | int() | float():
            return value
        case dict():
            return {str(name): plain(one) for name, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
    return value.item() if hasattr(value, "item") else str(value)  # numpy's numbers have one


class _Lists(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if isinstance(value, list | tuple):
            return (format_spec or ", ").join(map(str, value))
        return super().format_field(value, format_spec)


class Words(NamedTuple):
    """An entry of a catalogue: its code and its words, with a `{name}` for each value."""

    code: str
    template: str

    def __call__(self, **values: Any) -> Message:
        """Fill the words with values. TypeError, a fault of the caller: a value is missing, or one too many."""
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
