"""Advantages of tokens from rewards of tokens: generalised estimates with values, sums of later rewards without.

All take one sequence per row. Tokens between masked ones that are not masked were injected: they are passed over,
so that the next value of a token is that of the next *masked* one. Rewards live on masked tokens; what stands under
others is ignored. After the last masked token the value is 0: a completion that was cut at the length limit is treated
as finished.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.contracts import Returns
from lit_posttrain.errors import InputError


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    discount: float = 1.0,
    trace: float | Float[Tensor, " B"] = 0.95,
) -> Float[Tensor, "B T"]:
    """Generalised advantage of each masked token, 0 elsewhere; add `values` to get the return.

    With d_t = r_t + discount V_next - V_t the advantage is the sum over the masked tokens from t on of
    (discount trace)^k d: a trace of 1 gives the later rewards minus V_t, 0 gives d_t alone. `trace` may differ from
    row to row.

    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """
    traces = torch.as_tensor(trace, dtype=values.dtype, device=values.device).expand(len(values))
    advantages = torch.zeros_like(values)
    later = next_value = values.new_zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        here = mask[:, t]
        error = rewards[:, t] + discount * next_value - values[:, t]
        later = torch.where(here, error + discount * traces * later, later)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, later, 0.0)
    return advantages


def adaptive_trace(mask: Bool[Tensor, "B T"], alpha: float) -> Float[Tensor, " B"]:
    """1 - 1 / (alpha * masked tokens) of each row, at least 0: long rows look further ahead.

    The reach of a trace, the sum of its powers, is then alpha times the length.

    Source: VAPO, arXiv:2504.05118, eq. 9.
    """
    return (1 - 1 / (alpha * mask.sum(dim=1).clamp(min=1).float())).clamp(min=0.0)


@dataclass(frozen=True)
class GAE(Returns):
    """Generalised advantage estimation.

    Source: Schulman et al. 2015, arXiv:1506.02438; a trace by length: VAPO, arXiv:2504.05118, eq. 9; another trace
    for returns: VC-PPO, arXiv:2503.01491.

    Args:
        discount: How much a reward one token later counts; 1 for completions, where only the end matters.
        trace: Lambda: 1 trusts rewards alone, 0 the values alone.
        adaptive: Alpha of a trace by length, 1 - 1 / (alpha * tokens), in place of `trace`; VAPO has 0.05.
        value_trace: Lambda of the returns that values learn from; by default that of the advantages. 1 gives returns
            without bias, which also long completions with one reward at the end can be learned from.
    """

    discount: float = 1.0
    trace: float = 0.95
    adaptive: float | None = None
    value_trace: float | None = None

    def __post_init__(self) -> None:
        traces = [self.trace, *([] if self.value_trace is None else [self.value_trace])]
        check_discount(self.discount)
        if not all(0 <= trace <= 1 for trace in traces):
            raise InputError(
                f"traces are from 0 to 1 (got trace {self.trace}, value_trace {self.value_trace})"
            )
        if self.adaptive is not None and not self.adaptive > 0:
            raise InputError(
                f"adaptive is alpha in 1 - 1 / (alpha * tokens); it must be above 0 (got {self.adaptive})"
            )

    def __call__(
        self,
        rewards: Float[Tensor, "B T"],
        values: Float[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns (B, T).

        Raises:
            ValueError: without values.
        """
        if values is None:
            raise ValueError(
                "GAE needs the value before each token; score the experience with a value network"
            )
        trace = self.trace if self.adaptive is None else adaptive_trace(mask, self.adaptive).to(values.dtype)
        advantages = gae(rewards, values, mask, discount=self.discount, trace=trace)
        far = advantages
        if self.value_trace is not None:
            far = gae(rewards, values, mask, discount=self.discount, trace=self.value_trace)
        return advantages, torch.where(mask, far + values, 0.0)


@dataclass(frozen=True)
class StepReturns(Returns):
    """The advantage of a token is the discounted sum of the rewards at it and after it, without a value network.

    GRPO with process supervision, where the rewards of steps have been compared within their group before.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.3.

    Args:
        discount: How much a reward one token later counts.
    """

    needs_values: ClassVar[bool] = False

    discount: float = 1.0

    def __post_init__(self) -> None:
        check_discount(self.discount)

    def __call__(
        self,
        rewards: Float[Tensor, "B T"],
        values: Float[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, Tensor]:
        """Advantages, and the same as returns (B, T); values are not used."""
        returns = gae(rewards, torch.zeros_like(rewards), mask, discount=self.discount, trace=1.0)
        return returns, returns


def check_discount(discount: float) -> None:
    """
    Raises:
        InputError: for a discount outside [0, 1].
    """
    if not 0 <= discount <= 1:
        raise InputError(f"discount is from 0 to 1 (got {discount}); 1 counts every later reward in full")
