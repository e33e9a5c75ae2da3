"""Puts a question before every import that a config or a command line asks for.

jsonargparse imports what a value names in one function, `import_object`, before it looks at the type. It is
replaced here by one that asks a `Guard` first, wherever jsonargparse holds it. Outside of `only(...)` it does
what it always did: Python code is not restricted.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jsonargparse import _typehints, _util

from lit_posttrain.class_paths import Guard

_guard: ContextVar[Guard | None] = ContextVar("class_path_guard", default=None)
_import_unasked = _util.import_object
_check_module_unasked = _typehints.check_import_path


@contextmanager
def only(prefixes: Sequence[str] = ()) -> Iterator[Guard]:
    """While this lasts, values that jsonargparse parses name only what is allowed. The outermost decides.

    Args:
        prefixes: What is allowed beside our own packages: dotted prefixes.

    Raises:
        RuntimeError: if jsonargparse no longer imports through the functions that are guarded.
    """
    if (_util.import_object, _typehints.import_object) != (_import_object, _import_object):
        raise RuntimeError(
            "the imports of jsonargparse are not guarded; is its version one of pyproject.toml?"
        )
    outer = _guard.get()
    if outer is not None:
        yield outer
        return
    guard = Guard(tuple(prefixes))
    token = _guard.set(guard)
    try:
        yield guard
    finally:
        _guard.reset(token)


def in_force() -> Guard | None:
    """The guard of `only`, while it lasts."""
    return _guard.get()


def _import_object(name: str, check_path: bool = True) -> Any:
    guard = _guard.get() if check_path else None  # unchecked paths are those of annotations in code
    if guard is not None and isinstance(name, str) and _is_dotted(name):
        guard.check_name(name)
    found = _import_unasked(name, check_path)
    if guard is not None:
        guard.check_object(name, found)
    return found


def _check_module(path: str) -> None:
    guard = _guard.get()
    if guard is not None:
        guard.check_module(path)
    _check_module_unasked(path)


def _is_dotted(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))


def _install() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "jsonargparse" and vars(module).get("import_object") is _import_unasked:
            module.import_object = _import_object  # type: ignore[attr-defined]
    _typehints.check_import_path = _check_module


_install()
