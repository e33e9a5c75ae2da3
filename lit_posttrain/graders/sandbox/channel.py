"""Lines of plain data over file descriptors, as a box speaks them; standard library only: the fork server loads it."""

import os
from typing import Any

from lit_posttrain.graders.sandbox import plain

MAX_NOTE = 200
SLACK_BYTES = 4096
"""What a message may have beside its values."""
READ_BYTES = 1 << 16


class Channel:
    """The box's end of a conversation.

    Args:
        reading: The descriptor to read from.
        writing: The one to write to; it may be the same.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self.rest = b""

    def receive(self, resolve: plain.Resolve) -> Any:
        """The next message; ends the process where the other side is gone."""
        parts = [self.rest]
        while b"\n" not in parts[-1]:
            part = os.read(self.reading, READ_BYTES)
            if not part:
                os._exit(0)
            parts.append(part)
        line, _, self.rest = b"".join(parts).partition(b"\n")
        return plain.decode(line, len(line), resolve)

    def send(self, data: bytes) -> None:
        """Writes one encoded message."""
        left = memoryview(data + b"\n")
        while left:
            left = left[os.write(self.writing, left) :]


def execute(source: bytes, name: str, names: dict[str, Any]) -> None:
    """Compiles and runs a source in a namespace."""
    exec(compile(source, name, "exec", dont_inherit=True), names)


def described(error: BaseException) -> tuple[str, str]:
    """Class name and message of an exception, short and ASCII; runs the exception's own code."""
    try:
        note = ascii(str(error))[1:-1][:MAX_NOTE]
    except BaseException:  # of the program
        note = ""
    return kind_of(error), note


def kind_of(value: Any) -> str:
    """The name of a value's type, short and ASCII."""
    return ascii(type.__dict__["__name__"].__get__(type(value)))[1:-1][:MAX_NOTE]
