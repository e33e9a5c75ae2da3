"""The converted TinyStories model speaks as the original does, and its tokenizer encodes as that does."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from lit_posttrain.text import ChatText, load_text

BEGINNING = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
    "she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\""
)
TOOL = Path(__file__).parents[2] / "tools" / "tinystories_to_hf.py"
START, FIRST_PIECE = 1, 259

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, output = Path(str(request.config.getoption("--realdata"))), tmp_path_factory.mktemp("stories")
    arguments = [sys.executable, str(TOOL), str(data / "tinystories-llama"), str(output)]
    subprocess.run(arguments, check=True, capture_output=True)
    return output


@pytest.fixture(scope="module")
def text(folder: Path) -> ChatText:
    return load_text(folder)


def reference_ids(content: str, pieces: list[str], scores: list[float]) -> list[int]:
    """The rule as described: a space in front, then the best-scoring adjacent pair is joined, and so on."""
    index = {piece: i for i, piece in enumerate(pieces) if i >= FIRST_PIECE}
    ids: list[int] = []
    for character in " " + content:
        ids += [index[character]] if character in index else [3 + byte for byte in character.encode()]
    while True:
        joined = [index.get(pieces[a] + pieces[b]) for a, b in itertools.pairwise(ids)]
        places = [i for i, piece in enumerate(joined) if piece is not None]
        if not places:
            return ids
        best = max(places, key=lambda i: (scores[joined[i] or 0], -i))
        ids[best : best + 2] = [joined[best] or 0]


def test_greedy_text_and_its_ids(folder: Path, text: ChatText) -> None:
    network = LlamaForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in network.parameters()) == 260_032
    ids = [START]
    with torch.no_grad():
        for _ in range(200):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    said = text.decode(ids[1:]).removeprefix(" ")
    assert said.startswith(BEGINNING)
    assert text.prompt_ids([{"role": "user", "content": said}]) == ids


def test_nats_per_token_are_those_of_a_trained_model(folder: Path, text: ChatText) -> None:
    network = LlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([text.prompt_ids([{"role": "user", "content": BEGINNING}])])
    fresh = "Once upon a time, there was a little boy named Tim. He had a red ball. He liked to play with it."
    other = torch.tensor([text.prompt_ids([{"role": "user", "content": fresh}])])
    with torch.no_grad():
        assert network(ids, labels=ids).loss < 0.6  # its own greedy text
        assert 0.5 < network(other, labels=other).loss < 1.5  # uniform would be 6.24


def test_encoding_equals_the_rule(text: ChatText, realdata: Path) -> None:
    sys.path.insert(0, str(TOOL.parent))
    try:
        from tinystories_to_hf import read_pieces  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    pieces, scores = read_pieces(realdata / "tinystories-llama" / "tok512.bin")
    draw = random.Random(0)
    letters = [piece for piece in pieces[FIRST_PIECE:] if len(piece) == 1]
    for _ in range(300):
        content = "".join(draw.choices(pieces[FIRST_PIECE:], k=10) + draw.choices([*letters, "é", "Ω"], k=5))
        ids = text.prompt_ids([{"role": "user", "content": content}])
        assert ids == [START, *reference_ids(content, pieces, scores)]
        assert text.tokenizer.decode(ids, skip_special_tokens=True) == content


def test_story_ends_where_it_starts_and_continues_after_a_space(text: ChatText) -> None:
    assert (text.eos_ids, text.end_id, text.pad_id) == ({START}, START, START)
    chat = [{"role": "user", "content": "The cat"}, {"role": "assistant", "content": " sat."}]
    example = text.example(chat)
    answer = example.ids[example.mask.index(True) :]
    assert text.decode(answer) == " sat."
    assert example.ids.count(START) == 2
    assert text.tokenizer.decode(example.ids, skip_special_tokens=True) == "The cat sat."
