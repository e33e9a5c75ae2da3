"""Reads the scores of an exported reward model, for graders: loaded when first needed, by one thread at a time."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from lit_posttrain.collate import from_lists
from lit_posttrain.ledger import Ledger, Phase, Spent
from lit_posttrain.networks import CausalNetwork, NetworkConfig, build, stored_head
from lit_posttrain.text import ChatText, load_text


class ScoreReader:
    """The network and tokenizer of a reward model's folder.

    Args:
        path: The folder.
        batch_tokens: Padded tokens of one forward; a single longer sequence is read by itself.
        device: Where the network runs, such as cpu or cuda:0.

    Raises:
        InputError: for a folder without a head, by reading its config alone.
    """

    def __init__(self, path: str, batch_tokens: int = 16_384, device: str = "cpu") -> None:
        self.settings = NetworkConfig(path=path, head=stored_head(path))
        self.batch_tokens, self.device = batch_tokens, device
        self._lock, self._ledger = threading.RLock(), Ledger()
        self._network: CausalNetwork | None = None

    @cached_property
    def text(self) -> ChatText:
        """Tokenizer and template of the folder."""
        assert self.settings.path is not None
        return load_text(self.settings.path)

    @property
    def network(self) -> CausalNetwork:
        """In evaluation mode, on its device."""
        with self._lock:
            if self._network is None:
                self._network = build(self.settings).to(self.device).requires_grad_(False).eval()
            return self._network

    def __call__(self, ids: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> list[Tensor]:
        """Scores (n, K), float32 on the CPU, after the tokens at `ends` (n places) of each sequence of `ids`."""
        found: dict[int, Tensor] = {}
        with self._lock:
            for rows in self._batches(list(map(len, ids))):
                scores = self._scores([ids[row] for row in rows], [ends[row] for row in rows])
                found.update(zip(rows, scores, strict=True))
        return [found[row] for row in range(len(ids))]

    def take_spent(self) -> Spent:
        """FLOPs and positions since the last call."""
        with self._lock:
            spent, self._ledger = self._ledger.spent[Phase.GRADING], Ledger()
        return replace(spent, seconds=0.0)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows of like lengths, as many as fit."""
        batches: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if batches and (len(batches[-1]) + 1) * lengths[row] <= self.batch_tokens:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _scores(self, ids: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> list[Tensor]:
        batch = from_lists(ids, [[False] * len(row) for row in ids], self.text.pad_id)
        at = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        for row, places in enumerate(ends):
            at[row, list(places)] = True
        network = self.network
        with torch.inference_mode(), self._ledger.phase(Phase.GRADING):
            scores = network.scores(batch.to(self.device), at.to(self.device), ledger=self._ledger)
        return list(scores.cpu().split([len(places) for places in ends]))
