"""Programs in boxes, seen from outside: what is asked of them and how their answers are read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_posttrain.graders.sandbox import plain
from lit_posttrain.graders.sandbox.conversation import KIB, Child, Conversation, Ended, SandboxFailure, ending
from lit_posttrain.graders.sandbox.interface import Box, End, Limits, Question, Reference, Reply

SLACK_BYTES = 4096
MAX_NOTE = 200
UNBOUNDED = 1 << 40
"""For what we send ourselves."""
ASKED = (End.RETURNED, End.RAISED)
NO_CHANNEL_WORD = "it ended without a word"


def refusal(source: str, limits: Limits) -> Reply | None:
    """Why a text is not even tried as a program, or None. It is not parsed here: parsers can be hurt."""
    if len(source) > limits.source_kib * KIB:
        return Reply(End.REJECTED, note=f"more than {limits.source_kib} KiB of source")
    if "\0" in source:
        return Reply(End.REJECTED, note="NUL in the source")
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        return Reply(End.REJECTED, note="the source is no Unicode text")
    if size > limits.source_kib * KIB:
        return Reply(End.REJECTED, note=f"more than {limits.source_kib} KiB of source")
    return None


class EndedBox(Box):
    """A box in which nothing runs: every reply is the same.

    Args:
        reply: That reply.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def call(
        self,
        target: str | Reference,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
        *,
        keeps_objects: bool = False,
        tells_arguments: bool = False,
    ) -> Reply:
        """The reply."""
        return self.reply

    def get(self, target: str | Reference, name: str = "") -> Reply:
        """The reply."""
        return self.reply

    def set(self, target: Reference, name: str, value: Any) -> Reply:
        """The reply."""
        return self.reply

    def close(self) -> None:
        """Nothing is open."""


class ChildBox(Box):
    """A program in a child process of its own, loaded when this returns.

    Args:
        child: The process; owned from here on.
        source: The program; `refusal` has nothing against it.
        limits: What it may use.
    """

    def __init__(self, child: Child, source: str, limits: Limits) -> None:
        self.child, self.limits = child, limits
        self._ended: Reply | None = None
        self._talk = Conversation(child, limits, 2 * limits.output_kib * KIB + SLACK_BYTES)
        loaded = self._ask(["program", source.encode(), limits.output_kib * KIB])
        self._ended = None if loaded.end is End.RETURNED else loaded

    @property
    def loaded(self) -> Reply:
        """How loading it ended, or how it all ended since."""
        return self._ended or Reply(End.RETURNED)

    def call(
        self,
        target: str | Reference,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
        *,
        keeps_objects: bool = False,
        tells_arguments: bool = False,
    ) -> Reply:
        """Calls a function by name, or an object; see `Box`."""
        named = dict(keywords or {})
        question = ["call", target, list(arguments), named, keeps_objects, tells_arguments]
        return self._ask(question, keeps_objects=keeps_objects or tells_arguments)

    def get(self, target: str | Reference, name: str = "") -> Reply:
        """A global of the program, or an attribute; see `Box`."""
        return self._ask(["get", target, name], keeps_objects=True)

    def set(self, target: Reference, name: str, value: Any) -> Reply:
        """Sets an attribute of an object; see `Box`."""
        return self._ask(["set", target, name, value])

    def close(self) -> None:
        """Kills the program and all it started."""
        self._ended = self._ended or Reply(End.DIED, note="the box was closed")
        self.child.close()

    def _ask(self, question: list[Any], *, keeps_objects: bool = False) -> Reply:
        if self._ended is not None:
            return self._ended
        try:
            line = self._talk.exchange(plain.encode(question, UNBOUNDED, _refer))
            reply = _reply(line, self._talk.max_line, keeps_objects)
        except (Ended, SandboxFailure, OSError, plain.Unfit) as error:
            reply = _failed(error)
        if reply.end not in ASKED:
            self._ended = reply
            self.child.close()
        return reply


