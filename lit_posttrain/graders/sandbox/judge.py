"""Trusted test code, run in a box of its own; the program that it tests is in another, and is asked about.

Names that the tests lack stand for the program's. An object of the program is opaque here: it can be called,
iterated, indexed, and asked for attributes and whether it is true, but is equal to nothing but itself.
Standard library only, loaded by path.
"""

import builtins
import importlib
from collections.abc import Iterator
from typing import Any

from lit_posttrain.graders.sandbox import plain
from lit_posttrain.graders.sandbox.channel import SLACK_BYTES, Channel, described, execute

PROGRAM = "__program__"
"""In test code, the program's names as attributes, also those that are names of builtins."""
MODULES = frozenset(
    ("math", "cmath", "sys", "re", "string", "random", "copy", "collections", "itertools", "json")
)
"""Modules that tests may name without importing them, where the program was meant to have done so."""
ENDING = (StopIteration, StopAsyncIteration, GeneratorExit)
"""Exceptions that end loops in silence: from a program they are errors like others."""
EXITS = (SystemExit, KeyboardInterrupt, BaseException)


class ProgramError(Exception):
    """The program raised something that is no builtin exception; `name` is its class there."""

    name: str = ""


class ProgramExit(BaseException):
    """The program raised something that is no Exception; `name` is its class there."""

    name: str = ""


class CannotAsk(BaseException):
    """The tests hand the program something that cannot be carried to it."""


def run(channel: Channel, tests: bytes, max_bytes: int) -> None:
    """Runs the tests, and says at last how they ended."""
    asking = _Asking(channel, max_bytes)
    message = ["ended", "returned", "", ""]
    try:
        execute(tests, "<tests>", _Names(asking))
    except CannotAsk as error:
        message = ["ended", "unjudgeable", "CannotAsk", described(error)[1]]
    except plain.Oversize as error:
        message = ["ended", "output_limit", "", str(error)]
    except BaseException as error:  # a test that fails, in whatever way
        message = ["ended", "raised", *_told(error)]
    channel.send(plain.encode(message, max_bytes + SLACK_BYTES, _cannot_refer))


def _told(error: BaseException) -> tuple[str, str]:
    name, note = described(error)
    return (error.name if isinstance(error, ProgramError | ProgramExit) else name), note


class _Names(dict[str, Any]):
    """The global names of test code: its own, then builtins and modules, then the program's."""

    def __init__(self, asking: "_Asking") -> None:
        super().__init__({"__builtins__": builtins, "__name__": "tests", PROGRAM: _Whole(asking)})
        self.asking = asking

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in MODULES:  # a program's own `math` must not decide what is close
            return importlib.import_module(name)
        value = self.asking.ask("get", name)
        if isinstance(value, Opaque):
            self[name] = value
        return value


class _Whole:
    """The program's global names as attributes."""

    def __init__(self, asking: "_Asking") -> None:
        self._asking = asking

    def __getattr__(self, name: str) -> Any:
        return self._asking.ask("get", name)


class _Asking:
    """Questions about the program, and its objects by number."""

    def __init__(self, channel: Channel, max_bytes: int) -> None:
        self.channel, self.max_bytes = channel, max_bytes
        self.opaque: dict[int, Opaque] = {}

    def ask(self, kind: str, target: Any, name: str = "", arguments: Any = (), keywords: Any = None) -> Any:
        """The program's answer; raises what the program raised."""
        end, value, after, error, note = self.put(kind, target, name, arguments, keywords or {})
        for mine, theirs in zip((*arguments, *(keywords or {}).values()), after, strict=False):
            _mirror(mine, theirs)
        if end != "returned":
            raise _raised(error, note)
        return value

    def put(self, kind: str, target: Any, name: str, arguments: Any, keywords: Any) -> list[Any]:
        """Sends a question, and waits for the answer as it comes."""
        question = ["ask", kind, target, name, list(arguments), keywords]
        self.channel.send(plain.encode(question, self.max_bytes + SLACK_BYTES, _refer))
        return self.channel.receive(self.resolve)

    def resolve(self, number: int, kind: str) -> "Opaque":
        return (
            Opaque(self, number, kind)
            if number < 0
            else self.opaque.setdefault(number, Opaque(self, number, kind))
        )


class Opaque:
    """An object of the program."""

    __slots__ = ("_asking", "_kind", "_number")

    def __init__(self, asking: _Asking, number: int, kind: str) -> None:
        for name, value in (("_asking", asking), ("_number", number), ("_kind", kind)):
            object.__setattr__(self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._asking.ask("call", self, "", arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        return self._asking.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asking.ask("set", self, name, [value])

    def __bool__(self) -> bool:
        """What the program says, which decides no more than if it had returned True or False."""
        for name in ("__bool__", "__len__"):
            try:
                method = self.__getattr__(name)
            except AttributeError:
                continue
            return bool(method())
        return True

    def _special(self, name: str) -> Any:
        try:
            return self.__getattr__(name)
        except AttributeError:
            raise TypeError(f"an object of type {self._kind} has no {name}") from None

    def __iter__(self) -> Iterator[Any]:
        step = self._special("__iter__")().__getattr__("__next__")
        while True:
            end, value, _, error, note = self._asking.put("call", step, "", (), {})
            if end != "returned" and error == "StopIteration":
                return
            if end != "returned":
                raise _raised(error, note)
            yield value

    def __len__(self) -> int:
        return self._special("__len__")()

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__")(key)

    def __str__(self) -> str:
        return self.__getattr__("__str__")()

    __repr__ = __str__

    def __deepcopy__(self, memo: Any) -> "Opaque":
        return self

    __copy__ = __deepcopy__


def _raised(name: str, note: str) -> BaseException:
    """An exception to raise here for one of the program."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ENDING):
        return kind.__new__(kind, note)
    error = ProgramExit(note) if kind in EXITS else ProgramError(note)
    error.name = name
    return error


def _mirror(mine: Any, theirs: Any) -> None:
    """Makes a mutable argument what the program left of it; inner lists keep their identity where they can."""
    if type(mine) is list and type(theirs) is list:
        for number, (inner, after) in enumerate(zip(mine, theirs, strict=False)):
            _mirror(inner, after)
            mine[number] = inner if type(inner) is type(after) and type(inner) in (list, dict, set) else after
        mine[len(theirs) :] = theirs[len(mine) :]
    elif type(mine) is dict and type(theirs) is dict:
        _mirror_dict(mine, theirs)
    elif type(mine) is tuple and type(theirs) is tuple:
        for inner, after in zip(mine, theirs, strict=False):
            _mirror(inner, after)
    elif type(mine) is set and type(theirs) is set:
        mine.clear()
        mine.update(theirs)


def _mirror_dict(mine: dict[Any, Any], theirs: dict[Any, Any]) -> None:
    before = dict(mine)
    mine.clear()
    for key, after in theirs.items():
        inner = before.get(key)
        _mirror(inner, after)
        mine[key] = inner if type(inner) is type(after) and type(inner) in (list, dict, set) else after


def _refer(value: Any) -> tuple[int, str]:
    if type(value) is Opaque:
        return value._number, value._kind
    raise CannotAsk(f"the tests hand the program a {type(value).__name__}, which is no plain data")


def _cannot_refer(value: Any) -> tuple[int, str]:
    raise CannotAsk(f"no plain data: {type(value).__name__}")
