"""Causal language models: loading, log-probabilities, decoding, and what they cost."""

from lit_posttrain.networks.adapters import AdapterSettings
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.load import build, read_config, stored_head
from lit_posttrain.networks.logprobs import token_and_mean_logprobs, token_logprobs, token_values
from lit_posttrain.networks.lora import LoraSettings
from lit_posttrain.networks.memory import MemoryEstimate, estimate
from lit_posttrain.networks.multiplicative import IA3, OFT
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.placement import place
from lit_posttrain.networks.quantised import Quantisation
from lit_posttrain.networks.score_head import ScoreHead, last_tokens
from lit_posttrain.networks.state import network_state
from lit_posttrain.networks.value_network import AdapterTrunk, OwnTrunk, SharedTrunk, ValueModel, ValueTrunk
from lit_posttrain.networks.virtual_tokens import PrefixTuning, PromptTuning

__all__ = [
    "IA3",
    "OFT",
    "AdapterSettings",
    "AdapterTrunk",
    "CausalNetwork",
    "KeyValueCache",
    "LoraSettings",
    "MemoryEstimate",
    "NetworkConfig",
    "OwnTrunk",
    "PrefixTuning",
    "PromptTuning",
    "Quantisation",
    "ScoreHead",
    "SharedTrunk",
    "ValueModel",
    "ValueTrunk",
    "build",
    "disable_dropout",
    "estimate",
    "last_tokens",
    "network_state",
    "place",
    "read_config",
    "stored_head",
    "token_and_mean_logprobs",
    "token_logprobs",
    "token_values",
]
