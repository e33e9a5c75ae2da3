"""Tests a policy on held-out problems, or writes its graded answers to a file; trains nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

from lit_posttrain import interruption
from lit_posttrain.batches import Answer, PromptBatch, Sampling
from lit_posttrain.contracts import Grader, Strategy
from lit_posttrain.errors import InputError
from lit_posttrain.graders import grade_all
from lit_posttrain.ledger import Ledger, Phase, Spent
from lit_posttrain.networks import CausalNetwork, NetworkConfig, place, read_config
from lit_posttrain.networks.state import check_stored
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.test_time.predictions import PredictionFile, rows_of
from lit_posttrain.test_time.sample import Sample, solve_all
from lit_posttrain.test_time.tally import Judged, Tally, in_words
from lit_posttrain.text import ChatText, TextConfig, load_text

T = TypeVar("T")


class TestTimeModule(LightningModule):
    """Answers held-out problems with a strategy and grades the answers.

    `test` logs and prints `test_time/*`; `predict` writes every completion with its grade to a file. Its
    networks have the names that they have in the methods, so that a checkpoint of any method loads.

    Several processes divide the problems of each batch among them. All of them then hear of every answer, in the
    order of one process; the first process writes the file.

    Args:
        network: The policy.
        grader: Judges the answers.
        text: The tokenizer and chat template; by default those of `network.path`.
        strategy: How compute is spent on a problem.
        pass_at: Also report pass@k for these k.
        majority_at: Also report majority@k for these k.
        output: File that `predict` writes, ending in .jsonl or .parquet; it must not exist yet.
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
            output: File that `predict` writes.
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
        self._file: PredictionFile | None = None
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
        return int(read_config(self.network).max_position_embeddings)

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
            grades = iter(grade_all(self.grader, pairs, deadline_s=self.grading_deadline_s))
        answers = [
            [Answer(problem, completion, next(grades)) for completion in outcome.completions]
            for problem, outcome in zip(prompts.problems, outcomes, strict=True)
        ]
        return answers, [outcome.chosen for outcome in outcomes]

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

    def write_down(self, prompts: PromptBatch) -> list[list[dict[str, Any]]]:
        """The rows of each problem, as they stand in the file."""
        texts = map(self.text.decode, prompts.prompt_ids)
        return [rows_of(*solved) for solved in zip(texts, *self.answers(prompts), strict=True)]

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
        """Opens the file, in the first process.

        Raises:
            InputError: in every process, if it is there already.
        """
        refusal: str | None = None
        if self.trainer.is_global_zero:
            try:
                self._file = PredictionFile(self.output)
            except InputError as error:
                refusal = str(error)
        refusal = self.trainer.strategy.broadcast(refusal)
        if refusal is not None:
            raise InputError(refusal)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> int:
        """Writes the graded answers to a batch of problems; returns how many rows, of all processes."""
        rows = [row for rows in self.together(self.write_down, batch) for row in rows]
        if self._file is not None:
            self._file.write(rows)
        return len(rows)

    def on_predict_end(self) -> None:
        """Finishes the file and says what is in it."""
        if self._file is not None:
            self.print(f"{self._file.rows} graded completions in {self._file.finish()}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another policy; what else it holds is left alone.

        Raises:
            InputError: naming parameters of the policy that are missing, unknown or of another shape, or the base
                that adapters belong to.
        """
        self.configure_model()
        check_stored(self.policy, checkpoint, prefix="policy.")


def powers_of_two(n: int) -> tuple[int, ...]:
    """2, 4, 8 … up to n."""
    return tuple(2**i for i in range(1, n.bit_length()) if 2**i <= n)
