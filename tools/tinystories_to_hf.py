"""Converts the 260 K parameter TinyStories model of llama2.c to a Hugging Face folder.

    python tools/tinystories_to_hf.py FOLDER OUTPUT

FOLDER holds `stories260K.bin` (llama2.c "version 0": seven int32, then float32 tensors, each for all layers
in turn) and `tok512.bin` (sentencepiece BPE with byte fallback: int32 longest piece, then score, length and
bytes of each piece).
"""

import argparse
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
START, BYTES = 1, 256
SPECIAL = ("<unk>", "<s>", "</s>")


def convert(folder: Path, output: Path) -> None:
    """Writes weights, config, generation config and tokenizer to `output`."""
    network = read_network(folder / "stories260K.bin")
    network.generation_config = GenerationConfig(bos_token_id=START, eos_token_id=START, pad_token_id=START)
    network.save_pretrained(output)
    build_tokenizer(*read_pieces(folder / "tok512.bin")).save_pretrained(str(output))


def read_network(file: Path) -> LlamaForCausalLM:
    """The network with its weights, float32.

    Raises:
        ValueError: if the file's size does not match its header.
    """
    data = file.read_bytes()
    *sizes, vocabulary, positions = struct.unpack("<7i", data[:28])
    config = LlamaConfig(
        **dict(zip(FIELDS, sizes, strict=True)),
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=START,
        eos_token_id=START,
    )
    network = LlamaForCausalLM(config)
    state = _state(np.frombuffer(data[28:], dtype="<f4"), config)
    network.load_state_dict(state, strict=False)
    missing = set(dict(network.named_parameters())) - set(state)
    if missing:
        raise ValueError(f"{file} gives no weights for {sorted(missing)}")
    return network


def _state(floats: NDArray[np.float32], config: LlamaConfig) -> dict[str, torch.Tensor]:
    """The tensors under their names in transformers."""
    layered = _layered_shapes(config)
    order = {
        "embed_tokens": (config.vocab_size, config.hidden_size),
        **layered,
        "norm": (config.hidden_size,),
    }
    unused = config.max_position_embeddings * config.hidden_size // _heads(config)[0]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in order.values())])
    if ends[-1] + unused != floats.size:
        raise ValueError(f"the header needs {ends[-1] + unused} floats, but the file has {floats.size}")
    whole = {n: floats[ends[i] : ends[i + 1]].reshape(s).copy() for i, (n, s) in enumerate(order.items())}
    for name, heads in zip(("self_attn.q_proj", "self_attn.k_proj"), _heads(config), strict=True):
        whole[name] = _halves(whole[name], heads)
    state = {f"model.{name}.weight": torch.from_numpy(whole[name]) for name in ("embed_tokens", "norm")}
    for name in layered:
        for layer, weight in enumerate(whole[name]):
            state[f"model.layers.{layer}.{name}.weight"] = torch.from_numpy(weight)
    return state


def _layered_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that every layer has, in the order of the file."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, kv_heads = _heads(config)
    return {
        "input_layernorm": (layers, hidden),
        "self_attn.q_proj": (layers, hidden, hidden),
        "self_attn.k_proj": (layers, hidden // heads * kv_heads, hidden),
        "self_attn.v_proj": (layers, hidden // heads * kv_heads, hidden),
        "self_attn.o_proj": (layers, hidden, hidden),
        "post_attention_layernorm": (layers, hidden),
        "mlp.gate_proj": (layers, inner, hidden),
        "mlp.down_proj": (layers, hidden, inner),
        "mlp.up_proj": (layers, inner, hidden),
    }


def _heads(config: LlamaConfig) -> tuple[int, int]:
    """Query heads, and key and value heads."""
    assert config.num_key_value_heads is not None
    return config.num_attention_heads, config.num_key_value_heads


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from neighbouring pairs, as llama2.c rotates, to halves, as transformers does."""
    layers, rows, columns = weight.shape
    pairs = weight.reshape(layers, heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(2, 3).reshape(layers, rows, columns))


def read_pieces(file: Path) -> tuple[list[str], list[float]]:
    """Pieces and scores in the order of their ids."""
    data, position, pieces, scores = file.read_bytes(), 4, [], []
    while position < len(data):
        score, length = struct.unpack_from("<fi", data, position)
        pieces.append(data[position + 8 : position + 8 + length].decode())
        scores.append(score)
        position += 8 + length
    return pieces, scores


def build_tokenizer(pieces: Sequence[str], scores: Sequence[float]) -> PreTrainedTokenizerFast:
    """A tokenizer with the encoding of llama2.c: one space in front, then the best merges.

    `<s>` starts and ends a story, as in training, so it is both BOS and EOS.
    """
    first = len(SPECIAL) + BYTES
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(BYTES)), *pieces[first:]]
    vocabulary = {name: i for i, name in enumerate(names)}
    known = set(names[first:])
    joined = sorted(range(first, len(names)), key=lambda i: -scores[i])
    merges = [
        (names[i][:cut], names[i][cut:])
        for i in joined
        for cut in range(1, len(names[i]))
        if names[i][:cut] in known and names[i][cut:] in known
    ]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=False, byte_fallback=True))
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.normalizer = normalizers.Prepend(" ")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **special)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Converts stories260K to a Hugging Face folder.")
    parser.add_argument("folder", type=Path, help="folder with stories260K.bin and tok512.bin")
    parser.add_argument("output", type=Path, help="folder to write")
    arguments = parser.parse_args()
    convert(arguments.folder, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
