"""An engine that cuts in where a completion does not come to an end, and lets it write an answer."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lit_posttrain.batches import Completion, Request, SampleKey, StopReason
from lit_posttrain.contracts import Finished, RolloutEngine
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.rollouts.torch_engine import TorchEngine
from lit_posttrain.text import ChatText


class TimeUp(RolloutEngine):
    """Draws up to the largest limit, crops what went on beyond its own, puts tokens in and draws the rest.

    A completion's limit depends on its key alone. What is cropped was drawn in vain, and stands in the books.

    Args:
        engine: Draws.
        text: The tokenizer.
        ids: What is put in.
        after_tokens: The least and the largest limit.
        answer_tokens: The most tokens behind what is put in.
    """

    def __init__(
        self,
        engine: TorchEngine,
        text: ChatText,
        ids: Sequence[int],
        after_tokens: tuple[int, int],
        answer_tokens: int,
    ) -> None:
        self.inner, self.text, self.ids = engine, text, list(ids)
        self.after_tokens, self.answer_tokens = after_tokens, answer_tokens

    def generate(
        self, requests: Sequence[Request], finished: Finished | None = None
    ) -> list[list[Completion]]:
        """For each request its completions, in order; `finished` hears of each when it is whole.

        Raises:
            InputError: if a prefix leaves no room for all parts in the network's positions.
        """
        for request in requests:
            self._check(request)
        with self.inner.network.decoding():  # every process enters it once, whatever it has to ask for
            return self._generate(requests, finished)

    def limit(self, key: SampleKey, number: int) -> int:
        """The limit of a sample in tokens."""
        low, high = self.after_tokens
        return low + digest(key.seed, "time up", key.uid, key.first_sample + number) % (high - low + 1)

    def _check(self, request: Request) -> None:
        room = self.inner.network.max_positions - len(request.prefix)
        need = self.after_tokens[1] + len(self.ids) + self.answer_tokens
        if need > room:
            raise InputError(
                f"a prompt of {len(request.prefix)} tokens leaves {room} of the network's positions, and an "
                f"interrupted completion takes up to {need} (problem {request.key.uid!r}); shorten the prompt or lower "
                "after_tokens"
            )

    def _generate(self, requests: Sequence[Request], finished: Finished | None) -> list[list[Completion]]:
        first = [
            replace(one, sampling=replace(one.sampling, max_new_tokens=self.after_tokens[1]))
            for one in requests
        ]

        def heard(place: int, number: int, completion: Completion) -> None:
            if finished is not None and not self._is_late(requests[place], number, completion):
                finished(place, number, completion)

        results = self.inner.generate(first, heard)
        late = [
            (place, number)
            for place, group in enumerate(results)
            for number, completion in enumerate(group)
            if self._is_late(requests[place], number, completion)
        ]
        begun = {slot: self._cropped(requests[slot[0]], slot[1], results[slot[0]][slot[1]]) for slot in late}
        asked = [self._rest(requests[place], number, begun[place, number]) for place, number in late]
        for (place, number), (rest,) in zip(late, self.inner.generate(asked) if asked else [], strict=True):
            whole = self._joined(begun[place, number], rest)
            results[place][number] = whole
            if finished is not None:
                finished(place, number, whole)
        return results

    def _is_late(self, request: Request, number: int, completion: Completion) -> bool:
        """Whether it was still going at its limit."""
        length, limit = len(completion.tokens), self.limit(request.key, number)
        return length > limit or (length == limit and completion.stop is StopReason.LENGTH)

    def _cropped(self, request: Request, number: int, completion: Completion) -> Completion:
        limit = self.limit(request.key, number)
        return replace(completion, tokens=completion.tokens[:limit], logprobs=completion.logprobs[:limit])

    def _rest(self, request: Request, number: int, begun: Completion) -> Request:
        """Asks for the answer, with draws of its own."""
        key = SampleKey(
            digest(request.key.seed, "answer"), request.key.uid, request.key.first_sample + number
        )
        prefix = [*request.prefix, *begun.tokens.tolist(), *self.ids]
        return Request(prefix, key, replace(request.sampling, max_new_tokens=self.answer_tokens))

    def _joined(self, begun: Completion, rest: Completion) -> Completion:
        put_in = torch.tensor(self.ids, dtype=torch.int64)
        tokens = torch.cat([begun.tokens, put_in, rest.tokens])
        injected = torch.zeros(len(tokens), dtype=torch.bool)
        injected[len(begun.tokens) : len(begun.tokens) + len(put_in)] = True
        return Completion(
            tokens,
            torch.cat([begun.logprobs, torch.zeros(len(put_in)), rest.logprobs]),
            rest.stop,
            self.text.decode(tokens.tolist()),
            injected,
        )
