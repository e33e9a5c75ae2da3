"""Training of a network that is divided over processes, whose checkpoints any number of processes read."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from lit_posttrain.checkpoints import boxes, folder, hashed_files, manifest, recovery, sharded
from lit_posttrain.checkpoints.agreement import rank, together
from lit_posttrain.checkpoints.encoding import render, split
from lit_posttrain.checkpoints.io import SaveOutcome
from lit_posttrain.errors import InputError
from lit_posttrain.networks.sharding import Sharding
from lit_posttrain.networks.state import named_optimizer_state, numbered_optimizer_state

OFFLOADING_BACKEND = "cpu:gloo,cuda:nccl"
WAYS = ("foreach", "fused", "capturable", "differentiable")
"""Of a parameter group's settings those that say how a step is computed, not what it does."""


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2, with or without tensor parallelism, with checkpoints in our folder form.

    The module divides its network in `configure_model` over `trainer.strategy.device_mesh`, whose dimensions are
    `data_parallel` and `tensor_parallel`. Every checkpoint, of either form and of any strategy, can be resumed.

    Args:
        data_parallel_size: Processes (or groups of them, with tensor parallelism) that work on different data and
            share each parameter; "auto" = as many as there are processes for.
        tensor_parallel_size: Processes that share the layers' arithmetic and work on the same data.
        sharding: How parameters are gathered and kept.
        save: "sharded": every process writes what it holds, into a folder that all of them must see; "single":
            process 0 collects whole tensors in its memory and writes one file.
        process_group_backend: torch's name; by default nccl on CUDA, with gloo where `cpu_offload` needs it, and
            gloo on the CPU.
        timeout_s: How long a process waits for the others before it gives up.

    Raises:
        InputError: for sizes that the number of processes is not made of.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: int = 1,
        sharding: Sharding = Sharding(),
        save: Literal["sharded", "single"] = "sharded",
        process_group_backend: str | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        super().__init__(
            data_parallel_size,
            tensor_parallel_size,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_s),
        )
        if save not in ("sharded", "single"):
            raise InputError(f"save is {save!r}; it must be sharded or single")
        self.sharding = sharding
        self.save = save
        self._asked_size: Literal["auto"] | int = data_parallel_size
        self._tensor_size = tensor_parallel_size
        self._asked_backend = process_group_backend
        self._store: sharded.Store | None = None

    def setup_environment(self) -> None:
        """Joins the processes and makes the device mesh.

        Raises:
            InputError: if the sizes do not multiply to the number of processes.
        """
        world = self.num_nodes * self.num_processes
        size = world // max(1, self._tensor_size) if self._asked_size == "auto" else self._asked_size
        if size < 1 or size * self._tensor_size != world:
            raise InputError(
                f"data_parallel_size {self._asked_size} times tensor_parallel_size {self._tensor_size} is not the "
                f"number of processes, {world}; change one of the three"
            )
        self._data_parallel_size = size
        super().setup_environment()

    def _get_process_group_backend(self) -> str:
        if not (self.sharding.cpu_offload and self.root_device.type == "cuda"):
            return super()._get_process_group_backend()
        if self._asked_backend not in (None, OFFLOADING_BACKEND):
            raise InputError(
                f"process_group_backend is {self._asked_backend!r}; cpu_offload on CUDA needs {OFFLOADING_BACKEND}, "
                "which is the default"
            )
        return OFFLOADING_BACKEND

    def model_to_device(self) -> None:
        """Moves what is not on its device yet; shares of parameters stay in the host's memory under `cpu_offload`."""
        assert self.model is not None
        if not self.sharding.cpu_offload:
            super().model_to_device()
            return
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.root_device)
            for parameter in module._parameters.values():
                if parameter is not None and not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.to(self.root_device)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning calls `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights as they are held, not copied."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as it is held, not copied, by parameter name.

        Raises:
            InputError: if the optimiser keeps tensors of which nobody knows how they are divided.
        """
        inner = _inner(optimizer)
        for parameter, entry in inner.state.items():
            for key, value in entry.items():
                if isinstance(parameter, DTensor) and _only_here(value):
                    raise InputError(
                        f"{type(inner).__name__} keeps {key!r} of shape {tuple(value.shape)} for the shares of each "
                        "process apart, which no other number of processes could use; take torch.optim.AdamW"
                    )
        return named_optimizer_state(inner.state_dict(), list(self._named(inner)))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint folder; collective. If it fails in any process it does in all, and leaves nothing.

        Args:
            checkpoint: Lightning's dict; of what is neither weight nor optimiser state, process 0's counts.
            filepath: The folder; process 0's counts.
            storage_options: None, or a `SaveOutcome` that takes an error of the disk.

        Raises:
            OSError: of the disk, without a `SaveOutcome`.
            TypeError: for other storage options, or if there is more than plain values and tensors.
        """
        if storage_options is not None and not isinstance(storage_options, SaveOutcome):
            raise TypeError(f"storage_options must be a SaveOutcome or None, got {storage_options!r}")
        outcome = storage_options or SaveOutcome()
        try:
            path = Path(together(lambda: str(filepath))[0])
            _write_single(path, checkpoint) if self.save == "single" else _write_sharded(path, checkpoint)
            outcome.error = None
        except OSError as error:
            if storage_options is None:
                raise
            outcome.error = error

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A checkpoint of either form; weights and optimiser states without values (meta device); collective.

        Args:
            checkpoint_path: The folder or a link to it; process 0 chooses for all (see `recovery.usable`).
            weights_only: Makes no difference: only plain values and tensors are ever read.

        Raises:
            InputError: if there is no checkpoint that can be used.
        """
        found = together(lambda: str(recovery.usable(Path(checkpoint_path))) if rank() == 0 else "")[0]
        read: list[tuple[dict[str, Any], sharded.Store]] = []
        together(lambda: read.append(sharded.outline(Path(found))))
        content, self._store = read[0]
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Reads into every parameter what this process holds of it; collective.

        Raises:
            InputError: for a weight of another shape, or, if strict, one that is missing or unknown.
        """
        together(lambda: self._fill(checkpoint["state_dict"], strict))
        self._close()

    def _fill(self, stored: Mapping[str, Any], strict: bool) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        strange = sorted(own.keys() ^ stored.keys())
        if strict and strange:
            raise InputError(
                f"{len(strange)} weights are in the network or in the checkpoint only, such as {strange[:3]}; "
                "use the config that the checkpoint was written with"
            )
        for name in [name for name in own if name in stored]:
            if own[name].shape != stored[name].shape:
                raise InputError(
                    f"{name} has shape {tuple(own[name].shape)} in the network and {tuple(stored[name].shape)} in the "
                    "checkpoint; use the config that the checkpoint was written with"
                )
            boxes.local(own[name]).copy_(self._block(stored[name], boxes.box_of(own[name])))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives every optimiser its state and parameter groups; how it computes (fused …) stays; collective.

        Raises:
            InputError: for a checkpoint of other optimisers or parameter groups.
        """
        states = checkpoint["optimizer_states"]
        if len(states) != len(self.optimizers):
            raise InputError(
                f"the checkpoint holds the state of {len(states)} optimisers, there are {len(self.optimizers)}; "
                "use the config that it was written with"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            together(lambda optimizer=optimizer, state=state: self._restore(_inner(optimizer), state))
        self._close()

    def _restore(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        parameters = self._named(optimizer)
        numbered = numbered_optimizer_state(state, list(parameters))
        held = list(parameters.values())
        numbered["state"] = {
            number: {key: self._as_held(value, held[number]) for key, value in entry.items()}
            for number, entry in numbered["state"].items()
        }
        numbered["param_groups"] = _regrouped(numbered["param_groups"], optimizer)
        optimizer.load_state_dict(numbered)

    def _as_held(self, value: Any, parameter: Tensor) -> Any:
        """An entry of the optimiser's state, divided as its parameter is."""
        if not isinstance(value, Tensor):
            return value
        if not isinstance(parameter, DTensor) or value.ndim == 0:
            return self._block(value, boxes.Box.whole(value.shape))
        like = parameter if value.shape == parameter.shape else None
        box = boxes.Box.whole(value.shape) if like is None else boxes.box_of(like)
        return DTensor.from_local(
            self._block(value, box).to(boxes.local(parameter).device),
            parameter.device_mesh,
            parameter.placements if like is not None else [Replicate()] * parameter.device_mesh.ndim,
            run_check=False,
            shape=value.shape,
            stride=value.stride(),
        )

    def _block(self, value: Tensor, box: sharded.Box) -> Tensor:
        if not value.is_meta:
            return value[box.within(boxes.Box.whole(value.shape))]
        assert self._store is not None
        return self._store.read(value, box)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _named(self, optimizer: Optimizer) -> dict[str, nn.Parameter]:
        """The optimiser's parameters by name, in its order."""
        assert self.lightning_module is not None
        names = {id(parameter): name for name, parameter in self.lightning_module.named_parameters()}
        return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}


def _write_single(path: Path, content: Mapping[str, Any]) -> None:
    rest, tensors = sharded.separate(content)
    whole = sharded.collect(tensors, sharded.plan(tensors, together), rank())
    together(lambda: folder.write(path, sharded.insert(rest, whole)) if rank() == 0 else None)


def _write_sharded(path: Path, content: Mapping[str, Any]) -> None:
    rest, tensors = sharded.separate(content)
    entries = sharded.plan(tensors, together)
    temp = Path(together(lambda: _begin(path, entries) if rank() == 0 else "")[0])
    try:
        written = together(lambda: sharded.write(temp, tensors, entries, rank()))
        files = {name: entry for share in written for name, entry in share.items()}
        together(lambda: _finish(temp, path, rest, entries, files) if rank() == 0 else None)
    except BaseException:
        if rank() == 0:
            folder.abandon(temp)
        raise


def _begin(path: Path, entries: Mapping[str, sharded.Entry]) -> str:
    temp = folder.begin(path, sharded.size_of(entries))
    try:
        (temp / sharded.FOLDER).mkdir()
    except OSError:
        folder.abandon(temp)
        raise
    return str(temp)


def _finish(
    temp: Path,
    path: Path,
    rest: Mapping[str, Any],
    entries: Mapping[str, sharded.Entry],
    files: dict[str, manifest.FileEntry],
) -> None:
    """Writes what is not divided, the index and the manifest, and puts the folder in its place."""
    stored, tensors = split(rest)
    (temp / manifest.STATE).write_bytes(render(stored))
    files |= {manifest.STATE: hashed_files.seal(temp / manifest.STATE)}
    files |= {manifest.TENSORS: hashed_files.write_tensors(temp / manifest.TENSORS, tensors)}
    files |= sharded.write_index(temp, entries)
    step, world = (
        int(rest.get("global_step", 0)),
        distributed.get_world_size() if distributed.is_initialized() else 1,
    )
    folder.publish(temp, path, manifest.Manifest(manifest.SHARDED, step, world, files))


def _inner(optimizer: Optimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _only_here(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, DTensor) and value.numel() > 1


def _regrouped(groups: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> list[dict[str, Any]]:
    """The stored groups for `load_state_dict`, which goes by position, with the optimiser's own ways to compute.

    Raises:
        InputError: if they are not the optimiser's groups.
    """
    first, regrouped = 0, []
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if len(groups) != len(sizes):
        raise InputError(f"the checkpoint has {len(groups)} groups of parameters, the optimiser {len(sizes)}")
    for stored, own in zip(groups, optimizer.param_groups, strict=True):
        numbers = list(range(first, first + len(own["params"])))
        if sorted(stored["params"]) != numbers:
            raise InputError(
                "the checkpoint's optimiser had its parameters in other groups; use the config it was written with"
            )
        ways = {key: own[key] for key in WAYS if key in own}
        regrouped.append({**stored, **ways, "params": numbers})
        first += len(numbers)
    return regrouped
