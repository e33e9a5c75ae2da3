"""Errors that a user can act on; they end a command with one message and no traceback."""


class InputError(ValueError):
    """What the user gave cannot be used: the message says what came, what was expected, what to change."""
