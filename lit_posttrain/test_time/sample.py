"""The plainest strategy, n independent samples, and the scheduler that runs strategies side by side."""

from dataclasses import dataclass, field

from lit_posttrain.batches import Completion, Problem, PromptBatch, Request, SampleKey, Sampling
from lit_posttrain.contracts import Outcome, RolloutEngine, Solving, Strategy
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Sample(Strategy):
    """Draws n completions of each problem; all of them count alike.

    Args:
        n: Completions of each problem.
        sampling: How they are drawn; temperature 0 is greedy decoding.
        seed: Of the samples, together with the problem and the sample's number.
    """

    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"n is {self.n}; draw 1 sample or more.")

    def solve(self, problem: Problem, prompt_ids: list[int]) -> Solving:
        """One request, whose completions are the outcome."""
        (completions,) = yield [Request(prompt_ids, SampleKey(self.seed, problem.uid), self.sampling, self.n)]
        return Outcome(completions)


def solve_all(strategy: Strategy, prompts: PromptBatch, engine: RolloutEngine) -> list[Outcome]:
    """Runs the strategy on every problem side by side; the open requests of a round are one engine call.

    Returns:
        One outcome per problem, in order.
    """
    outcomes: list[Outcome | None] = [None] * len(prompts)
    running: dict[int, tuple[Solving, list[Request]]] = {}

    def advance(index: int, solving: Solving, received: list[list[Completion]] | None) -> None:
        try:
            asked = next(solving) if received is None else solving.send(received)
        except StopIteration as stop:
            outcomes[index] = stop.value
        else:
            running[index] = (solving, asked)

    for index, (problem, ids) in enumerate(zip(prompts.problems, prompts.prompt_ids, strict=True)):
        advance(index, strategy.solve(problem, ids), None)
    while running:
        waiting, running = running, {}
        drawn = iter(engine.generate([request for _, asked in waiting.values() for request in asked]))
        for index, (solving, asked) in waiting.items():
            advance(index, solving, [next(drawn) for _ in asked])
    return [outcome for outcome in outcomes if outcome is not None]
