"""Defines the base class of errors that a user can fix."""


class InputError(Exception):
    """An error in the user's input; its message says how to fix it, and is shown without a traceback."""
