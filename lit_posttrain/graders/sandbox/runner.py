"""What runs inside a box: loads a program and answers what is asked of it; standard library only, loaded by path.

The channel carries lines of plain data (see `plain.py`). The first says what to do:

- `["program", source, max_bytes]`: loads the source as a module and answers `call`, `get` and `set` in lock-step.
- `["script", source, max_bytes, stdin]`: runs it as `__main__`; `stdin` is None where file 0 is the input.
- `["judge", tests, max_bytes]`: runs trusted test code and asks about the names that it lacks (`judge.py`).

A program can write to the channel itself; it then only spoils its own answers, which others compare.
"""

import atexit
import builtins
import io
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lit_posttrain.graders.sandbox import judge, plain
from lit_posttrain.graders.sandbox.channel import SLACK_BYTES, Channel, described, execute, kind_of

MODULE = "solution"


def serve(channel_fd: int, writing_fd: int | None = None) -> None:
    """Does what the first message asks for, and returns when all is done; exits where the channel ends.

    Args:
        channel_fd: The channel, in both directions, or the one that is read.
        writing_fd: The one that is written to, where that is another.
    """
    channel = Channel(channel_fd, channel_fd if writing_fd is None else writing_fd)
    kind, source, max_bytes, *more = channel.receive(_no_object)
    _fresh_streams()
    if kind == "program":
        _Program(channel, max_bytes).run(source)
    elif kind == "script":
        _script(channel, source, max_bytes, *more)
    elif kind == "judge":
        judge.run(channel, source, max_bytes)


class _Program:
    """A loaded program, and those of its objects that are known outside by number."""

    def __init__(self, channel: Channel, max_bytes: int) -> None:
        self.channel, self.max_bytes = channel, max_bytes
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}

    def run(self, source: bytes) -> None:
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        self.names = module.__dict__
        self.answer(lambda: execute(source, "<program>", self.names), False, ())
        while True:
            kind, target, *details = self.channel.receive(self.resolve)
            {"call": self.call, "get": self.get, "set": self.set}[kind](target, *details)

    def call(
        self, target: Any, arguments: list[Any], keywords: dict[str, Any], keeps: bool, tells: bool
    ) -> None:
        told = (*arguments, *keywords.values()) if tells else ()
        self.answer(lambda: self.find(target)(*arguments, **keywords), keeps, told)

    def get(self, target: Any, name: str) -> None:
        self.answer(lambda: getattr(self.find(target), name) if name else self.find(target), True, ())

    def set(self, target: Any, name: str, value: Any) -> None:
        self.answer(lambda: setattr(target, name, value), False, ())

    def find(self, target: Any) -> Any:
        if type(target) is not str:
            return target
        first, *rest = target.split(".")
        if first not in self.names:
            raise NameError(f"name {first!r} is not defined")
        found = self.names[first]
        for name in rest:
            found = getattr(found, name)
        return found

    def answer(self, action: Callable[[], Any], keeps: bool, told: tuple[Any, ...]) -> None:
        try:
            message = ["returned", action(), told, "", ""]
            data = self.encode(message, keeps)
        except plain.Oversize as error:
            data = self.encode(["output_limit", None, (), "", str(error)], False)
        except BaseException as error:  # whatever a program raises
            data = self.encode(["raised", None, (), *described(error)], False)
        self.channel.send(data)

    def encode(self, message: list[Any], keeps: bool) -> bytes:
        shares = 2 if message[2] else 1
        bound = shares * self.max_bytes + SLACK_BYTES
        return plain.encode(message, bound, self.refer if keeps else _unkept)

    def refer(self, value: Any) -> tuple[int, str]:
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)  # kept, so that its id stays its own
        return number, kind_of(value)

    def resolve(self, number: int, kind: str) -> Any:
        return self.objects[number] if number >= 0 else _no_object(number, kind)


def _script(channel: Channel, source: bytes, max_bytes: int, stdin: bytes | None = None) -> None:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    if stdin is not None:
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(stdin), "utf-8", "surrogateescape")
    message = ["returned", None, (), "", ""]
    try:
        execute(source, "program.py", main.__dict__)
    except SystemExit as error:
        message = message if error.code in (None, 0) else ["raised", None, (), *described(error)]
    except BaseException as error:  # whatever a program raises
        message = ["raised", None, (), *described(error)]
    _finish()
    channel.send(plain.encode(message, max_bytes + SLACK_BYTES, _unkept))


def _finish() -> None:
    """What an interpreter does at its end: waits for threads, runs what was registered, flushes.

    What goes wrong in it is the program's, and its output is what counts.
    """
    with suppress(BaseException):
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(BaseException):
            stream.flush()  # pyright: ignore[reportOptionalMemberAccess]


def _unkept(value: Any) -> tuple[int, str]:
    return -1, kind_of(value)


def _no_object(number: int, kind: str) -> Any:
    raise plain.Unfit(f"there is no object {number} of kind {kind}")


def _fresh_streams() -> None:
    """Text streams on files 0, 1 and 2 that no server has read from or written to."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
