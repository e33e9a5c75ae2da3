"""Causal language models: loading, log-probabilities, decoding, and what they cost."""

from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.load import NetworkConfig, build, read_config
from lit_posttrain.networks.logprobs import token_logprobs
from lit_posttrain.networks.lora import LoraSettings
from lit_posttrain.networks.memory import MemoryEstimate, estimate
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.placement import place
from lit_posttrain.networks.state import network_state

__all__ = [
    "CausalNetwork",
    "KeyValueCache",
    "LoraSettings",
    "MemoryEstimate",
    "NetworkConfig",
    "build",
    "disable_dropout",
    "estimate",
    "network_state",
    "place",
    "read_config",
    "token_logprobs",
]
