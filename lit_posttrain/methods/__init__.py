"""The methods: each is a LightningModule of a few lines that joins data, networks and objectives."""

from lit_posttrain.methods.bootstrap import Bootstrap
from lit_posttrain.methods.dpo import DPOModule
from lit_posttrain.methods.grpo import GRPOModule
from lit_posttrain.methods.ppo import PPOModule
from lit_posttrain.methods.reward import RewardModule
from lit_posttrain.methods.schedules import WarmupDecay
from lit_posttrain.methods.sft import SFTModule
from lit_posttrain.methods.teaching import Teacher
from lit_posttrain.methods.terms import KLInLoss, KLInReward, Terms

__all__ = [
    "Bootstrap",
    "DPOModule",
    "GRPOModule",
    "KLInLoss",
    "KLInReward",
    "PPOModule",
    "RewardModule",
    "SFTModule",
    "Teacher",
    "Terms",
    "WarmupDecay",
]
