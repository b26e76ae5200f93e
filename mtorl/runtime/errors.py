"""The base of all errors that users can mend."""


class InputError(Exception):
    """Input can't be used; the message says what is wrong and what to do.

    A command and a pipeline's step end with that message. Every other error is a fault of ours and shows its traceback.
    """
