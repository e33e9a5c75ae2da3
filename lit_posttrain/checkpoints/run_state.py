"""What a resumed run needs beside weights, optimiser and loaders: random states and the logger's run."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch


class RunState(pl.Callback):
    """Keeps the random state of python, numpy and torch, and which run the loggers write to."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Plain tensors, numbers and strings only, so that it loads with `weights_only`."""
        _, keys, position, has_gauss, gauss = np.random.get_state()
        version, internal, gauss_next = random.getstate()
        checkpoint["run_state"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [
                torch.from_numpy(np.asarray(keys, dtype=np.int64)),
                int(position),
                int(has_gauss),
                float(gauss),
            ],
            "python": [version, list(internal), gauss_next],
            "loggers": [_logger_state(logger) for logger in trainer.loggers],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Gives the loggers their run back; random states wait until training starts."""
        self._restored = checkpoint.get("run_state")
        if self._restored is not None:
            for logger, state in zip(trainer.loggers, self._restored["loggers"], strict=False):
                load = getattr(logger, "load_state_dict", None)
                if load is not None and state:
                    load(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the loggers' runs, which are known by now, and sets the random states of a resumed run."""
        _begin(trainer)
        if self._restored is None:
            return
        keys, position, has_gauss, gauss = self._restored["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = self._restored["python"]
        random.setstate((version, tuple(internal), gauss_next))
        torch.set_rng_state(self._restored["torch"].cpu())
        if torch.cuda.is_available() and len(self._restored["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda"]])
        self._restored = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the loggers' runs."""
        _begin(trainer)


def _begin(trainer: pl.Trainer) -> None:
    for logger in trainer.loggers:
        begin = getattr(logger, "begin", None)
        if begin is not None:
            begin()


def _logger_state(logger: Any) -> dict[str, Any]:
    state = getattr(logger, "state_dict", None)
    return dict(state()) if state is not None else {}
