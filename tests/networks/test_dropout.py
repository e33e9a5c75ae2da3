import torch

from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.logprobs import token_logprobs


def test_every_kind_of_dropout_goes_and_train_mode_stays(make, rows):
    """GPT-2 has modules; Llama a rate on its attention layers and in its config."""
    for kind, shape in (("gpt2", {}), ("llama", {"attention_dropout": 0.3})):
        network = make(kind, attention="eager", shape=shape)
        batch = rows([[12]])
        assert not torch.equal(token_logprobs(network, batch), token_logprobs(network, batch))
        assert disable_dropout(network) > 0
        assert network.training
        assert torch.equal(token_logprobs(network, batch), token_logprobs(network, batch))
        assert disable_dropout(network) == 0