def run_script(child: Child, source: str, stdin: bytes, limits: Limits) -> Reply:
    """Runs a program as `__main__` in this child, to its end; `refusal` has nothing against the source."""
    talk = Conversation(child, limits, SLACK_BYTES)
    try:
        message: list[Any] = ["script", source.encode(), limits.output_kib * KIB]
        if child.stdin_fd is None:
            message.append(stdin)
        line = talk.run_to_end(plain.encode(message, UNBOUNDED, _refer), stdin)
        reply = _reply(line.rstrip(b"\n"), SLACK_BYTES, False) if line else _silent(talk)
    except (Ended, SandboxFailure, OSError) as error:
        reply = _failed(error)
    finally:
        child.close()
    return Reply(reply.end, error=reply.error, note=reply.note, printed=talk.stdout)


def _silent(talk: Conversation) -> Reply:
    """A script that ended without a word: like any process it may exit with status 0."""
    exit = talk.exit()
    if exit.code == 0:
        return Reply(End.RETURNED, note=NO_CHANNEL_WORD)
    return Ended(*ending(exit, talk.limits)).reply


def run_judge(child: Child, tests: str, ask: Callable[[Question], Reply], limits: Limits) -> Reply:
    """Runs trusted test code in this child; `ask` answers what it asks about the program, in this thread.

    The first answer that is neither RETURNED nor RAISED is the result. Tests that hand the program what cannot be
    carried to it give SANDBOX_ERROR with `error` "CannotAsk".
    """
    talk = Conversation(child, limits, 2 * limits.output_kib * KIB + SLACK_BYTES)
    message: list[Any] = ["judge", tests.encode(), limits.output_kib * KIB]
    try:
        while True:
            heard = _heard(talk.exchange(plain.encode(message, UNBOUNDED, _refer)), talk.max_line)
            if heard[0] == "ended":
                return _judged(*heard[1:])
            reply = ask(Question(*heard[1:]))
            if reply.end not in ASKED:
                return reply
            message = [str(reply.end), reply.value, list(reply.arguments), reply.error, reply.note]
    except (Ended, SandboxFailure, OSError, plain.Unfit) as error:
        return _failed(error)
    finally:
        child.close()


def _heard(line: bytes, max_bytes: int) -> list[Any]:
    try:
        return plain.decode(line, max_bytes, Reference)
    except plain.Unfit as error:
        raise Ended(End.PROTOCOL_ERROR, str(error)) from None


def _judged(how: str, error: str, note: str) -> Reply:
    return Reply(
        End.SANDBOX_ERROR if how == "unjudgeable" else End(how), error=short(error), note=short(note)
    )


def _reply(line: bytes, max_bytes: int, keeps_objects: bool) -> Reply:
    """What a program answered, checked: it may be any bytes."""
    try:
        message = plain.decode(
            line, max_bytes, lambda n, kind: Reference(n if keeps_objects else -1, short(kind))
        )
    except plain.Unfit as error:
        raise Ended(End.PROTOCOL_ERROR, str(error)) from None
    match message:
        case [("returned" | "raised" | "output_limit") as end, value, tuple(after), str(error), str(note)]:
            end = End.MEMORY_LIMIT if end == "raised" and error == "MemoryError" else End(end)
            return Reply(end, value, after, short(error), short(note))
    raise Ended(End.PROTOCOL_ERROR, "an answer of no known form")


def _failed(error: Exception) -> Reply:
    if isinstance(error, Ended):
        return error.reply
    if isinstance(error, plain.Unfit):  # what the program gave is too deep to be handed on
        return Reply(End.PROTOCOL_ERROR, note=short(str(error)))
    return Reply(End.SANDBOX_ERROR, error=type(error).__name__, note=short(str(error)))


def short(text: str) -> str:
    """A text for people: printable ASCII, 200 characters at most."""
    text = text[:MAX_NOTE]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1][:MAX_NOTE]


def _refer(value: Any) -> tuple[int, str]:
    if isinstance(value, Reference):
        return value.number, value.kind
    raise TypeError(f"{type(value).__name__} is no plain data and cannot be sent to a program")
