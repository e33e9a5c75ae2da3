"""Which share of the data a process works on, and how processes put their shares together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that work on different data: number `index` of `count`.

    Processes that share the layers of one network (tensor parallelism) work on the same data and have the same
    index; `replicas` says how many there are for each index.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1

    @classmethod
    def of(cls, trainer: Any) -> "Ranks":
        """Those of a Lightning trainer, as its strategy divides data; one of one where it does not."""
        shares = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
        if not shares:
            return cls()
        count = int(shares["num_replicas"])
        return cls(int(shares["rank"]), count, max(1, int(trainer.world_size) // count))

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's items, every `count`-th."""
        return list(items[self.index :: self.count])

    def interleave(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """The items of all, given each one's `share`, in their first order."""
        longest = max(map(len, shares))
        return [share[i] for i in range(longest) for share in shares if i < len(share)]

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count * self.replicas == 1

    def gather(self, mine: T) -> list[T]:
        """What each index has, in order (of replicas, the first one's); collective: every process must call it."""
        by_index = dict(reversed(self.gather_all(mine)))
        return [by_index[index] for index in range(self.count)]

    def gather_all(self, mine: T) -> list[tuple[int, T]]:
        """Index and what it has of every process, replicas too; collective."""
        if self.alone:
            return [(self.index, mine)]
        everything: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everything, (self.index, mine))
        return everything


def anywhere(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether the flag is set in any process; collective where there are several."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    told = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told)
