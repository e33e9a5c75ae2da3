"""Row 10 again: programs that answer in the words of the protocol, well-formed and nearly so."""

from attacks.program import ERROR, OUTPUT, PROTOCOL, TIMEOUT, WRONG, Program

IN_OUR_WORDS = """
import os

VALUE = {value}
LINE = '["l","{end}",' + VALUE + ',["t"],"{error}",""]\\n'


def f(n):
    for fd in range(3, 32):
        try:
            os.write(fd, LINE.encode())
        except OSError:
            pass
    os._exit(0)
"""
"""Messages as the runner writes them, with what it would not write; then nothing, so that they are the only answer."""

VALUES = {
    "guess": "'80042'",
    **{f"depth_{depth}": f"'[\"l\",' * {depth} + '1' + ']' * {depth}" for depth in range(97, 105)},
    "overflowing_number": "'1e999'",
    "long_number": "'9' * 5000",
    "hex_number": "'[\"i\",\"' + 'f' * 100_000 + '\"]'",
    "odd_hex_number": '\'["i","-0x_f"]\'',
    "unknown_tag": "'[\"q\",1]'",
    "object": '\'["o",0,"int"]\'',
    "far_object": '\'["o",4611686018427387904,"int"]\'',
    "type": '\'["y","int"]\'',
    "unhashable": '\'["s",["l",1]]\'',
    "half_dict": "'[\"d\",1]'",
    "equal_keys": "'[\"d\",1,2,true,3,1.0,4]'",
    "one_hash": "'[\"s\",' + ','.join(str(i * (2**61 - 1)) for i in range(4)) + ']'",
    "surrogate": "'\"\\\\ud800\"'",
    "nan_text": '\'["f","NaN"]\'',
    "zero_text": '\'["f","0"]\'',
    "odd_bytes": '\'["b","zz"]\'',
    "nothing": "''",
}
ENDS = (
    "sandbox_error",
    "rejected",
    "timeout",
    "pass",
    "unjudgeable",
    "ended",
    "output_limit",
    "raised",
    "died",
)


def _in_our_words() -> list[Program]:
    """Well-formed and nearly well-formed answers that the program writes itself."""
    told = WRONG | ERROR | PROTOCOL | OUTPUT | TIMEOUT
    programs = []
    for task in ("function", "check"):
        for name, value in VALUES.items():
            text = IN_OUR_WORDS.format(value=value, end="returned", error="")
            programs.append(Program(10, f"says_{name}_{task}", text, told, task=task))
        for end in ENDS:
            text = IN_OUR_WORDS.format(value="'1'", end=end, error="CannotAsk")
            programs.append(Program(10, f"says_{end}_{task}", text, told, task=task))
    return programs


PROGRAMS = _in_our_words()
