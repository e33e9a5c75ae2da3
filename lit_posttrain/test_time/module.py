"""Tests a policy on held-out problems, or writes its graded answers to a file; trains nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

from lit_posttrain import interruption
from lit_posttrain.batches import Answer, Completion, Grade, Problem, PromptBatch, Sampling
from lit_posttrain.candidates import Candidate, Origin
from lit_posttrain.contracts import Grader, Patience, Strategy
from lit_posttrain.graders import grade_all
from lit_posttrain.ledger import Ledger, Phase, Spent
from lit_posttrain.networks import CausalNetwork, NetworkConfig, place, read_config
from lit_posttrain.networks.state import check_stored
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.rollouts.outage import outlast
from lit_posttrain.rollouts.provenance import candidates_of, policy_digest, run_of, shares, since
from lit_posttrain.test_time.predictions import Predictions, origin_of, wanted
from lit_posttrain.test_time.sample import Sample, solve_all
from lit_posttrain.test_time.tally import Judged, Tally, in_words
from lit_posttrain.text import ChatText, TextConfig, load_text

T = TypeVar("T")


class TestTimeModule(LightningModule):
    """Answers held-out problems with a strategy and grades the answers.

    `test` logs and prints `test_time/*`; `predict` writes every completion with its grade, its cost and where it
    came from to a pool, and leaves out problems that the same policy has answered there in the same way. Its
    networks have the names that they have in the methods, so that a checkpoint of any method loads.

    Several processes divide the problems of each batch among them. All of them then hear of every answer, in the
    order of one process; the first process writes the pool.

    Args:
        network: The policy.
        grader: Judges the answers.
        text: The tokenizer and chat template; by default those of `network.path`.
        strategy: How compute is spent on a problem.
        pass_at: Also report pass@k for these k.
        majority_at: Also report majority@k for these k.
        output: The pool that `predict` writes or adds to: a folder of Parquet parts, one for each batch of
            problems, if it ends in .parquet, or a readable file that ends in .jsonl.
        max_rows: Completions that are written at the same time.
        grading_deadline_s: Seconds that grading one batch of problems may take.
    """

    __test__ = False  # not a test class, whatever its name
    policy: CausalNetwork
    engine: TorchEngine

    def __init__(
        self,
        network: NetworkConfig,
        grader: Grader,
        text: TextConfig | None = None,
        strategy: Strategy = Sample(),  # noqa: B008 (frozen)
        pass_at: tuple[int, ...] = (),
        majority_at: tuple[int, ...] = (),
        output: str = "predictions.jsonl",
        max_rows: int = 1024,
        grading_deadline_s: float = 60.0,
    ) -> None:
        super().__init__()
        self.network, self.grader, self.strategy = network, grader, strategy
        self.text: ChatText = load_text(text or TextConfig(path=network.path))
        self.pass_at, self.majority_at = tuple(pass_at), tuple(majority_at)
        self.output, self.max_rows, self.grading_deadline_s = output, max_rows, grading_deadline_s
        self._prepare()

    @classmethod
    def from_method(
        cls,
        method: Any,
        grader: Grader,
        sampling: Sampling,
        n: int,
        output: str | Path = "predictions.jsonl",
    ) -> "TestTimeModule":
        """Tests the policy of a training method, which is taken over if it is loaded already.

        Args:
            method: Has `network`, `text`, `max_rows` and, once configured, `policy`.
            grader: Judges the answers.
            sampling: How answers are drawn.
            n: Completions of each problem.
            output: The pool that `predict` writes.
        """
        module = cls.__new__(cls)
        LightningModule.__init__(module)
        module.network, module.text, module.max_rows = method.network, method.text, method.max_rows
        module.grader, module.strategy = grader, Sample(n, sampling)
        module.pass_at = powers_of_two(n)
        module.majority_at = tuple(
            k for k in powers_of_two(n) if k > 2
        )  # two voters are never better than one
        module.output, module.grading_deadline_s = str(output), 60.0
        module._prepare()
        if "policy" in method._modules:
            module._hold(method.policy)
        return module

    def _prepare(self) -> None:
        self.ledger = Ledger()
        self.strict_loading = False  # a checkpoint may hold more than the policy; `on_load_checkpoint` checks
        self._trained: tuple[str | None, int | None] = None, None  # run and step of a checkpoint
        self._predictions: Predictions | None = None
        self._origin = Origin("")
        self._tally: Tally | None = None

    def configure_model(self) -> None:
        """Loads the policy, once."""
        if "policy" not in self._modules:
            self._hold(place(self.network, self._trainer))

    def _hold(self, policy: CausalNetwork) -> None:
        self.policy = policy
        self.engine = TorchEngine(policy, self.text, self.ledger, max_rows=self.max_rows)

    @property
    def sampling(self) -> Sampling | None:
        """How the strategy draws, where it is plain sampling."""
        return self.strategy.sampling if isinstance(self.strategy, Sample) else None

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence that the network takes."""
        adapter = self.network.adaptation
        return int(read_config(self.network).max_position_embeddings) - (adapter.tokens if adapter else 0)

    def answers(self, prompts: PromptBatch) -> tuple[list[list[Answer]], list[int | None]]:
        """Graded completions of each problem, and which one the strategy stands by (None: all alike)."""
        # gathered parameters stay so until all is drawn: processes need not make the same number of draws
        with self.ledger.phase(Phase.ROLLOUT), self.policy.decoding():
            outcomes = solve_all(self.strategy, prompts, self.engine)
        pairs = [
            (problem, completion)
            for problem, outcome in zip(prompts.problems, outcomes, strict=True)
            for completion in outcome.completions
        ]
        with self.ledger.phase(Phase.GRADING):
            grades = iter(self._graded(pairs))
            self.ledger.book(self.grader.take_spent())
        answers = [
            [Answer(problem, completion, next(grades)) for completion in outcome.completions]
            for problem, outcome in zip(prompts.problems, outcomes, strict=True)
        ]
        return answers, [outcome.chosen for outcome in outcomes]

    def _graded(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        def ask(places: Sequence[int]) -> list[Grade]:
            return grade_all(
                self.grader, [pairs[place] for place in places], deadline_s=self.grading_deadline_s
            )

        return outlast(ask(range(len(pairs))), ask, Patience())

    def together(self, work: Callable[[PromptBatch], list[T]], batch: PromptBatch) -> list[T]:
        """Does `work` on this process's share of the problems; what all made of theirs, one entry per problem.

        Collective: every process calls it with the same batch, and gets the same list.
        """
        ranks = Ranks.of(self.trainer)
        mine = PromptBatch(ranks.share(batch.problems), ranks.share(batch.prompt_ids))
        return ranks.interleave(interruption.gather(lambda: work(mine), ranks))

    def judge(self, prompts: PromptBatch) -> list[Judged]:
        """Grades of the answers to each problem."""
        return [Judged.of(*solved) for solved in zip(*self.answers(prompts), strict=True)]

    def write_down(self, prompts: PromptBatch) -> list[list[Candidate]]:
        """The candidates of each problem, as they stand in the pool."""
        before = replace(self.ledger.spent[Phase.ROLLOUT])
        answers, chosen = self.answers(prompts)
        costs = shares(answers, since(before, self.ledger.spent[Phase.ROLLOUT]))
        solved = zip(answers, prompts.prompt_ids, costs, chosen, strict=True)
        return [
            candidates_of(group, ids, self.text.decode(ids), self._origin, took, one)
            for group, ids, took, one in solved
        ]

    def on_test_epoch_start(self) -> None:
        """Starts an empty tally."""
        self._tally = Tally(self.pass_at, self.majority_at)

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Counts the answers to a batch of problems."""
        assert self._tally is not None
        self._tally.update(self.together(self.judge, batch))

    def on_test_epoch_end(self) -> None:
        """Logs the results, which Lightning shows as a table, and says the main one."""
        assert self._tally is not None
        spent = Ranks.of(self.trainer).gather(self.ledger.training)
        results = self._tally.results(sum(spent, start=Spent()))
        shown = {name: value.to(self.device) for name, value in results.items()}
        self.log_dict(shown, sync_dist=True, reduce_fx="max")  # equal everywhere: the maximum changes nothing
        self.print(in_words(results))

    def on_predict_start(self) -> None:
        """Opens the pool, in the first process.

        Raises:
            InputError: in every process, if something else is there already.
        """
        self._origin = origin_of(self.strategy, policy_digest(self.policy), *self._trained)
        self._predictions = Predictions(
            self.output,
            self._origin,
            wanted(self.strategy),
            strategy=self.trainer.strategy,
            is_first=self.trainer.is_global_zero,
        )

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> int:
        """Writes the graded answers to a batch of problems; returns how many are new, of all processes."""
        assert self._predictions is not None
        left = self._predictions.left(batch)
        if not len(left):
            return 0
        candidates = [one for group in self.together(self.write_down, left) for one in group]
        self._predictions.add(candidates)
        return len(candidates)

    def on_predict_end(self) -> None:
        """Says what is in the pool."""
        if self._predictions is not None:
            self.print(self._predictions.in_words())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another policy; what else it holds is left alone.

        Raises:
            InputError: naming parameters of the policy that are missing, unknown or of another shape, or the base
                that adapters belong to.
        """
        self.configure_model()
        check_stored(self.policy, checkpoint, prefix="policy.")
        loggers = checkpoint.get("run_state", {}).get("loggers", [])
        self._trained = run_of(loggers), checkpoint.get("global_step")


def powers_of_two(n: int) -> tuple[int, ...]:
    """2, 4, 8 … up to n."""
    return tuple(2**i for i in range(1, n.bit_length()) if 2**i <= n)
