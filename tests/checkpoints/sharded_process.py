"""Two processes that save, load and fail together; run by test_sharded.py.

Usage: sharded_process.py FOLDER, with MASTER_ADDR and MASTER_PORT set.
"""

import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from lit_posttrain.checkpoints import folder, hashed_files, manifest, sharded
from lit_posttrain.checkpoints.agreement import together
from lit_posttrain.checkpoints.io import SaveOutcome
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.errors import InputError

WAYS_TO_SAVE = ("sharded", "single")
WORLD = 2


class Net(nn.Module):
    """Sizes that two processes cannot share evenly, tied weights, numbers that are not sharded."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.middle = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight = self.embed.weight
        self.one = nn.Linear(3, 1)
        self.register_buffer("scale", torch.rand(()))
        self.register_buffer("table", torch.rand(2, 2))
        self.register_buffer("nothing", torch.zeros(0, 2))

    def forward(self, ids: Tensor) -> Tensor:
        states = self.middle(self.embed(ids))
        return self.one(self.head(states)).mean() * self.scale  # type: ignore[operator]


class Rows:
    """One batch an epoch."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.tensor([0, 1, 2, 1])


class Module(pl.LightningModule):
    """A module as ours are: sharded in `configure_model`, trained by AdamW in two groups."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.strict_loading = False

    def configure_model(self) -> None:
        if "net" in self._modules:
            return
        torch.manual_seed(self.seed)
        self.net = Net()
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None:
            if mesh["tensor_parallel"].size() > 1:
                parallelize_module(self.net.middle, mesh["tensor_parallel"], ColwiseParallel())
            fully_shard(self.net, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [self.net.middle.weight, self.net.embed.weight]
        others = list(self.net.one.parameters())
        groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "lr": 0.02}]
        return torch.optim.AdamW(groups, lr=0.01, foreach=False)

    def train_dataloader(self) -> "Rows":
        return Rows()

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        return self.net(ids)


def strategy_of(module: Module, world: int, **settings: Any) -> ShardedStrategy:
    """A strategy that has joined its processes, with the module's network and optimiser."""
    strategy = ShardedStrategy(timeout_s=300, **settings)
    strategy.accelerator = CPUAccelerator()
    strategy.parallel_devices = [torch.device("cpu")] * world
    strategy.cluster_environment = LightningEnvironment()
    strategy.connect(module)
    strategy.setup_environment()
    module.configure_model()
    strategy.optimizers = [module.configure_optimizers()]
    return strategy


def train(module: Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps whose gradients are alike in any number of processes."""
    for step in range(steps):
        module.training_step(torch.tensor([step % 3, 1]), 0).backward()
        optimizer.step()
        optimizer.zero_grad()


def content_of(strategy: ShardedStrategy, **more: Any) -> dict[str, Any]:
    """What Lightning gives to save; the middle of it differs between the processes."""
    return {
        "global_step": 3,
        "callbacks": {"mine": {"rank": int(os.environ["LOCAL_RANK"]), "random": torch.get_rng_state()}},
        "state_dict": strategy.lightning_module_state_dict(),
        "optimizer_states": [strategy.optimizer_state(optimizer) for optimizer in strategy.optimizers],
        **more,
    }


def whole(content: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of weights and optimiser states, whole, by torch's own way to gather them."""
    tensors = sharded.separate(content)[1]
    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
        for name, t in tensors.items()
    }


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, tensor in some.items():
        assert tensor.dtype == others[name].dtype, name
        assert torch.equal(tensor, others[name]), name


def load(strategy: ShardedStrategy, path: Path) -> dict[str, Any]:
    """As Lightning does it."""
    content = strategy.load_checkpoint(path)
    strategy.load_model_state_dict(content, strict=True)
    strategy.load_optimizer_state_dict(content)
    return content


