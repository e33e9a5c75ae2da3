"""Names the weights of a network, so that an adapter is never put on another one."""

import hashlib
from itertools import chain
from typing import Any

import torch

from lit_posttrain.networks.quantised import scales
from lit_posttrain.networks.score_head import NAME, has_head


def base_digest(model: Any) -> str:
    """32 hex digits of all parameters of a Hugging Face model without adapters: names, dtypes, shapes, bytes.

    A score head is left out: it is trained beside adapters.

    Those of 4-bit weights include their scales. Reads every byte once, at about the speed of a disk.
    """
    whole = hashlib.blake2b(digest_size=16)
    head = f"{NAME}.weight" if has_head(model) else None
    for name, parameter in sorted(chain(model.named_parameters(), scales(model)), key=lambda pair: pair[0]):
        if name == head:
            continue
        whole.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        plain = parameter.detach().cpu().contiguous()
        whole.update(plain.view(torch.uint8).numpy().data if plain.ndim else plain.numpy().tobytes())
    return whole.hexdigest()
