"""Which classes a config or a command line may name; `guarded_imports` asks here before it imports anything.

`class_path: x.Y` imports x and calls Y, so it is code. A part may come from our own package and from four
others, and there only if it is a part of a run at all: no function, no class that fits no argument, nothing
that a package merely imported. All else needs `--allow-class-path PREFIX`, which no config file can give.
"""

import dataclasses
import functools
import inspect
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.fabric.loggers import Logger
from lightning.fabric.plugins import ClusterEnvironment, Precision
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_posttrain import contracts
from lit_posttrain.errors import InputError
from lit_posttrain.messages import meant_for

FLAG = "--allow-class-path"
EPILOG = (
    f"{FLAG} PREFIX lets the config and the command line name classes and functions below a dotted PREFIX, "
    "such as my_package.rewards, and so import and run them; repeatable. Without it they may name parts of "
    "lit_posttrain, torch.optim, torch.nn, lightning and transformers."
)
PACKAGES = ("lit_posttrain", "torch.optim", "torch.nn", "lightning", "transformers")
_DOORS = ("cli", "training_cli", "class_paths", "config_parser", "guarded_imports", "messages")
DOORS = tuple(f"lit_posttrain.{name}" for name in _DOORS)

_OPTIMISATION: tuple[type, ...] = (Optimizer, LRScheduler)
_TRAINING: tuple[type, ...] = (
    pl.LightningModule,
    pl.LightningDataModule,
    pl.Callback,
    Logger,
    Profiler,
    Strategy,
    Accelerator,
    Precision,
    ClusterEnvironment,
    LayerSync,
)
_OURS = tuple(part for part in vars(contracts).values() if inspect.isclass(part) and issubclass(part, ABC))
_FITTING: dict[str, tuple[type, ...]] = {  # by the module that defines a class: of what it must be a kind
    "lit_posttrain": (*_TRAINING, *_OPTIMISATION, *_OURS),
    "torch.optim": _OPTIMISATION,
    "torch.nn": (Module,),
    "lightning.pytorch": (*_TRAINING, *_OPTIMISATION),
    "lightning.fabric": _TRAINING,
    "transformers": _OPTIMISATION,
}
_WITH_SETTINGS = ("lit_posttrain", "lightning.pytorch")  # whose dataclasses are arguments as well


class Refused(InputError, ImportError):
    """A config or a command line names what it may not. Both bases, so that jsonargparse words it as bad input."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(
            f"{path!r} {reason}. A config may name classes of {', '.join(PACKAGES[:-1])} and {PACKAGES[-1]} "
            f"that fit the argument; {remedy}"
        )
        self.class_path = path


@dataclass(frozen=True)
class Guard:
    """What is allowed while a command line is parsed, and what has been refused so far.

    Args:
        prefixes: Dotted prefixes that the user trusts, from `--allow-class-path`.
    """

    prefixes: tuple[str, ...] = ()
    refusals: list[Refused] = field(default_factory=list)

    def check_name(self, path: str) -> None:
        """Asks before anything is imported.

        Raises:
            Refused: if the name lies neither below a trusted prefix nor, publicly, in an allowed package.
        """
        if _below(path, self.prefixes):
            return
        if not _below(path, PACKAGES):
            self._refuse(path, "is not allowed", _trust(path) + meant_for(path))
        if any(part.startswith("_") for part in path.split(".")):
            self._refuse(path, "is private to its package", "name a public class")

    def check_object(self, path: str, found: Any) -> None:
        """Asks what has really come: modules hold other modules, and not all that they define fits.

        Raises:
            Refused: if it is defined elsewhere than allowed, or is no class that a config can need.
        """
        for part, origin in _origins(found):
            if _below(origin, self.prefixes):
                continue
            if _below(origin, DOORS):
                self._refuse(path, "is no part of a run", "give another class")
            if not _below(origin, tuple(_FITTING)):
                where = f"is defined in {origin}" if origin else "has no module of its own"
                self._refuse(path, f"{where}, which is not allowed", _trust(f"{origin or path}.x"))
            if not _fits(part, origin):
                kind = "class that no argument takes" if inspect.isclass(part) else type(part).__name__
                self._refuse(path, f"is a {kind}", f"give another class, or one of your own with {FLAG}")

    def check_module(self, path: str) -> None:
        """Asks before a module is imported for its own sake, which no argument of the allowed packages needs.

        Raises:
            Refused: if it lies not below a trusted prefix.
        """
        if not _below(path, self.prefixes):
            self._refuse(path, "is a module", _trust(f"{path}.x"))

    def refusal_in(self, message: str) -> Refused | None:
        """The refusal that an error message of the parser is about, if it is about one."""
        return next((one for one in self.refusals if one.class_path in message), None)

    def _refuse(self, path: str, reason: str, remedy: str) -> None:
        self.refusals.append(Refused(path, reason, remedy))
        raise self.refusals[-1]


def taken_from(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The arguments without every `--allow-class-path PREFIX`, and the prefixes.

    Raises:
        InputError: if one is no dotted name.
    """
    kept: list[str] = []
    prefixes: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name != FLAG:
            kept.append(argument)
            continue
        prefix = value if equals else next(rest, "")
        if not all(part.isidentifier() for part in prefix.split(".")):
            raise InputError(f"{FLAG} takes a dotted name such as my_package.rewards; got {prefix!r}")
        prefixes.append(prefix)
    return kept, tuple(prefixes)


def check_values(values: Any, guard: Guard) -> None:
    """Looks through a parsed config for what no type has asked about: class paths in free dictionaries, and
    what has been refused as a class and was then taken as plain text.

    Raises:
        Refused: for the first that is not allowed.
    """
    if isinstance(values, Namespace):
        values = vars(values)
    if isinstance(values, Mapping):
        path = values.get("class_path")
        if isinstance(path, str) and "." in path:
            guard.check_name(path)
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            check_values(value, guard)
    refusal = next((one for one in guard.refusals if one.class_path == values), None)
    if refusal is not None:
        raise refusal


def _below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _fits(part: Any, origin: str) -> bool:
    home = next(home for home in _FITTING if _below(origin, (home,)))
    if not inspect.isclass(part):
        return False
    return issubclass(part, _FITTING[home]) or (home in _WITH_SETTINGS and dataclasses.is_dataclass(part))


def _origins(found: Any) -> Iterator[tuple[Any, str]]:
    """What an object is made of, each with the module that defines it."""
    if isinstance(found, ModuleType):
        yield found, found.__name__
    elif isinstance(found, functools.partial):
        yield from _origins(found.func)
    elif inspect.isclass(found) or inspect.isroutine(found):
        yield found, getattr(found, "__module__", None) or ""
    else:
        yield found, type(found).__module__


def _trust(path: str) -> str:
    return f"if you trust this code, add {FLAG} {path.rpartition('.')[0] or path}"
