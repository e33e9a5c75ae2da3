"""Short error messages from the long ones of the config parser: which key, of which class, and what was meant."""

import difflib
import inspect
import re
import sys

NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes:|Errors:|Given value"
    r"|Expected a <class 'NoneType'>|Parsing of config|Validation failed:?$)"
)
NOT_ACCEPTED = re.compile(r"(?:Option|accept option) '([\w.]+)'|unrecognized arguments: --([\w.]+)")
CLASS_PATH = re.compile(r"class_path '([\w.]+)'|class_path='([\w.]+)'")
UNKNOWN_CLASS = re.compile(r"has no attribute '(\w+)'|Expected a dot import path string: (\w+)")
PACKAGE = "lit_posttrain"
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
    """What an unknown key or class may have meant: arguments of the classes that the message names, classes of ours."""
    wrong = NOT_ACCEPTED.search(message)
    if wrong is None:
        unknown = UNKNOWN_CLASS.search(message)
        return near_class(unknown.group(1) or unknown.group(2)) if unknown else ""
    key = (wrong.group(1) or wrong.group(2)).split(".")[-1]
    known = {
        name
        for found in CLASS_PATH.finditer(message)
        for name in _arguments(found.group(1) or found.group(2))
    }
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"\n  did you mean {near[0]}?" if near else ""


def meant_for(path: str) -> str:
    """As `near_class`, for a dotted path whose package is mistyped; nothing for a path that is another's."""
    package, _, rest = path.partition(".")
    return near_class(rest.split(".")[-1]) if difflib.get_close_matches(package, [PACKAGE]) else ""


def near_class(name: str) -> str:
    """The loaded class of ours with nearly this name, as a line of a message; empty if there is none."""
    paths = {
        part: f"{module}.{part}"
        for module in sorted(sys.modules, reverse=True)  # so that the shortest path stays
        if module.partition(".")[0] == PACKAGE
        for part, content in list(vars(sys.modules[module]).items())
        if inspect.isclass(content) and content.__module__.partition(".")[0] == PACKAGE
    }
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0.85)
    return f"\n  did you mean {paths[near[0]]}?" if near else ""


def _arguments(class_path: str) -> set[str]:
    """Names of a loaded class's arguments, and of those of the settings that it takes; nothing is imported for it."""
    module, _, name = class_path.rpartition(".")
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if not inspect.isclass(found):
        return set()
    try:
        parameters = inspect.signature(found).parameters
    except ValueError:
        return set()
    names = set(parameters)
    for parameter in parameters.values():
        if inspect.isclass(parameter.annotation) and parameter.annotation.__module__.startswith(PACKAGE):
            names |= set(inspect.signature(parameter.annotation).parameters)
    return names
