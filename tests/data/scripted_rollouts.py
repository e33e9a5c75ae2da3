"""A method whose rollouts are known beforehand, and a learner that counts its steps."""

import torch

from lit_posttrain import collate
from lit_posttrain.batches import Experience, Problem, PromptBatch
from lit_posttrain.contracts import Collected, Reuse
from lit_posttrain.data.collecting import Collector
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.stream import ExperienceStream
from lit_posttrain.objectives.weights import TokenMean


def experience(index, sequences=6, version=None):
    """Groups of two; every token is `index` + 1."""
    sizes = [2 + (i + index) % 3 for i in range(sequences)]
    base = collate.from_lists([[index + 1] * n for n in sizes], [[j > 0 for j in range(n)] for n in sizes], 0)
    zeros = torch.zeros(base.input_ids.shape)
    return Experience(
        **vars(base), sampled_logprobs=zeros, old_logprobs=zeros.clone(), advantages=zeros + 1.0,
        rewards=torch.zeros(sequences), graded=torch.ones(sequences, dtype=torch.bool),
        group=torch.arange(sequences) // 2, stop=torch.zeros(sequences, dtype=torch.int64),
        policy_version=torch.full((sequences,), index if version is None else version), temperature=1.0,
    )  # fmt: skip


class ScriptedMethod:
    """Collects experiences by number; those in `empty` have no signal.

    `attempts(prompts, index)` says how problems went; `groups(index)` how many groups of two have a signal. `step`
    is where the learner stands: `learn` moves it.
    """

    selective = True

    def __init__(
        self, reuse=Reuse(), empty=(), needs_scoring=False, attempts=lambda prompts, index: (), groups=None
    ):
        self.reuse, self.weighting, self.needs_scoring = reuse, TokenMean(), needs_scoring
        self.empty, self.attempts, self.groups = set(empty), attempts, groups
        self.events, self.records, self.stopped, self.step = [], [], None, 0

    def collect(self, prompts, index):
        self.events.append(("collect", index))
        groups = self.groups(index) if self.groups else 3
        drawn = None if index in self.empty or not groups else experience(index, 2 * groups, self.step)
        return Collected(drawn, tuple(self.attempts(prompts, index)))

    def score(self, batch):
        self.events.append(("score", batch.sequences))
        batch.old_logprobs = batch.input_ids * -0.5

    def settle(self, experience):
        self.events.append(("settle", experience.sequences))
        experience.advantages = experience.old_logprobs + experience.input_ids

    def record(self, values):
        self.records.append((self.step, dict(values)))

    def recorded(self, name):
        """Every value of a metric, with the step of the learner."""
        return [(step, values[name]) for step, values in self.records if name in values]

    def stop(self, reason):
        self.stopped = reason


def endless(place, left):
    """A problem for every place."""
    return PromptBatch([Problem((), None, f"p{place}")], [[1]]), place + 1


def stream(method, *, prompts=endless, problems=3, collector=None, **options):
    """The stream over a scripted method."""
    source = Collector(method, prompts, problems=problems, **(collector or {}))
    return ExperienceStream(source, **({"cut": Cut(2), "rollouts": 3} | options))


def learn(one, method, batches=None):
    """The next micro-batches of a stream (all of an epoch by default), with a step after every whole one."""
    seen = []
    for batch in one:
        seen.append(batch.to_state())
        if one.position % one.cut.micro_batches == 0:
            method.step += 1
        if len(seen) == batches:
            break
    return seen


def same(left, right):
    """Whether two lists of batches are equal in every field."""
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
        for a, b in zip(left, right, strict=True)
    )
