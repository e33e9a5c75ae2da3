"""Rows, a small network and its tokenizers, and what is compared on them."""

from pathlib import Path
from typing import Any

ALPHABET = "abcdefghijklmnopqrstuvwxyz 0123456789+=<>|\n"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}<u>{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SHAPE = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
SENTENCES = [f"{'word ' * (i % 5)}{i} and {i * i}" for i in range(1, 13)]
TEXTS = [{"text": sentence} for sentence in SENTENCES]
PAIRS = [
    {"prompt": f"{s} is\n", "completion": f"{len(s)} long{' or so' * (i % 3)}"}
    for i, s in enumerate(SENTENCES)
]
TALKS = [
    {
        "messages": [
            message
            for turn in range(1 + i % 3)
            for message in (
                {"role": "user", "content": f"{s} {turn}"},
                {"role": "assistant", "content": f"{'yes ' * (1 + (i + turn) % 4)}{turn}"},
            )
        ]
    }
    for i, s in enumerate(SENTENCES)
]
ROW_TOKENS = 160
MAX_TOKENS = 512
CASES: dict[str, dict[str, Any]] = {
    "plain text": {"rows": TEXTS, "what": "completion"},
    "prompt and completion": {"rows": PAIRS, "what": "completion"},
    "completion, conversations": {"rows": [
        {"prompt": t["messages"][:-1], "completion": t["messages"][-1:]} for t in TALKS
    ], "what": "completion"},
    "assistant-only": {"rows": TALKS, "what": "assistant"},
    "assistant-only, 4 accumulated": {"rows": TALKS, "what": "assistant", "accumulate": 4},
    "assistant-only, 12 accumulated": {"rows": TALKS, "what": "assistant", "accumulate": 12},
    "whole conversations": {"rows": TALKS, "what": "all"},
    "packed, completion": {"rows": PAIRS, "what": "completion", "packed": True},
    "packed, assistant-only": {"rows": TALKS, "what": "assistant", "packed": True},
    "packed, plain text": {"rows": TEXTS, "what": "completion", "packed": True},
    "label smoothing 0.1": {"rows": PAIRS, "what": "completion", "smoothing": 0.1},
}  # fmt: skip
"""What is compared: rows, which of their tokens count, and how they are batched."""

DIFFERENT: dict[str, dict[str, Any]] = {
    "a word over the join": {
        "rows": [{"prompt": f"{s} is ", "completion": f"{len(s)} long"} for s in SENTENCES],
        "what": "completion",
        "tokenizer": "pairs",
        "why": "the tokenizer has ' 1' as one token, and the prompt ends in the blank. TRL tokenises prompt and "
        "completion together, drops the prompt's blank and warns that the context is not the one of inference; ours "
        "tokenises the answer apart and trains on exactly what sampling sees. Ours is right for use.",
    },
    "a row that is too long": {
        "rows": [*PAIRS, {"prompt": "tell\n", "completion": "on and on " * 60}],
        "what": "completion",
        "too_long": True,
        "why": "TRL keeps the first 512 tokens and says nothing (its default is 1,024), so that it trains on an answer "
        "without an end. Ours stops at start and names the row, unless too_long says `skip` or `cut`; here `skip`.",
    },
}
"""Where the two are not alike on purpose, and why."""


def make_models(folder: Path) -> None:
    """A random network with a tokenizer of characters, and with one of pairs of them, as folders that both load."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from lit_posttrain.networks import NetworkConfig, build
    from lit_posttrain.text import character_tokenizer

    network: Any = build(NetworkConfig(config=SHAPE))
    characters = character_tokenizer(ALPHABET)
    special = ["<pad>", "<eos>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*special, *ALPHABET, " 1", " 2"])}
    core = Tokenizer(models.BPE(vocabulary, [(" ", "1"), (" ", "2")], unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    pairs = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    for name, tokenizer in (("characters", characters), ("pairs", pairs)):
        tokenizer.chat_template = TEMPLATE
        network.causal.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
