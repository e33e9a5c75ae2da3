"""Generation with the training network itself, in plain torch.

The cache is allocated once for a batch, the prompt is processed once for all of its completions, rows that
are done leave the batch, and every draw is keyed, so that the text does not depend on what else is generated.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_posttrain import interruption, keys
from lit_posttrain.batches import Completion, Request, Sampling, StopReason
from lit_posttrain.contracts import Finished, RolloutEngine
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.masks import left_padded_mask
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.rollouts.distribution import choose, sampling_logprobs
from lit_posttrain.text import ChatText

COMPACT_BELOW = 0.8
"""The batch is compacted when fewer than this share of its rows are still being written."""


@dataclass(frozen=True)
class Part:
    """Samples `first .. first + n - 1` of request `index`."""

    index: int
    request: Request
    first: int
    n: int


@dataclass(frozen=True)
class Prefilled:
    """Prompts as read: the cache, the logits (R, V) of the first new token, and each row's left padding (R,)."""

    cache: KeyValueCache
    logits: Tensor
    padding: Tensor


class TorchEngine(RolloutEngine):
    """Draws completions from a `CausalNetwork`; parameters are read in place, so a draw is always on-policy.

    Args:
        network: The policy.
        text: Its tokenizer, which knows the end tokens.
        ledger: Where FLOPs and tokens are booked; a phase must be open when `generate` is called.
        max_rows: Completions that are written at the same time.
    """

    def __init__(
        self, network: CausalNetwork, text: ChatText, ledger: Ledger, *, max_rows: int = 1024
    ) -> None:
        self.network, self.text, self.ledger, self.max_rows = network, text, ledger, max_rows

    def generate(
        self, requests: Sequence[Request], finished: Finished | None = None
    ) -> list[list[Completion]]:
        """For each request its completions, in order; `finished` hears of each when its end is drawn.

        Raises:
            ValueError: if a prefix is empty, or it and `max_new_tokens` exceed the network's positions.
        """
        for request in requests:
            self._check(request)
        results: list[list[Completion | None]] = [[None] * request.n for request in requests]
        with self.network.decoding():
            for parts in self._batches(requests):
                places = [(part.index, part.first + i) for part in parts for i in range(part.n)]
                for (request, number), completion in zip(
                    places, self._write(parts, places, finished), strict=True
                ):
                    results[request][number] = completion
        return [[c for c in completions if c is not None] for completions in results]

    def _check(self, request: Request) -> None:
        limit = self.network.max_positions
        if not request.prefix:
            raise ValueError(f"the prompt of problem {request.key.uid!r} has no tokens; nothing to continue")
        if len(request.prefix) + request.sampling.max_new_tokens > limit:
            raise ValueError(
                f"prompt of {len(request.prefix)} tokens + max_new_tokens {request.sampling.max_new_tokens} exceed the "
                f"network's {limit} positions (problem {request.key.uid!r}); shorten one of them"
            )

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[Part]]:
        """Cuts the requests into batches of equal sampling and similar prompt length."""
        parts = [
            Part(i, request, first, min(self.max_rows, request.n - first))
            for i, request in enumerate(requests)
            for first in range(0, request.n, self.max_rows)
        ]
        parts.sort(
            key=lambda part: (repr(part.request.sampling), len(part.request.prefix), part.index, part.first)
        )
        batch: list[Part] = []
        for part in parts:
            same = not batch or batch[0].request.sampling == part.request.sampling
            if batch and (not same or sum(p.n for p in batch) + part.n > self.max_rows):
                yield batch
                batch = []
            batch.append(part)
        if batch:
            yield batch

    def _write(
        self, parts: list[Part], places: list[tuple[int, int]], finished: Finished | None
    ) -> list[Completion]:
        """Writes one batch to its end; `places` says which request and sample each row is."""
        sampling = parts[0].request.sampling
        counts = [part.n for part in parts]
        prompts = self._read_prompts([part.request.prefix for part in parts], sampling.max_new_tokens, counts)
        cache, logits, padding = prompts.cache, prompts.logits, prompts.padding
        row_keys = keys.row_keys(
            [replace(p.request.key, first_sample=p.request.key.first_sample + p.first) for p in parts],
            counts,
            logits.device,
        )
        rows = Rows(self.text, sampling, row_keys)
        for position in range(sampling.max_new_tokens):
            if not self.network.collective_decoding:  # else one process would leave the others waiting
                interruption.safe_point()
            self.ledger.add(generated_tokens=int(rows.alive.sum()))
            tokens = rows.draw(logits, position)
            ended = rows.finish(tokens, position)
            if finished is not None:
                for row, completion in rows.completed(ended):
                    finished(*places[row], completion)
            if not rows.alive.any() or position + 1 == sampling.max_new_tokens:
                break
            if rows.alive.float().mean() < COMPACT_BELOW:
                kept = rows.alive.nonzero().squeeze(-1)
                cache.select(kept)
                tokens, padding = tokens[kept], padding[kept]
                rows.select(kept)
            logits = self._next(tokens, cache, padding)
        told = dict(rows.completed(range(len(places))))
        if finished is not None:
            for row in rows.unfinished:
                finished(*places[row], told[row])
        return [told[row] for row in range(len(places))]

    def _read_prompts(self, prompts: list[list[int]], new_tokens: int, counts: list[int]) -> "Prefilled":
        """Processes every prompt once, padded on the left; cache and last logits are then repeated per sample."""
        device = next(self.network.parameters()).device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.text.pad_id, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        padding = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        positions = (torch.arange(width, device=device)[None] - padding[:, None]).clamp(min=0)
        mask = left_padded_mask(padding, length=width, queries=width)
        cache = self.network.new_cache(width + new_tokens)
        logits = self.network.decode(ids.to(device), positions, mask, cache, ledger=self.ledger)
        rows = torch.arange(len(prompts), device=device).repeat_interleave(
            torch.tensor(counts, device=device)
        )
        cache.select(rows)
        return Prefilled(cache, logits[rows], padding[rows])

    def _next(self, tokens: Tensor, cache: KeyValueCache, padding: Tensor) -> Tensor:
        """Logits (R, V) after one more token of each row."""
        length = cache.length
        positions = (length - padding)[:, None]
        mask = left_padded_mask(padding, length=length + 1, queries=1) if bool((padding > 0).any()) else None
        return self.network.decode(tokens[:, None], positions, mask, cache, ledger=self.ledger)


