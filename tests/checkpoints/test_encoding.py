import json
import math
import struct
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from writer_process import assert_same

from lit_posttrain.checkpoints.encoding import DEEPEST, join, parse, render, split
from lit_posttrain.checkpoints.hashed_files import read_tensors, write_tensors

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.float8_e8m0fnu),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint64,
        torch.uint32,
        torch.uint16,
        torch.uint8,
    ),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


def through(content, folder):
    """The content after its way through both files."""
    state, tensors = split(content)
    entry = write_tensors(folder / "t.safetensors", tensors)
    return join(parse(render(state)), read_tensors(folder / "t.safetensors", entry))


def random_tensor(dtype, *shape):
    generator = torch.Generator().manual_seed(3)
    size = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
)
keys = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("$tuple")
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_plain_values_come_back_bit_for_bit(tree):
    state, tensors = split(tree)
    assert tensors == {}
    assert_same(join(parse(render(state)), {}), tree)


def test_the_numbers_that_are_often_lost():
    quiet = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    tree = [1, 1.0, True, 0.0, -0.0, 2**63, -(2**63) - 1, 10**5000, 1e308, 5e-324, math.inf, -math.inf, quiet]
    again = join(parse(render(split(tree)[0])), {})
    assert_same(again, tree)
    assert [type(value) for value in again[:3]] == [int, float, bool]
    assert str(again[4]) == "-0.0"
    assert struct.pack(">d", again[-1]).hex() == "7ff8000000000123"


def test_keys_keep_their_kind_and_order():
    tree = {3: "a", "3": "b", None: "c", 2.5: "d", False: "e", "$tensor": "f", "\ud800é": "g"}
    again = join(parse(render(split(tree)[0])), {})
    assert list(again.items()) == list(tree.items())
    assert [type(key) for key in again] == [int, str, type(None), float, bool, str, str]
    plain = {"b": 1, "a": {"c": [2]}}
    assert split(plain)[0] == plain  # readable where nothing has to be marked


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_tensor(dtype, tmp_path):
    content = {
        "matrix": random_tensor(dtype, 3, 5),
        "number": random_tensor(dtype),
        "empty": random_tensor(dtype, 0, 4),
        "turned": random_tensor(dtype, 4, 6).t(),
        "part": random_tensor(dtype, 4, 6)[1:3, ::2],
        "same": random_tensor(dtype, 1).expand(7),
    }
    again = through(content, tmp_path)
    assert_same(again, content)
    storages = {value.untyped_storage().data_ptr() for value in again.values() if value.numel()}
    assert len(storages) == 5  # each has its own memory, so that one can be freed or resized


def test_bits_of_floats_and_their_signs_are_kept(tmp_path):
    bits = torch.tensor([0x7FC01234, 0xFFC00001, 0x80000000, 0x00000001], dtype=torch.uint32)
    content = {"nan": bits.view(torch.float32), "negated": torch._neg_view(torch.ones(2))}
    again = through(content, tmp_path)
    assert again["nan"].view(torch.uint32).tolist() == bits.tolist()
    assert again["negated"].tolist() == [-1.0, -1.0]


def test_other_programs_read_the_tensor_file(tmp_path):
    dtypes = [dtype for dtype in DTYPES if dtype is not torch.float8_e8m0fnu]  # which their torch side lacks
    content = {str(dtype): random_tensor(dtype, 3, 5) for dtype in dtypes}
    write_tensors(tmp_path / "t", content)
    theirs = load_file(tmp_path / "t")
    assert_same(dict(sorted(theirs.items())), dict(sorted(content.items())))
    with safe_open(tmp_path / "t", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    module = torch.nn.Sequential(torch.nn.Embedding(50, 20), torch.nn.Linear(20, 50, bias=False))
    module[1].weight = module[0].weight
    content = {"state_dict": module.state_dict(), "again": module[0].weight, "part": module[0].weight[:5]}
    _, tensors = split(content)
    assert sorted(tensors) == ["part", "state_dict/0.weight"]
    assert type(content["again"]) is torch.nn.Parameter
    again = through(content, tmp_path)
    assert again["state_dict"]["0.weight"] is again["state_dict"]["1.weight"] is again["again"]
    assert again["part"].tolist() == content["part"].tolist()
    assert (tmp_path / "t.safetensors").stat().st_size < 1.2 * 4 * (50 * 20 + 5 * 20) + 300


def test_tensors_that_only_begin_at_the_same_place_are_apart(tmp_path):
    base = torch.arange(6.0)
    content = [base, base[:3], base.view(2, 3), base.view(torch.int32), base[:0], base[:0].view(0, 2)]
    assert_same(through(content, tmp_path), content)
    assert len(split(content)[1]) == 6


def test_names_of_tensors_never_collide(tmp_path):
    content = {"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1), 1: torch.ones(2), "1": torch.ones(3)}
    content["__metadata__"] = torch.ones(4)
    assert_same(through(content, tmp_path), content)


def test_a_contiguous_tensor_is_not_copied():
    tensor = torch.arange(4.0)
    _, tensors = split({"x": tensor})
    assert tensors["x"].data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1, 2}, "builtins.set"),
        (np.float64(1), "numpy.float64"),
        (np.ones(2), "numpy.ndarray"),
        (bytearray(b"a"), "builtins.bytearray"),
        (defaultdict(int), "collections.defaultdict"),
        (torch.float32, "torch.dtype"),
        (torch.ones(2, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(2, dtype=torch.complex128), "torch.complex128"),
        (torch.ones(2).to_sparse(), "sparse_coo"),
        (torch.ones(2, device="meta"), "without values"),
        (torch.ones(2).as_subclass(type("Mine", (torch.Tensor,), {})), "Mine"),
        ({(1, 2): 0}, "key that is a builtins.tuple"),
        ({b"a": 0}, "key that is a builtins.bytes"),
        (lambda: 0, "builtins.function"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_with_its_place(value, name):
    with pytest.raises(TypeError, match=r"content\['states'\]\[0\]\[7\]") as refused:
        split({"states": [{7: value}]})
    assert name in str(refused.value)


def test_what_holds_itself_is_refused():
    tree = deepest = []
    for _ in range(DEEPEST):
        deepest.append([])
        deepest = deepest[0]
    assert_same(join(parse(render(split(tree)[0])), {}), tree)
    deepest.append(tree)
    with pytest.raises(TypeError, match="holds itself"):
        split(tree)


@pytest.mark.parametrize(
    "strange",
    [
        {"$tuple": 3},
        {"$tuple": [], "more": 1},
        {"$set": []},
        {"$set": "a"},
        {"$dict": {"a": 1}},
        {"$dict": [["a", 1, 2]]},
        {"$dict": [["a", 1], ["a", 2]]},
        {"$dict": [[[], 1]]},
        {"$ordered": ["ab"]},
        {"$int": 5},
        {"$int": "5"},
        {"$float": "7ff8"},
        {"$bytes": "a*=="},
        {"$tensor": "y"},
        {"$tensor": ["x"]},
        {},
    ],
    ids=json.dumps,
)
def test_strange_entries_are_refused(strange):
    with pytest.raises(ValueError, match=r"\$|unknown|tensor|base64|bytes|padding"):
        join({"a": strange, **({"x": {"$tensor": "x"}} if strange else {})}, {"x": torch.ones(1)})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b"[1e]", b'{"a":1,"a":2}', b'"\xc3\xa9"', b"[" * 100_000]
)
def test_what_is_no_json_of_ours_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
