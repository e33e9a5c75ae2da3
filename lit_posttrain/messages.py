"""Short error messages from the long ones of the config parser: which key, of which class, and what was meant."""

import difflib
import importlib
import inspect
import re

NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes:|Errors:|Given value"
    r"|Expected a <class 'NoneType'>|Parsing of config|Validation failed:?$)"
)
NOT_ACCEPTED = re.compile(r"(?:Option|accept option) '([\w.]+)'|unrecognized arguments: --([\w.]+)")
CLASS_PATH = re.compile(r"class_path '([\w.]+)'|class_path='([\w.]+)'")
LONGEST_LINE = 300


def condensed(message: str) -> str:
    """The lines of a parser's message that tell something, with a suggestion for a mistyped key."""
    told: list[str] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        if text and not NOISE.match(text) and text not in told:
            told.append(text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " …")
    return "\n  ".join(told or [message[:LONGEST_LINE]]) + suggestion(message)


def suggestion(message: str) -> str:
    """What a key that is not accepted may have meant, among the arguments of the classes that the message names."""
    wrong = NOT_ACCEPTED.search(message)
    if wrong is None:
        return ""
    key = (wrong.group(1) or wrong.group(2)).split(".")[-1]
    known = {
        name
        for found in CLASS_PATH.finditer(message)
        for name in _arguments(found.group(1) or found.group(2))
    }
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"\n  did you mean {near[0]}?" if near else ""


def _arguments(class_path: str) -> set[str]:
    """Names of a class's arguments, and of those of the settings that it takes."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError):
        return set()
    names = set(parameters)
    for parameter in parameters.values():
        if inspect.isclass(parameter.annotation) and parameter.annotation.__module__.startswith(
            "lit_posttrain"
        ):
            names |= set(inspect.signature(parameter.annotation).parameters)
    return names
