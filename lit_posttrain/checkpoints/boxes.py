"""Blocks of tensors: what a process holds of one, and what two blocks have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Box:
    """A block of a tensor: where it begins and how long it is in each dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Box":
        """All of a tensor."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sizes)

    def overlap(self, other: "Box") -> "Box":
        """What both hold; possibly empty."""
        starts = tuple(map(max, self.offsets, other.offsets))
        ends = (min(a + n, b + m) for a, n, b, m in zip(*self._both(other), strict=True))
        return Box(starts, tuple(max(0, end - start) for start, end in zip(starts, ends, strict=True)))

    def within(self, outer: "Box") -> tuple[slice, ...]:
        """The index of this block in a tensor that holds just `outer`."""
        begins = [start - origin for start, origin in zip(self.offsets, outer.offsets, strict=True)]
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, self.sizes, strict=True))

    def _both(self, other: "Box") -> tuple[tuple[int, ...], ...]:
        return self.offsets, self.sizes, other.offsets, other.sizes


def box_of(tensor: Tensor) -> Box:
    """The block of the tensor that this process holds: all of it, unless it is a `DTensor`.

    Raises:
        InputError: if it is divided in a way that gives no block, such as partial sums.
    """
    if not isinstance(tensor, DTensor):
        return Box.whole(tensor.shape)
    mesh = tensor.device_mesh
    box = divide(tensor.shape, mesh.shape, mesh.get_coordinate() or (), tensor.placements)
    if box.sizes != tuple(local(tensor).shape):
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)} divided as {tensor.placements} has {tuple(local(tensor).shape)} "
            f"here and should have {box.sizes}; choose sizes of the mesh that divide it evenly"
        )
    return box


def divide(shape: Sequence[int], mesh: Sequence[int], coordinate: Sequence[int], placements: Any) -> Box:
    """The block of a tensor that the process at a coordinate of the mesh holds.

    Along a dimension each division is `torch.chunk`'s: equal chunks, the last one shorter, the rest empty. FSDP
    divides what tensor parallelism, further right in the mesh, has divided before; torch calls that a strided shard.

    Args:
        shape: Of the whole tensor.
        mesh: How many processes there are in each dimension of the mesh.
        coordinate: Of the process in the mesh.
        placements: torch's, one for each dimension of the mesh.

    Raises:
        InputError: for other ways to divide.
    """
    offsets, sizes = [0] * len(shape), list(shape)
    for number in _order(mesh, placements):
        dim = placements[number].dim
        chunk = -(-sizes[dim] // mesh[number])
        start = min(chunk * coordinate[number], sizes[dim])
        offsets[dim] += start
        sizes[dim] = min(chunk, sizes[dim] - start)
    return Box(tuple(offsets), tuple(sizes))


def _order(mesh: Sequence[int], placements: Any) -> list[int]:
    """Which dimension of the mesh divides first: plain shards from left to right, then strided ones."""
    plain = [number for number, placement in enumerate(placements) if placement.is_shard()]
    strided = []
    for number, placement in enumerate(placements):
        if placement.is_replicate() or placement.is_shard():
            continue
        factor = getattr(placement, "split_factor", None)
        inner = (mesh[k] for k in plain if k > number and placements[k].dim == placement.dim)
        if factor is None or factor != math.prod(inner):
            raise InputError(f"a tensor divided as {placements} cannot be stored; use shards or replicas")
        strided.append(number)
    if len(strided) > 1:
        raise InputError(f"a tensor divided as {placements} cannot be stored; use one strided shard at most")
    return plain + strided


def local(tensor: Tensor) -> Tensor:
    """What this process holds of the tensor, without gradient and sharing its memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
