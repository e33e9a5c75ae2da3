"""Problems whose graded answers are compared: the data of iterative and online preference training."""

from typing import Any, Literal

from lit_posttrain.batches import Sampling, TokenBatch
from lit_posttrain.contracts import Drawing, ProblemSource
from lit_posttrain.data.preference_stream import PairRounds, PreferenceStream, PreferringMethod
from lit_posttrain.data.prompts import PromptData
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText


class PreferenceRounds(PromptData):
    """Rounds of training on pairs of the policy's own completions, for DPOModule.

    It is also the held-out prompts of probes and tests, as PromptData is.

    Args:
        source: Where the problems come from.
        drawing: How completions are drawn, and who grades them.
        rounds: How many rounds, how large, and what is paired.
        max_prompt_tokens: The longest prompt allowed; 0 means what the network and `max_new_tokens` leave.
        too_long: What happens to a longer one: `error` stops at start, `skip` leaves it out, counted in the
            report.
        packed: Put several completions into a row of a micro-batch instead of padding each.
        row_tokens: Tokens of a packed row; 0 means as many as the longest sequence of the step.
        probe_problems: Problems of a probe or test; 0 means the whole split.
        probe_batch: Problems that a probe generates for at a time.
        seed: Of problems, samples and order.
        text: Tokenizer and template; those of the module by default.
    """

    def __init__(
        self,
        source: ProblemSource,
        drawing: Drawing,
        rounds: PairRounds = PairRounds(),  # noqa: B008 (frozen)
        max_prompt_tokens: int = 0,
        too_long: Literal["error", "skip"] = "error",
        packed: bool = False,
        row_tokens: int = 0,
        probe_problems: int = 512,
        probe_batch: int = 512,
        seed: int = 0,
        text: ChatText | None = None,
    ) -> None:
        super().__init__(
            source,
            problems_per_rollout=rounds.problems,
            max_prompt_tokens=max_prompt_tokens,
            too_long=too_long,
            packed=packed,
            row_tokens=row_tokens,
            probe_problems=probe_problems,
            probe_batch=probe_batch,
            seed=seed,
            text=text,
        )
        if drawing.samples < 2:
            raise InputError(
                f"a pair needs two completions of a problem; set drawing.samples >= 2 (got {drawing.samples})"
            )
        self.drawing, self.rounds = drawing, rounds

    def setup(self, stage: str) -> None:
        """Checks and reports on the split that the stage reads.

        Raises:
            InputError: if the module is not trained on pairs of its own completions, or compares with log-probs
                that the sampling does not give.
        """
        if stage == "fit" and self.trainer is not None:
            self._check_sampling(self._method())
        super().setup(stage)

    def train_dataloader(self) -> PreferenceStream:  # type: ignore[override]
        """The rounds."""
        assert self.trainer is not None
        method = self._method()
        return PreferenceStream(
            method,
            self.rollout,
            self.drawing,
            self.rounds,
            cut=Cut(
                int(self.trainer.accumulate_grad_batches),
                self.packed,
                self.row_tokens,
                Ranks.of(self.trainer),
            ),
            pad_id=method.text.pad_id,  # type: ignore[attr-defined]
            seed=self.seed,
        )

    def val_dataloader(self) -> list[TokenBatch]:
        """Nothing: held-out problems have no pairs here; probes measure them."""
        return []

    def _method(self) -> PreferringMethod:
        assert self.trainer is not None
        method = self.trainer.lightning_module
        if not isinstance(method, PreferringMethod):
            raise InputError(
                f"{type(method).__name__} does not learn from pairs of its own completions; PreferenceRounds is for "
                "DPOModule. Give PromptData to a method of reinforcement learning, ExpertIterationData to SFTModule"
            )
        return method

    def _check_sampling(self, method: PreferringMethod) -> None:
        """
        Raises:
            InputError: if the log-probs as drawn are not those of the policy, and are to be used as such.
        """
        s = self.drawing.sampling
        if method.reference_as_drawn and (s.temperature != 1 or s.top_p < 1 or s.top_k or s.min_new_tokens):
            raise InputError(
                "log-probs as drawn are the policy's only at temperature 1, top_p 1, top_k 0 and min_new_tokens 0 "
                f"(got temperature {s.temperature}, top_p {s.top_p}, top_k {s.top_k}, min_new_tokens "
                f"{s.min_new_tokens}); change the sampling, or set the reference to ResetEvery(rounds=1)"
            )

    def _sampling(self, module: Any) -> Sampling | None:
        return self.drawing.sampling if isinstance(module, PreferringMethod) else super()._sampling(module)
