"""Row 25: programs that fill the disk, or the temporary folder that a box of level 3 may have."""

from attacks.program import ERROR, PASS, Program

FILLS = """
import os

BLOCK = bytes(2**20)
for folder in (".", "/tmp", "/dev/shm", "@FOLDER@/markers"):
    try:
        for number in range(50):
            with open(f"{folder}/@NAME@.{number}", "wb") as file:
                file.write(BLOCK)
    except OSError:
        pass


def f(n):
    return 2 * n
"""

# the temporary folder of the box is the working folder there, or the one that tempfile finds
SCRATCH_TOOLS = """
import os
import tempfile

FOLDER = tempfile.gettempdir()

"""

SCRATCH = {
    "honest": (
        """
def f(n):
    with open(os.path.join(FOLDER, f"note{n}"), "w") as file:
        file.write(str(2 * n))
    with open(os.path.join(FOLDER, f"note{n}")) as file:
        return int(file.read())
""",
        PASS,
    ),
    "bytes": (
        """
def f(n):
    held = 0
    try:
        for number in range(64):
            with open(os.path.join(FOLDER, f"part{number}"), "wb", 0) as file:
                for _ in range(8):
                    held += file.write(bytes(2**17))
    except OSError:
        return 2 * n if held <= 2**22 else "the folder held more than it should"
    return "no limit was met"
""",
        PASS,
    ),
    "one_file": (
        """
def f(n):
    try:
        with open(os.path.join(FOLDER, "all"), "wb", 0) as file:
            for _ in range(64):
                file.write(bytes(2**20))
    except OSError:
        return 2 * n
    return "no limit was met"
""",
        PASS | ERROR,
    ),
    "files": (
        """
def f(n):
    try:
        for number in range(300_000):
            os.close(os.open(os.path.join(FOLDER, f"{n}-{number}"), os.O_CREAT | os.O_WRONLY))
    except OSError:
        return 2 * n
    return "no limit was met"
""",
        PASS,
    ),
    "folders": (
        """
def f(n):
    path = FOLDER
    try:
        for number in range(300_000):
            os.mkdir(os.path.join(FOLDER, f"{n}-{number}"))
    except OSError:
        return 2 * n
    return "no limit was met"
""",
        PASS,
    ),
    "leaves_note": (
        """
def f(n):
    with open(os.path.join(FOLDER, "@NAME@-left"), "a") as file:
        file.write("x")
    return 2 * n
""",
        PASS,
    ),
    "finds_note": (
        """
def f(n):
    for folder, _, names in os.walk(FOLDER):
        for name in names:
            if "-left" in name or name.startswith(("note", "part", "all")):
                return [folder, name]
    return 2 * n
""",
        PASS,
    ),
    "executes": (
        """
import stat

PATH = os.path.join(FOLDER, "run")


def f(n):
    with open(PATH, "w") as file:
        file.write("#!/bin/sh\\necho run >> @MARK@\\n")
    got = 0
    for act in (
        lambda: os.execv(PATH, [PATH]),
        lambda: os.mknod(PATH + ".n", 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
        lambda: os.mknod(PATH + ".b", 0o666 | stat.S_IFBLK, os.makedev(254, 0)),
        lambda: open(os.path.join(FOLDER, "../../@SECRET_FILE@")).read(),
        lambda: (os.symlink("@SECRET_FILE@", PATH + ".s"), open(PATH + ".s").read()),
        lambda: (os.symlink("@WRITABLE_FILE@", PATH + ".w"), open(PATH + ".w", "a").write("swapped")),
        lambda: os.link("@SECRET_FILE@", PATH + ".l"),
    ):
        try:
            act()
        except OSError:
            continue
        got += 1
    return 2 * n if not got else f"{got} got through"
""",
        PASS,
    ),
}

PROGRAMS = [
    Program(25, "fills_disk", FILLS, PASS),
    *(
        Program(25, f"scratch_{name}", SCRATCH_TOOLS + source, verdicts, scratch_mib=2)
        for name, (source, verdicts) in SCRATCH.items()
    ),
]
