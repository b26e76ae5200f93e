"""Defines the base class of errors that a user can fix."""


class InputError(Exception):
    """An error in the user's input, shown without a traceback. The message says how to fix it."""
