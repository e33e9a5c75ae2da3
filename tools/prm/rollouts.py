"""Labels of planted derivations from a policy's rollouts: all steps, and the first error by halving."""

from pathlib import Path

from lit_posttrain.batches import Problem, Sampling
from lit_posttrain.data.formats import StepwiseRow
from lit_posttrain.graders import NumericMatch
from lit_posttrain.ledger import Ledger
from lit_posttrain.metrics import first_error
from lit_posttrain.networks import NetworkConfig, build
from lit_posttrain.rollouts import (
    RolloutSettings,
    Solution,
    StepRollouts,
    TorchEngine,
    first_errors,
    step_values,
)
from lit_posttrain.solution_steps import StepFormat, StepReader
from lit_posttrain.text import load_text
from prm.training import source


def label(policy: Path, *, solutions: int, samples: int) -> None:
    """Prints how well both ways find planted errors, and what they cost."""
    given = source()
    rows = given.rows("test")[:solutions]
    pairs = zip(rows, given.problems("test"), strict=False)
    asked = [Solution(problem, tuple(row.steps)) for row, problem in pairs]
    gold = [first_error(row.labels) for row in rows]
    changed = [_changes_the_answer(row, one.problem) for row, one in zip(rows, asked, strict=True)]
    for name in ("soft labels below 1/2", "hard labels", "halving"):
        sampler = rollouts_of(policy, samples)
        found = _found(name, sampler, asked)
        spent = sampler.ledger.training
        right = [mine == theirs for mine, theirs in zip(found, gold, strict=True)]
        seen = [hit for hit, shows in zip(right, changed, strict=True) if shows]
        print(
            f"{name}: first error right in {sum(right) / len(right):.3f} of {len(right)} solutions, "
            f"{sum(seen) / len(seen):.3f} of the {len(seen)} without an error or with one that changes the answer; "
            f"{sampler.drawn} rollouts, {spent.generated_tokens} tokens, {spent.flops:.2e} FLOPs",
            flush=True,
        )


def rollouts_of(policy: Path, samples: int) -> StepRollouts:
    """Of an exported policy."""
    ledger, text = Ledger(), load_text(str(policy))
    engine = TorchEngine(build(NetworkConfig(path=str(policy))), text, ledger)
    settings = RolloutSettings(Sampling(max_new_tokens=24), samples)
    return StepRollouts(engine, NumericMatch(), StepReader(text, StepFormat("\n")), ledger, settings)


def _found(name: str, sampler: StepRollouts, solutions: list[Solution]) -> list[int]:
    if name == "halving":
        return [-1 if one.step is None else one.step for one in first_errors(sampler, solutions)]
    kind = "hard" if name.startswith("hard") else "soft"
    return [
        first_error([getattr(value, kind) for value in values]) for values in step_values(sampler, solutions)
    ]


def _changes_the_answer(row: StepwiseRow, problem: Problem) -> bool:
    return 0.0 not in row.labels or row.steps[-1][-1] != problem.reference
