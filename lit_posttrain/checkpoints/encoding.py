"""A checkpoint's content as JSON and a safetensors file, and back: no pickle, nothing that could run."""

import base64
import json
import math
import re
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEEPEST = 100
_DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F32": torch.float32,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"  # a key that safetensors reserves
_MOST_NUMBERS = 2**56  # in one tensor; lets torch say whether there is memory for it


def split(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """The content as what JSON can hold, and its tensors by a name that says where they stood.

    Two tensors that are one piece of memory (tied weights) get one name, and `join` gives the same object
    for both. A `Parameter` comes back as a tensor; requires_grad is not kept. Other views of one storage are
    stored each on its own.

    Raises:
        TypeError: naming the place, if there is anything but dict (keys str, int, float, bool, None),
            OrderedDict, list, tuple, str, bytes, int, float, bool, None and dense real tensors.
    """
    splitter = _Splitter()
    return splitter.encode(content, ()), splitter.tensors


def join(jsonable: Any, tensors: dict[str, Tensor]) -> Any:
    """What `split` was given.

    Raises:
        ValueError: if this is not exactly what `split` makes: an unknown entry, a tensor that is not there
            or one that nothing asks for.
    """
    joiner = _Joiner(tensors)
    try:
        content = joiner.decode(jsonable)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    unused = sorted(tensors.keys() - joiner.used)
    if unused:
        raise ValueError(f"nothing refers to the tensors {unused[:3]}")
    return content


def render(jsonable: Any) -> bytes:
    """JSON as ASCII bytes; equal content gives equal bytes."""
    return json.dumps(jsonable, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def parse(text: bytes) -> Any:
    """JSON whose objects have no key twice.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        return json.loads(text.decode("ascii"), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class _Splitter:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > DEEPEST:
            raise TypeError(f"{_place(path[:3])}… is nested deeper than {DEEPEST}, or holds itself")
        kind = type(value)
        if kind is list or kind is tuple:
            items = [self.encode(item, (*path, index)) for index, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind is dict or kind is OrderedDict:
            return self._mapping(value, path)
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, path)}
        return _scalar(value, path)

    def _mapping(self, value: dict[Any, Any], path: tuple[Any, ...]) -> Any:
        pairs = [[_scalar(key, path, key=True), self.encode(v, (*path, key))] for key, v in value.items()]
        if type(value) is OrderedDict:
            return {"$ordered": pairs}
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(pairs)
        return {"$dict": pairs}

    def _tensor(self, value: Tensor, path: tuple[Any, ...]) -> str:
        problem = _unwritable(value)
        if problem:
            raise TypeError(f"{_place(path)} is {problem}, which a checkpoint cannot hold")
        same = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride(), value.is_neg())
        if value.numel() == 0:
            same = (id(value),)
        if same not in self._names:
            name = wanted = "/".join(map(_printable, path)) or "tensor"
            repeat = 1
            while name in self.tensors or name == _METADATA:
                repeat += 1
                name = f"{wanted}#{repeat}"
            self._names[same] = name
            self.tensors[name] = value.detach()
        return self._names[same]


def _scalar(value: Any, path: tuple[Any, ...], key: bool = False) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if kind is bytes and not key:
        return {"$bytes": base64.b64encode(value).decode()}
    what = "has a key that is" if key else "is"
    allowed = "str, int, float, bool and None" + ("" if key else ", bytes, list, tuple, dict and tensors")
    raise TypeError(
        f"{_place(path)} {what} a {kind.__module__}.{kind.__qualname__}; a checkpoint holds {allowed} only"
    )


def _unwritable(value: Tensor) -> str | None:
    if type(value) not in (Tensor, torch.nn.Parameter):
        return f"a {type(value).__qualname__}"
    if value.layout is not torch.strided:
        return f"a tensor of layout {value.layout}"
    if value.device.type == "meta":
        return "a tensor without values (device meta)"
    return None if value.dtype in _NAMES else f"a tensor of {value.dtype}"


def _place(path: tuple[Any, ...]) -> str:
    return "content" + "".join(f"[{key!r}]" for key in path)


def _printable(key: Any) -> str:
    return str(key).encode("ascii", "backslashreplace").decode()


class _Joiner:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.used: set[str] = set()

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        tags = [key for key in value if key.startswith("$")]
        if not tags:
            return {key: self.decode(item) for key, item in value.items()}
        if len(value) != 1:
            raise ValueError(f"unknown entry with the keys {list(value)[:3]}")
        return self._tagged(tags[0], value[tags[0]])

    def _tagged(self, tag: str, value: Any) -> Any:
        if tag in ("$tuple", "$dict", "$ordered"):
            if not isinstance(value, list):
                raise ValueError(f"a {tag} that is no list")
            return tuple(map(self.decode, value)) if tag == "$tuple" else self._pairs(tag, value)
        if not isinstance(value, str):
            raise ValueError(f"a {tag} that is no text")
        if tag == "$tensor":
            if value not in self.tensors:
                raise ValueError(f"there is no tensor {value!r}")
            self.used.add(value)
            return self.tensors[value]
        return _special(tag, value)

    def _pairs(self, tag: str, pairs: list[Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = OrderedDict() if tag == "$ordered" else {}
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"a {tag} with an entry that is no pair")
            key = self.decode(pair[0])
            if type(key) not in (str, int, float, bool, type(None)) or key in made:
                raise ValueError(f"a {tag} with the key {key!r}, which cannot be or stands twice")
            made[key] = self.decode(pair[1])
        return made


def _special(tag: str, text: str) -> Any:
    if tag == "$bytes":
        return base64.b64decode(text, validate=True)
    if tag == "$int" and re.fullmatch("-?0x[0-9a-f]+", text):
        return int(text, 16)
    if tag == "$float" and re.fullmatch("[0-9a-f]{16}", text):
        return struct.unpack(">d", bytes.fromhex(text))[0]
    raise ValueError(f"unknown entry {tag} {text[:40]!r}")


@dataclass(frozen=True)
class Slot:
    """Where a tensor file holds which tensor; slots follow each other without a hole."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def tensor_header(tensors: dict[str, Tensor]) -> tuple[bytes, list[str]]:
    """The start of a safetensors file, and the order in which the tensors' bytes follow it (wide types first).

    Source: the safetensors format: length (8 bytes, little endian), JSON, bytes in C order.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    table: dict[str, Any] = {_METADATA: {"format": "pt"}}
    begin = 0
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.dtype.itemsize
        shape = list(tensor.shape)
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = render(table)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def tensor_slots(text: bytes, size: int) -> list[Slot]:
    """What a tensor file holds, in order, from its header's JSON and the bytes that follow it.

    Raises:
        ValueError: if it is not what `tensor_header` writes.
    """
    table = parse(text)
    if not isinstance(table, dict) or table.pop(_METADATA, None) != {"format": "pt"}:
        raise ValueError("its header is not ours")
    slots = []
    begin = 0
    for name, entry in table.items():
        slot = _slot(name, entry)
        if entry["data_offsets"] != [begin, begin + slot.size]:
            raise ValueError(f"tensor {name!r} is not where it should be")
        begin += slot.size
        slots.append(slot)
    if begin != size:
        raise ValueError(f"holds {size} bytes of tensors; its header speaks of {begin}")
    return slots


def _slot(name: str, entry: Any) -> Slot:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header has a strange entry {name!r}")
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensor {name!r} has an unknown type {dtype!r}")
    if not isinstance(shape, list) or any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"tensor {name!r} has a strange shape")
    if math.prod(max(1, length) for length in shape) >= _MOST_NUMBERS:
        raise ValueError(f"tensor {name!r} has a shape that cannot be")
    return Slot(name, _DTYPES[dtype], tuple(shape))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes in C order; a contiguous one on the CPU is not copied. Writable as the tensor is."""
    plain = tensor.detach().resolve_neg().to("cpu").contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
