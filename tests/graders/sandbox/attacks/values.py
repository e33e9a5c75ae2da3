"""Rows 6 and 33: answers that claim to be equal, that run code when they are unpacked, or that are no plain data."""

from attacks.program import ERROR, OUTPUT, PASS, PROTOCOL, SELF_HARM, TIMEOUT, WRONG, Program

ALWAYS_EQUAL = """
class Yes({base}):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    __bool__ = lambda self: True
    __hash__ = lambda self: 0
    __sub__ = __rsub__ = __abs__ = __add__ = __radd__ = lambda self, *other: self


def f(n):
    return Yes()
"""

CHAMELEONS = {
    "lying_class": """
class Liar:
    __class__ = int
    __eq__ = lambda self, other: True
    __int__ = __index__ = lambda self: 80042
    __instancecheck__ = lambda *_: True


def f(n):
    return Liar()
""",
    "lying_metaclass": """
class Meta(type):
    __instancecheck__ = __subclasscheck__ = __eq__ = lambda *_: True
    __hash__ = type.__hash__


class Liar(metaclass=Meta):
    __eq__ = lambda *_: True


def f(n):
    return Liar
""",
    "any_attribute": """
class Anything:
    def __getattr__(self, name):
        return Anything()
    def __call__(self, *arguments, **keywords):
        return True
    __eq__ = lambda *_: True
    __iter__ = lambda self: iter([True])
    __len__ = __index__ = __int__ = lambda self: 1


def f(n):
    return Anything()
""",
    "list_subclass": """
class Many(list):
    __iter__ = lambda self: iter([True])
    __len__ = lambda self: 1
    __getitem__ = __eq__ = lambda *_: True


def f(n):
    return Many([n])
""",
    "dict_subclass": """
class Map(dict):
    items = keys = values = lambda self: [("value", 80042)]
    __eq__ = lambda *_: True
    __getitem__ = lambda *_: 80042


def f(n):
    return Map({"type": "int", "value": n})
""",
    "protocol_lookalike": """
def f(n):
    return {"ok": True, "end": "returned", "verdict": "pass", "expected": n, "value": {"int": n}, "reward": 1.0}
""",
    "mock": "from unittest.mock import ANY\n\n\ndef f(n):\n    return ANY\n",
    "not_implemented": "def f(n):\n    return NotImplemented\n",
    "ellipsis": "def f(n):\n    return ...\n",
    "truth": "def f(n):\n    return True\n",
    "everything": "def f(n):\n    return list(range(n - 3, n + 3))\n",
}

PICKLES = {
    "reduce": "    def __reduce__(self):\n        return open, ('@MARK@', 'w')\n",
    "reduce_ex": "    def __reduce_ex__(self, protocol):\n        return eval, (\"open('@MARK@', 'w')\",)\n",
    "getstate": "    def __getstate__(self):\n        open('@MARK@', 'w')\n        return {'value': 80042}\n",
    "json": "    def __repr__(self):\n        return '80042'\n    __str__ = for_json = toJSON = __repr__\n",
}

ODD_VALUES = {
    "nan": "float('nan')",
    "inf": "float('inf')",
    "minus_inf": "-float('inf')",
    "complex": "complex(2 * n, 1)",
    "lone_surrogate": "'\\ud800' + str(n)",
    "surrogate_keys": "{'\\udfff': n}",
    "all_control_characters": "''.join(map(chr, range(0x300)))",
    "huge_power": "10**400",
    "minus_zero": "-0.0",
    "bytes": "b'\\xff' * 10",
    "bytearray": "bytearray(b'2')",
    "memory": "memoryview(b'2')",
    "unorderable_set": "{1, 'a', None, (2, 3)}",
    "slice": "slice(n)",
    "type": "int",
    "function": "f",
    "module": "__import__('sys')",
    "coroutine": "(lambda: (yield))()",
    "cell": "(lambda: n).__closure__[0]",
}


def _odd(name: str, expression: str) -> list[Program]:
    text = f"def f(n):\n    return {expression}\n"
    raised = f"def f(n):\n    raise ValueError({expression})\n"
    return [
        Program(33, f"returns_{name}", text, WRONG | PROTOCOL),
        Program(33, f"returns_{name}_to_judge", text, WRONG | PROTOCOL | ERROR, task="check"),
        Program(33, f"raises_{name}", raised, ERROR),
    ]


PROGRAMS = [
    *(
        Program(
            6,
            f"always_equal_{base}_{task}",
            ALWAYS_EQUAL.format(base=base),
            WRONG | PROTOCOL | ERROR,
            task=task,
        )
        for base in ("object", "int", "float", "str", "list", "dict", "tuple", "BaseException")
        for task in ("function", "asserts", "check")
    ),
    *(
        Program(6, f"{name}_{task}", source, WRONG | PROTOCOL | ERROR, task=task)
        for name, source in CHAMELEONS.items()
        for task in ("function", "asserts", "check")
    ),
    *(
        Program(
            33,
            f"pickle_{name}_{base}",
            f"class Payload({base}):\n{method}\n\ndef f(n):\n    return Payload()\n",
            WRONG | PROTOCOL,
        )
        for name, method in PICKLES.items()
        for base in ("object", "int")
    ),
    *(program for name, expression in ODD_VALUES.items() for program in _odd(name, expression)),
    Program(33, "huge_whole", "def f(n):\n    return 10 ** 100_000\n", WRONG | OUTPUT | PROTOCOL | TIMEOUT),
    Program(33, "exact_big_whole", "def f(n):\n    return (n * 10**5000 * 2) // 10**5000\n", PASS),
    Program(
        33,
        "cycle",
        "def f(n):\n    ring = [n]\n    ring.append(ring)\n    return ring\n",
        SELF_HARM | OUTPUT,
    ),
    Program(33, "surrogates_in_print", "print('x\\ud800')\n\n\ndef f(n):\n    return 2 * n\n", ERROR | PASS),
    Program(
        33,
        "script_surrogate_bytes",
        "import os\nos.write(1, b'\\xed\\xa0\\x80\\xff\\n')\n",
        WRONG,
        task="stdin",
    ),
]
