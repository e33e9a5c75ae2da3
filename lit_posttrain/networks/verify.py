"""A check on four tokens, once per network, that our reading of the architecture is right."""

import torch
from torch import Tensor

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.networks.attention import portable
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.score_head import last_tokens

RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def verify(network: CausalNetwork, products: torch.dtype | None = None) -> bool:
    """Compares our hidden states and head with the model's own logits; returns whether rows may be packed.

    Args:
        network: A network without adapters.
        products: In which its linear layers compute, if not in its dtype.

    Raises:
        InputError: if the logits differ, as for an architecture that changes them in a way unknown to us.
    """
    dtypes = (network.dtype, products or network.dtype)
    ids = torch.randint(network.hf_config.vocab_size, (1, 4), device=network.device)
    if ids[0, -1] == network.hf_config.pad_token_id:  # a classifier would take the token before
        ids[0, -1] = (ids[0, -1] + 1) % network.hf_config.vocab_size
    with network.decoding(), portable(network.hf_config):
        theirs = network.model(input_ids=ids, use_cache=False).logits.float()
        whole = _rows(ids, [1, 1, 1, 1], [0, 1, 2, 3])
        if network.settings.head is None:
            ours = network.head(network.hidden(whole)).float()
        else:
            ours = network.scores(whole, last_tokens(whole))
        if not _close(ours, theirs, dtypes):
            raise InputError(
                f"the output of {network.name} is not its last layer on its last hidden states; "
                "this architecture is not supported."
            )
        packed = network.hidden(_rows(ids, [1, 1, 2, 2], [0, 1, 0, 1]))
        alone = network.hidden(_rows(ids.view(2, 2), [1, 1, 2, 2], [0, 1, 0, 1]))
    return _close(packed.flatten(0, 1), alone.flatten(0, 1), dtypes)


def _rows(ids: Tensor, segments: list[int], positions: list[int]) -> TokenBatch:
    shape = ids.shape
    return TokenBatch(
        ids,
        torch.tensor(segments, device=ids.device).view(shape),
        torch.tensor(positions, device=ids.device).view(shape),
        torch.ones_like(ids, dtype=torch.bool),
        torch.ones_like(ids, dtype=torch.float32),
    )


def _close(ours: Tensor, theirs: Tensor, dtypes: tuple[torch.dtype, ...]) -> bool:
    allowed = max(RELATIVE[dtype] for dtype in dtypes)
    return bool((ours - theirs).abs().max() <= allowed * theirs.abs().max().clamp_min(1.0))
