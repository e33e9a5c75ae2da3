"""Finds the program in a completion."""

from lit_posttrain.graders.extraction import answer_text

FENCES = ("```", "~~~")
LANGUAGES = ("python", "py", "python3", "py3")
STARTS = (
    "def ",
    "class ",
    "import ",
    "from ",
    "async def ",
    "@",
    "if ",
    "for ",
    "while ",
    "with ",
    "try:",
    "#!",
)
CALLS = ("print(", "input(", "sys.", "lambda ", "return ")


def program_text(text: str, entry: str | None = None) -> str | None:
    """The program that a completion states, or None.

    Only what follows the last `</think>` counts. Of its fenced blocks those marked as Python are taken, of none
    such those that are not marked; the program is the last that defines `entry`, and the last of all where there is
    no entry. Where none defines it, all are joined. A fence that is never closed ends with the text. Without
    fences the whole text is the program, if it looks like code.

    Args:
        text: The completion.
        entry: Name that the program must define.
    """
    answer = answer_text(text)
    found = blocks(answer)
    marked = [code for language, code in found if language in LANGUAGES]
    candidates = marked or [code for language, code in found if not language]
    if found:
        return _chosen(candidates, entry)
    return answer if looks_like_code(answer, entry) else None


def continued(prompt: str, text: str) -> str:
    """A program that starts with `prompt`: the completion goes on in the last function's body, or stands by itself.

    What goes on ends before the first line that is not indented, as in the evaluation of HumanEval.
    """
    lines = text.split("\n")
    end = next((n for n, line in enumerate(lines) if n and line.strip() and line[0] not in " \t"), len(lines))
    return prompt + "\n".join(lines[:end]) + "\n"


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block, in order."""
    found: list[tuple[str, str]] = []
    fence, language, inside = "", "", []
    for line in text.split("\n"):
        bare = line.strip()
        if not fence and bare.startswith(FENCES):
            fence, inside = bare[: len(bare) - len(bare.lstrip(bare[0]))], []
            language = bare[len(fence) :].strip().split(" ")[0].strip("{}.").lower()
        elif fence and bare == fence:
            found.append((language, "\n".join(inside) + "\n"))
            fence = ""
        elif fence:
            inside.append(line)
    if fence and inside:
        found.append((language, "\n".join(inside).removesuffix(fence).rstrip("\n") + "\n"))
    return found


def defines(code: str, entry: str) -> bool:
    """Whether a line at the margin defines this name; the code is not parsed."""
    for line in code.split("\n"):
        for start in ("def ", "async def ", "class ", ""):
            rest = line.removeprefix(start + entry).lstrip(" \t") if line.startswith(start + entry) else ""
            if rest.startswith(("(", ":")) if start else rest.startswith("=") and not rest.startswith("=="):
                return True
    return False


def looks_like_code(text: str, entry: str | None = None) -> bool:
    """Whether a text without fences is meant as a program."""
    if entry is not None:
        return defines(text, entry)
    lines = text.split("\n")
    return any(line.startswith(STARTS) or any(call in line for call in CALLS) for line in lines)


def _chosen(candidates: list[str], entry: str | None) -> str | None:
    filled = [code for code in candidates if code.strip()]
    if entry is None:
        return filled[-1] if filled else None
    defining = [code for code in filled if defines(code, entry)]
    return defining[-1] if defining else "\n".join(filled) or None
