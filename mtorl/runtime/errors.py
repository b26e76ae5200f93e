"""Defines the base class of all errors that a user can fix."""


class InputError(Exception):
    """An error in the user's input. Its message says what is wrong and how to fix it.

    A command or a pipeline step prints only this message and exits. Any other error is a bug and is shown with its
    traceback.
    """
