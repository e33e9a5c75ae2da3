"""Which files an interpreter needs to run honest programs: its standard library and the shared libraries of that.

Standard library only: the fork server loads this file.
"""

import os
import sys
from dataclasses import dataclass

OTHERS_PACKAGES = ("site-packages", "dist-packages")
LIBRARY_FOLDERS = ("/lib64", "/usr/lib64", "/usr/lib/locale", "/usr/share/zoneinfo")
MIXED_FOLDERS = ("/lib", "/usr/lib", "/usr/local/lib")
"""Of these only the shared libraries themselves and the folder of the machine type are shown."""
FILES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero", "/dev/null")


@dataclass(frozen=True)
class Visible:
    """`readable` may be opened, folders with all below; `mounted` is what a file tree needs to hold them."""

    readable: list[str]
    mounted: list[str]


def interpreter_files() -> Visible:
    """What the interpreter that runs this may see of the machine; packages of others are not among it."""
    libraries = [path for path in sys.path if os.path.exists(path)]
    inner = [entry for path in libraries for entry in _entries(path)]
    shared = [folder for folder in LIBRARY_FOLDERS if os.path.isdir(folder)]
    for folder in sorted({*MIXED_FOLDERS, os.path.dirname(os.path.dirname(os.__file__)), *_mapped_folders()}):
        if folder not in shared:
            shared += _shared_libraries(folder)
    files = [path for path in FILES if os.path.exists(path)]
    return Visible(readable=[*inner, *shared, *files], mounted=[*libraries, *shared, *files])


def _entries(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in os.listdir(path) if name not in OTHERS_PACKAGES]


def _shared_libraries(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    machine = f"{os.uname().machine}-linux-gnu"
    return [os.path.join(folder, name) for name in os.listdir(folder) if ".so" in name or name == machine]


def _mapped_folders() -> set[str]:
    """Folders of the libraries that are loaded already, wherever a distribution keeps them."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    except OSError:
        return set()
    return {os.path.dirname(path) for path in paths}
