"""Kept candidates of a pool as conversations: distillation from a teacher, and rejection sampling."""

import json
from dataclasses import dataclass, field
from functools import lru_cache

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import Problem
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import ProblemSource, Selection
from lit_posttrain.data.selection import OnlyCorrect, select
from lit_posttrain.data.sources.splitting import check_share, check_split, split_of
from lit_posttrain.errors import InputError
from lit_posttrain.pools import pool_files, read_pool


@dataclass(frozen=True)
class Pool(ProblemSource):
    """Completions that `lit-posttrain predict` wrote, those worth learning from.

    Each kept candidate is a conversation: the messages of its problem, then its text as the answer. The split
    is that of the prompt, by a hash, so that all candidates of a problem are in the same one. What is kept, and
    how many each rule left out, is reported at start.

    Args:
        path: A pool, or several: folders of Parquet parts, .parquet or .jsonl files.
        keep: Rules, applied in this order to the candidates of each problem.
        held_out_share: Share of the problems that goes to `validation`, and as much again to `test`.
    """

    path: str | list[str]
    keep: list[Selection] = field(default_factory=lambda: [OnlyCorrect()])
    held_out_share: float = 0.05

    def __post_init__(self) -> None:
        check_share(self.held_out_share)
        if not self.paths:
            raise InputError("path names no pool; give at least one")

    @property
    def paths(self) -> list[str]:
        """The pools."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    def problems(self, split: str) -> list[Problem]:
        """The problems of the pool, with or without a kept candidate, each once."""
        return list({c.problem_key: c.answer.problem for c in self.candidates(split)}.values())

    def chats(self, split: str) -> list[list[dict[str, str]]]:
        """The kept candidates of the split, each with its prompt.

        Raises:
            InputError: if the rules leave nothing.
        """
        came = self.candidates(split)
        with_text = [c for c in came if c.answer.completion.text.strip()]
        kept = select(with_text, self.keep)
        told = kept.in_words(f"{', '.join(self.paths)} ({split})")
        told += f", no text {len(came) - len(with_text):,}" if len(with_text) < len(came) else ""
        if not kept.candidates:
            raise InputError(f"nothing of the pool is kept; loosen the rules, or draw more. {told}")
        _tell(told, self.state())
        return [conversation(candidate) for candidate in kept.candidates]

    def fingerprint(self, split: str) -> str:
        """Changes with the files of the pool and with the rules."""
        self.chats(split)  # which reports on what is kept, also where the tokens are in a cache
        return f"{split} {self.keep!r} {self.held_out_share} {self.state()}"

    def candidates(self, split: str) -> list[Candidate]:
        """All candidates of the split, kept or not.

        Raises:
            InputError: if there are none.
        """
        check_split(split)
        candidates = _candidates(tuple(self.paths), self.state())
        found = [c for c in candidates if split_of(prompt_text(c), self.held_out_share) == split]
        if not found:
            raise InputError(
                f"no problem of the pool {', '.join(self.paths)} falls into split {split!r}; raise held_out_share "
                f"(now {self.held_out_share}), draw for more problems, or do without that split"
            )
        return found

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Changes with the files."""
        files = [file for path in self.paths for file in pool_files(path)]
        return tuple((str(file), (s := file.stat()).st_mtime_ns, s.st_size) for file in files)


State = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=2)
def _candidates(paths: tuple[str, ...], state: State) -> tuple[Candidate, ...]:
    """The candidates of all pools, each once; `state` changes with the files."""
    found = {candidate.uid: candidate for path in paths for candidate in read_pool(path)}
    return tuple(found.values())


@lru_cache(maxsize=64)
def _tell(text: str, state: State) -> None:
    """Prints a report, once for each state of the files."""
    rank_zero_only(print)(text)


def prompt_text(candidate: Candidate) -> str:
    """The prompt as canonical text, as it decides a split."""
    return json.dumps([dict(message) for message in candidate.answer.problem.messages], sort_keys=True)


def conversation(candidate: Candidate) -> list[dict[str, str]]:
    """The messages of its problem and its text as the answer."""
    asked = [dict(message) for message in candidate.answer.problem.messages]
    return [*asked, {"role": "assistant", "content": candidate.answer.completion.text}]