class Rows:
    """The rows of a batch while they are written."""

    def __init__(self, text: ChatText, sampling: Sampling, row_keys: Tensor) -> None:
        self.text, self.sampling, self.keys = text, sampling, row_keys
        ends = sorted(text.eos_ids | set(sampling.stop_token_ids))
        self.ends = torch.tensor(ends, dtype=torch.int64, device=row_keys.device)
        count, width = len(row_keys), sampling.max_new_tokens
        self.tokens = torch.zeros(count, width, dtype=torch.int64, device=row_keys.device)
        self.logprobs = torch.zeros(count, width, device=row_keys.device)
        self.lengths = torch.zeros(count, dtype=torch.int64, device=row_keys.device)
        self.stops = [StopReason.LENGTH] * count
        self.done: dict[int, Completion] = {}
        self.origin = torch.arange(count, device=row_keys.device)
        self.alive = torch.ones(count, dtype=torch.bool, device=row_keys.device)

    def draw(self, logits: Tensor, position: int) -> Tensor:
        """The next token of each row, noted with its log-prob for rows that are still being written."""
        if position < self.sampling.min_new_tokens and len(self.ends):
            logits = logits.index_fill(-1, self.ends, -torch.inf)
        logprobs = sampling_logprobs(logits, self.sampling)
        if self.sampling.temperature > 0:
            tokens = choose(logprobs, keys.uniforms(self.keys, position))
        else:
            tokens = logprobs.argmax(dim=-1)
        written = self.origin[self.alive]
        self.tokens[written, position] = tokens[self.alive]
        self.logprobs[written, position] = logprobs.gather(-1, tokens[:, None]).squeeze(-1)[self.alive]
        self.lengths[written] += 1
        return tokens

    def finish(self, tokens: Tensor, position: int) -> list[int]:
        """Marks the rows that have just ended, and why; gives their numbers."""
        ended = self.alive & torch.isin(tokens, self.ends)
        numbers = self.origin[ended].tolist()
        for row in numbers:
            self.stops[row] = StopReason.EOS
        self.alive = self.alive & ~ended
        if self.sampling.stop_strings:
            numbers += self._finish_on_strings(position)
        return numbers

    def _finish_on_strings(self, position: int) -> list[int]:
        longest, ended = max(map(len, self.sampling.stop_strings)), list[int]()
        for row in self.alive.nonzero().squeeze(-1).tolist():
            origin = int(self.origin[row])
            tail = self.tokens[origin, max(0, position - longest - 7) : position + 1].tolist()
            if any(stop in self.text.decode(tail) for stop in self.sampling.stop_strings):
                self.stops[origin] = StopReason.STOP_STRING
                self.alive[row] = False
                ended.append(origin)
        return ended

    def select(self, kept: Tensor) -> None:
        """Keeps only these rows in the running batch."""
        self.keys, self.origin, self.alive = self.keys[kept], self.origin[kept], self.alive[kept]

    @property
    def unfinished(self) -> list[int]:
        """The rows that were cut at the length limit."""
        return [row for row, stop in enumerate(self.stops) if stop is StopReason.LENGTH]

    def completed(self, rows: Iterable[int]) -> Iterator[tuple[int, Completion]]:
        """The completions of these rows, as far as they are written; each is made once."""
        wanted = list(rows)
        new = [row for row in wanted if row not in self.done]
        if new:
            tokens, logprobs = self.tokens[new].cpu(), self.logprobs[new].cpu()
            for i, (row, length) in enumerate(zip(new, self.lengths[new].tolist(), strict=True)):
                ids = tokens[i, :length].clone()
                text = self.text.decode(ids.tolist())
                self.done[row] = Completion(ids, logprobs[i, :length].clone(), self.stops[row], text)
        return ((row, self.done[row]) for row in wanted)
