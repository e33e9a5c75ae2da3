"""The reference of a run: gives its log-probs, follows the policy as its settings say, and goes through checkpoints."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lit_posttrain.errors import InputError
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.held_weights import HeldWeights
from lit_posttrain.methods.references import AsDrawn, Fixed, ReferencePolicy
from lit_posttrain.methods.vocabulary import check_vocabulary
from lit_posttrain.networks import CausalNetwork, NetworkConfig, disable_dropout, place
from lit_posttrain.rollouts.provenance import policy_digest

log = logging.getLogger(__name__)

KEY = "reference"
PREFIX = "reference.held."


class Reference(nn.Module):
    """What `settings` say, for one run; made when the policy is there and has its first weights.

    `version` counts how often the policy's weights have joined it.

    Args:
        settings: Which policy.
        module: Of the method.

    Raises:
        InputError: for a network with another vocabulary, or weights of too few bits to be averaged.
    """

    def __init__(self, settings: ReferencePolicy, module: PostTrainModule) -> None:
        super().__init__()
        self.settings = settings
        self.version, self.last_step = 0, 0
        self._expected: str | None = None  # the hash that a resumed run must find
        self._digest = _first_digest(settings, module)
        self._second: tuple[CausalNetwork, ...] = ()  # a tuple is no submodule, whose weights would be stored
        self.held = HeldWeights(module.policy) if settings.moves else None
        if isinstance(settings, Fixed) and settings.network is not None:
            check_vocabulary(
                settings.network,
                module.text,
                role="reference",
                instead="no reference, or one of the policy's family",
            )
        _check_dtype(settings, module)

    @contextmanager
    def network(self, module: PostTrainModule) -> Iterator[CausalNetwork]:
        """The network that gives the reference's log-probs within the block."""
        if isinstance(self.settings, AsDrawn):
            raise InputError(
                "the reference is the policy that drew, by its log-probs as drawn, and this data brings none; use "
                "PreferenceRounds, or another reference"
            )
        policy = module.policy
        if self.held is not None:
            with self.held.in_place(policy):
                yield policy
        elif _is_base(self.settings, module):
            with policy.adapter_off():
                yield policy
        else:
            yield self._loaded(module)

    def _loaded(self, module: PostTrainModule) -> CausalNetwork:
        if not self._second:
            assert isinstance(self.settings, Fixed)
            self._second = (_frozen(self.settings.network or module.network, module),)
        return self._second[0]

    def release(self) -> None:
        """Gives up a second network, where the data brings its log-probs; it would be loaded again."""
        self._second = ()

    def digest(self, module: PostTrainModule) -> str:
        """32 hex digits of its weights; collective where processes share them.

        Those of a policy are what candidates that it drew have as their origin.
        """
        if self._digest is None:
            with self.network(module) as network:
                self._digest = policy_digest(network)
        return self._digest

    def begin(self, module: PostTrainModule) -> None:
        """Called when a fit starts: makes sure that a resumed run compares with the same reference, and names it.

        Raises:
            InputError: if its weights are not those that the checkpoint was written with.
        """
        if self._expected is not None:
            self._check(module, self._expected)
        self._tell(module)

    def follow_steps(self, module: PostTrainModule) -> None:
        """Called before each micro-batch; moves once after each optimiser step that the settings name."""
        steps = module.global_step
        if steps != self.last_step:
            self.last_step = steps
            self._follow(module, self.settings.share_at_step(steps))

    def follow_round(self, module: PostTrainModule, number: int) -> None:
        """Called when a round begins, before its first step."""
        if isinstance(self.settings, AsDrawn):
            self.version, self._digest = number, policy_digest(module.policy)
            self._tell(module)
        else:
            self._follow(module, self.settings.share_at_round(number))

    def _follow(self, module: PostTrainModule, share: float) -> None:
        if share == 0:
            return
        assert self.held is not None
        self.held.follow(module.policy, share)
        self.version, self._digest = self.version + 1, None
        self._tell(module)

    def _tell(self, module: PostTrainModule) -> None:
        """Logs version and hash of the reference, but of an average only the version that a run begins with."""
        if 0 < self.settings.share_at_step(1) < 1 and self.last_step:
            return
        found = self.digest(module)
        module.record({"policy/reference_version": self.version})
        tags = {"reference.version": str(self.version), f"reference.hash.{self.version}": found}
        for logger in module.trainer.loggers:
            set_tags = getattr(logger, "set_tags", None)
            if set_tags is not None:
                set_tags(tags)
        module.fire("on_reference", self.version, found)

    def save(self, module: PostTrainModule, checkpoint: dict[str, Any]) -> None:
        """Adds version and hash to a checkpoint, and weights where they cannot be rebuilt; collective."""
        checkpoint[KEY] = {
            "version": self.version,
            "hash": self.digest(module),
            "last_step": self.last_step,
        }
        if self.held is not None and self.version:
            checkpoint["state_dict"] |= {f"{KEY}.{name}": value for name, value in self.state_dict().items()}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Goes on with the reference of a checkpoint; the weights come with those of the policy.

        Raises:
            InputError: if its weights are not those of the reference that this config has.
        """
        if KEY not in checkpoint:
            return
        self._check_weights(checkpoint["state_dict"])
        state = checkpoint[KEY]
        self.version, self.last_step = int(state["version"]), int(state["last_step"])
        if isinstance(self.settings, AsDrawn):
            self._digest = str(state["hash"])
        elif self.version:
            self._digest = None
        self._expected = str(state["hash"])

    def _check_weights(self, stored: Mapping[str, Any]) -> None:
        """Compares the weights of a checkpoint with what is held here, before they are taken.

        Raises:
            InputError: if they are of another reference.
        """
        found = {name for name in stored if name.startswith(PREFIX)}
        if found and found != {f"{KEY}.{name}" for name in self.state_dict()}:
            raise InputError(
                f"the checkpoint holds a reference with {len(found)} weights, which the one of this config "
                f"({type(self.settings).__name__}) is not made of; use the config that it was trained with"
            )

    def _check(self, module: PostTrainModule, expected: str) -> None:
        """
        Raises:
            InputError: if its weights are not those that a checkpoint was written with.
        """
        found = self.digest(module)
        if found != expected:
            raise InputError(
                f"the run that is resumed compared with a reference of hash {expected}, and the one that this config "
                f"gives has {found}; give the same network (model.network, model.reference)"
            )


def _is_base(settings: ReferencePolicy, module: PostTrainModule) -> bool:
    """Whether it is the policy's own network without its adapters."""
    return isinstance(settings, Fixed) and settings.network is None and module.network.adaptation is not None


