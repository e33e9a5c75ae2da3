"""How Lightning saves and loads checkpoints: as verified folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from lit_posttrain.checkpoints import folder, recovery


@dataclass
class SaveOutcome:
    """Given as `storage_options`, takes an error of the disk, so that training goes on without this checkpoint.

    Args:
        error: What kept the checkpoint from being written; None if it was.
    """

    error: OSError | None = None


class FolderIO(CheckpointIO):
    """Checkpoints in the single form, for strategies that save in one process (single device, DDP)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes the folder; nothing is left behind if that fails.

        Args:
            checkpoint: Lightning's dict.
            path: The folder.
            storage_options: None, or a `SaveOutcome` that takes an error of the disk.

        Raises:
            OSError: of the disk, without a `SaveOutcome`.
            TypeError: if the checkpoint has more than plain values and tensors; the message says where.
        """
        if storage_options is not None and not isinstance(storage_options, SaveOutcome):
            raise TypeError(f"storage_options must be a SaveOutcome or None, got {storage_options!r}")
        outcome = storage_options or SaveOutcome()
        try:
            folder.write(Path(path), checkpoint)
            outcome.error = None
        except OSError as error:
            if storage_options is None:
                raise
            outcome.error = error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads the folder, or the newest before it that is whole, with a warning (see `recovery.usable`).

        Args:
            path: The folder, or a link to it.
            map_location: A device for the tensors; None leaves them on the CPU.
            weights_only: Makes no difference: only plain values and tensors are ever read.

        Raises:
            InputError: if there is no checkpoint that can be used.
            TypeError: for other forms of map_location.
        """
        if map_location is not None and not isinstance(map_location, str | torch.device):
            raise TypeError(f"map_location must be a device or None, got {map_location!r}")
        return recovery.first_sound(Path(path), lambda found: folder.read(found, map_location or "cpu"))[1]

    def remove_checkpoint(self, path: Any) -> None:
        """Removes the folder, or the link."""
        folder.remove(Path(path))
