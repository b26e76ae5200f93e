"""The base class of all errors that users can fix."""


class InputError(Exception):
    """The input can't be used; the message says what is wrong and what to do.

    A command or a pipeline step prints this message and exits. Any other error is a bug and shows its traceback.
    """