def _first_digest(settings: ReferencePolicy, module: PostTrainModule) -> str | None:
    """Of the policy that the run starts with, while it is there; None where the reference is another network."""
    if isinstance(settings, Fixed) and settings.network is not None:
        return None
    return module.policy.base_digest if _is_base(settings, module) else policy_digest(module.policy)


def _frozen(settings: NetworkConfig, module: PostTrainModule) -> CausalNetwork:
    """A second network on the policy's device; collective under a strategy that divides networks."""
    log.info("the network of the reference is loaded")
    # it is asked for amid scoring: without gradients and in mixed precision, in which no network can be checked
    with torch.enable_grad(), torch.autocast(module.device.type, enabled=False):
        network = place(settings, module.trainer)
    network.requires_grad_(False)
    disable_dropout(network)
    return network if network.sharded is not None else network.to(module.device)


def _check_dtype(settings: ReferencePolicy, module: PostTrainModule) -> None:
    """
    Raises:
        InputError: for an average whose small changes would be lost.
    """
    kinds = {p.dtype for p in module.policy.parameters() if p.requires_grad}
    small = [str(kind) for kind in kinds if kind.itemsize < 4]
    if small and 0 < settings.share_at_step(1) < 1:
        raise InputError(
            f"a moving average of weights in {small[0].removeprefix('torch.')} would lose its small changes; set "
            "network.dtype: float32, with the trainer's precision bf16-mixed"
        )