class Checks:
    """Each method is a check that all processes make together."""

    def __init__(self, place: Path, rank: int, world: int) -> None:
        self.place, self.rank, self.world = place, rank, world

    def save_for_one_process(self) -> None:
        """Both forms, before and after steps; the expected numbers beside them for the process that reads them."""
        module = Module(seed=0)
        for form in WAYS_TO_SAVE:
            strategy = strategy_of(module, self.world, save=form)
            strategy.save_checkpoint(content_of(strategy), self.place / f"fresh-{form}.ckpt")
            assert not strategy.optimizers[0].state  # saving must not initialise it
        train(module, strategy.optimizers[0], 3)
        strategy.optimizers[0].param_groups[0]["lr"] = 0.005
        content = content_of(strategy)
        expected = whole(content)
        if self.rank == 0:
            save_file(
                {name: tensor.clone() for name, tensor in expected.items()},
                self.place / "expected.safetensors",
            )
        for form in WAYS_TO_SAVE:
            strategy.save = form
            strategy.save_checkpoint(content_of(strategy), self.place / f"{form}.ckpt", SaveOutcome())

    def load_in_all(self) -> None:
        """Every form that two processes or one wrote, into a network and optimiser of other numbers."""
        for name in ("sharded", "single", "by-one"):
            module = Module(seed=1)
            strategy = strategy_of(module, self.world)
            before = whole(content_of(strategy))["state_dict/net.middle.weight"]
            optimizer = strategy.optimizers[0]
            optimizer.param_groups[0]["foreach"] = True
            content = load(strategy, self.place / f"{name}.ckpt")
            assert all(tensor.is_meta for tensor in content["state_dict"].values())
            assert content["callbacks"]["mine"]["rank"] == 0
            assert not content["callbacks"]["mine"]["random"].is_meta
            expected = load_file(
                self.place / ("by-one.safetensors" if name == "by-one" else "expected.safetensors")
            )
            found = whole(content_of(strategy))
            equal(found, expected)
            assert not torch.equal(found["state_dict/net.middle.weight"], before)
            assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.02]
            assert [group["foreach"] for group in optimizer.param_groups] == [True, False]
            assert optimizer.state[module.net.middle.weight]["exp_avg"].placements == (Shard(0),)
            self._continues_alike(strategy, module, expected)

    def _continues_alike(self, strategy: ShardedStrategy, module: Module, start: dict[str, Tensor]) -> None:
        """One more step is that of one process which has the same numbers."""
        alone = Module(seed=2)
        alone.configure_model()
        alone.load_state_dict({name: start[f"state_dict/{name}"] for name in alone.state_dict()})
        optimizer = alone.configure_optimizers()
        optimizer.param_groups[0]["lr"] = 0.005
        for name, parameter in alone.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[parameter] = {
                key: start[f"optimizer_states/0/{key}/{name}"].clone() for key in keys
            }
        train(module, strategy.optimizers[0], 1)
        train(alone, optimizer, 1)
        after = whole({"state_dict": strategy.lightning_module_state_dict()})
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(after[f"state_dict/{name}"], value, rtol=0, atol=1e-6)

    def load_fresh(self) -> None:
        """A checkpoint from before the first step empties the optimiser's state."""
        for form in WAYS_TO_SAVE:
            module = Module(seed=1)
            strategy = strategy_of(module, self.world)
            train(module, strategy.optimizers[0], 1)
            load(strategy, self.place / f"fresh-{form}.ckpt")
            assert not strategy.optimizers[0].state
            train(module, strategy.optimizers[0], 1)
            assert strategy.optimizers[0].state[module.net.one.bias]["step"] == 1

    def refuse(self) -> None:
        """What does not fit is refused by all processes."""
        strategy = strategy_of(Module(seed=1), self.world)
        content = strategy.load_checkpoint(self.place / "sharded.ckpt")
        fewer = {name: tensor for name, tensor in content["state_dict"].items() if name != "net.one.bias"}
        with pytest.raises(InputError, match=r"such as \['net\.one\.bias'\]"):
            strategy.load_model_state_dict({"state_dict": fewer}, strict=True)
        strategy.load_model_state_dict({"state_dict": fewer}, strict=False)
        other = fewer | {"net.one.weight": torch.zeros(3, 1)}
        with pytest.raises(InputError, match=r"\(1, 3\) in the network and \(3, 1\)"):
            strategy.load_model_state_dict({"state_dict": other}, strict=False)
        groups = content["optimizer_states"][0]
        regrouped = {**groups, "param_groups": [groups["param_groups"][1], groups["param_groups"][0]]}
        with pytest.raises(InputError, match="other groups"):
            strategy.load_optimizer_state_dict({"optimizer_states": [regrouped]})
        state = strategy.optimizers[0].state
        state[strategy.lightning_module.net.middle.weight] = {"mine": torch.zeros(2)}  # type: ignore[union-attr]
        with pytest.raises(InputError, match=r"take torch\.optim\.AdamW"):
            strategy.optimizer_state(strategy.optimizers[0])

    def disk_full(self) -> None:
        """An error of the disk in one process is one in all; nothing is left, and they go on."""
        full = OSError(errno.ENOSPC, "No space left on device")
        for form, culprit, target in (
            ("sharded", self.world - 1, (hashed_files, "write_tensors")),
            ("sharded", 0, (folder, "publish")),
            ("sharded", 0, (folder, "begin")),
            ("single", 0, (folder, "write")),
        ):
            strategy = strategy_of(Module(seed=0), self.world, save=form)
            path = self.place / "full" / "step-1.ckpt"
            failing = mock.patch.object(*target, side_effect=full) if self.rank == culprit else mock.Mock()
            with failing if self.rank == culprit else warnings.catch_warnings():
                outcome = SaveOutcome()
                strategy.save_checkpoint(content_of(strategy), path, outcome)
                assert outcome.error is not None
                assert outcome.error.errno == errno.ENOSPC
                with pytest.raises(OSError, match="No space left"):
                    strategy.save_checkpoint(content_of(strategy), path)
            together(lambda: None)
            assert not path.parent.exists() or not list(path.parent.iterdir())
        strategy.save_checkpoint(content_of(strategy), path, outcome)
        assert outcome.error is None
        together(lambda: folder.verify(path) if self.rank == 0 else None)

    def other_errors(self) -> None:
        """What process 0 cannot encode ends all of them, though another one's disk is full: nobody waits."""
        for form in WAYS_TO_SAVE:
            strategy = strategy_of(Module(seed=0), self.world, save=form)
            with pytest.raises(TypeError, match="checkpoint holds"):
                strategy.save_checkpoint(
                    content_of(strategy, odd=object()), self.place / "odd.ckpt", SaveOutcome()
                )

        def work() -> None:
            raise OSError(errno.EIO, "disk") if self.rank == 0 else InputError("input")

        with pytest.raises(InputError, match="input"):
            together(work)
        assert not [path.name for path in self.place.iterdir() if "odd" in path.name]

    def damaged(self) -> None:
        """Where the last checkpoint is damaged, all take the older one that process 0 has found."""
        strategy = strategy_of(Module(seed=1), self.world)
        for step in (1, 2):
            strategy.save_checkpoint(
                content_of(strategy, global_step=step), self.place / "run" / f"step-{step}.ckpt"
            )
        if self.rank == 0:
            (self.place / "run" / "last.ckpt").symlink_to("step-2.ckpt")
            shard = self.place / "run" / "step-2.ckpt" / sharded.file_of(self.world - 1)
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(data)
        together(lambda: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert strategy.load_checkpoint(self.place / "run" / "last.ckpt")["global_step"] == 1

    def placements(self) -> None:
        """Replicas and tied tensors are stored once; a sum in parts is refused; mixed divisions come back."""
        strategy = strategy_of(Module(seed=0), self.world, tensor_parallel_size=self.world)
        assert strategy.distributed_sampler_kwargs == {"num_replicas": 1, "rank": 0}
        numbers = torch.arange(15.0).reshape(5, 3)
        mesh = strategy.device_mesh
        tensors: dict[str, Tensor] = {
            "rows": distribute_tensor(numbers, mesh, [Replicate(), Shard(0)]),
            "columns": distribute_tensor(numbers, mesh, [Replicate(), Shard(1)]),
            "both": distribute_tensor(numbers, mesh, [Shard(0), Shard(1)]),
            "same": distribute_tensor(numbers, mesh, [Replicate(), Replicate()]),
            "plain": numbers.to(torch.bfloat16),
            "submesh": distribute_tensor(numbers, mesh["data_parallel"], [Shard(0)]),
        }
        tensors["tied"] = tensors["rows"].detach()
        path = self.place / "placed.ckpt"
        strategy.save_checkpoint({"state_dict": tensors, "global_step": 0}, path)
        expected = {
            f"state_dict/{name}": t.full_tensor() if isinstance(t, DTensor) else t
            for name, t in tensors.items()
        }
        equal(sharded.assemble(path), expected)
        stored = sum(entry.size for name, entry in manifest.manifest_of(path).files.items() if "rank" in name)
        assert stored < 5 * 15 * 4 + 15 * 2 + 1200  # the headers take less than 1200
        partial = DTensor.from_local(numbers, mesh["tensor_parallel"], [torch.distributed.tensor.Partial()])
        with pytest.raises(InputError, match="cannot be stored"):
            strategy.save_checkpoint({"state_dict": {"partial": partial}}, path)
        with pytest.raises(InputError, match="different tensors"):
            strategy.save_checkpoint({"state_dict": {f"mine-{self.rank}": numbers}}, path)

    def tensor_parallel(self) -> None:
        """FSDP over a network with tensor parallelism takes what FSDP alone has written."""
        module = Module(seed=1)
        strategy = strategy_of(module, self.world, tensor_parallel_size=self.world)
        content = load(strategy, self.place / "sharded.ckpt")
        assert content["global_step"] == 3
        equal(whole(content_of(strategy)), load_file(self.place / "expected.safetensors"))

    def sizes(self) -> None:
        """The share of the data, and sizes that cannot be."""
        strategy = strategy_of(Module(seed=0), self.world)
        assert strategy.distributed_sampler_kwargs == {"num_replicas": self.world, "rank": self.rank}
        assert strategy.device_mesh.mesh_dim_names == ("data_parallel", "tensor_parallel")
        with pytest.raises(InputError, match="not the number of processes, 2"):
            strategy_of(Module(seed=0), self.world, data_parallel_size=2, tensor_parallel_size=2)

    def resume(self) -> None:
        """Lightning's own fit, stopped and gone on with, ends where the fit without a stop does."""
        ends = []
        for steps in ((4,), (2, 4)):
            path: Path | None = None
            for until in steps:
                module = Module(seed=0)
                trainer = pl.Trainer(
                    accelerator="cpu",
                    devices=self.world,
                    strategy=ShardedStrategy(),
                    max_steps=until,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    use_distributed_sampler=False,
                    default_root_dir=self.place,
                )
                trainer.fit(module, ckpt_path=path)
                path = self.place / "fit" / f"step-{until}.ckpt"
                trainer.save_checkpoint(path)
            ends.append(whole({"state_dict": trainer.strategy.lightning_module_state_dict()}))
        equal(*ends)


def run(place: Path, rank: int) -> None:
    """Makes all checks as one of two processes."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    checks = Checks(place, rank, WORLD)
    names = [name for name, method in vars(Checks).items() if callable(method) and not name.startswith("_")]
    for name in names:
        began = time.monotonic()
        getattr(checks, name)()
        print(f"process {rank} passed {name} after {time.monotonic() - began:.2f} s", flush=True)
    distributed.destroy_process_group()


def main() -> int:
    """Forks, so that only one process need import everything; returns 0 if both pass."""
    child = os.fork()
    try:
        run(Path(sys.argv[1]), 0 if child else 1)
    except Exception:
        traceback.print_exc()
        return 1
    return os.waitpid(child, 0)[1] if child else 0


if __name__ == "__main__":
    sys.exit(main())
