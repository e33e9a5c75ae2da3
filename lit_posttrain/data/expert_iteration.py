"""Problems whose kept answers are learned: the data of an expert iteration."""

from typing import Any, Literal

from lit_posttrain.batches import Sampling, TokenBatch
from lit_posttrain.contracts import Drawing, DrawingMethod, ProblemSource
from lit_posttrain.data.prompts import PromptData
from lit_posttrain.data.rounds import Rounds, RoundStream
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText


class ExpertIterationData(PromptData):
    """Rounds of supervised training on the policy's own kept completions, for SFTModule.

    It is also the held-out prompts of probes and tests, as PromptData is.

    Args:
        source: Where the problems come from.
        drawing: How completions are drawn, and who grades them.
        rounds: How many rounds, how large, what is kept, what each begins with.
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
        rounds: Rounds = Rounds(),  # noqa: B008 (frozen)
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
        self.drawing, self.rounds = drawing, rounds

    def setup(self, stage: str) -> None:
        """Checks and reports on the split that the stage reads.

        Raises:
            InputError: if the module that is to be trained is not trained on completions of its own.
        """
        if stage == "fit" and self.trainer is not None:
            self._method()
        super().setup(stage)

    def train_dataloader(self) -> RoundStream:  # type: ignore[override]
        """The rounds."""
        assert self.trainer is not None
        method = self._method()
        cut = Cut(
            int(self.trainer.accumulate_grad_batches), self.packed, self.row_tokens, Ranks.of(self.trainer)
        )
        return RoundStream(
            method,
            self.rollout,
            self.drawing,
            self.rounds,
            cut=cut,
            pad_id=method.text.pad_id,  # type: ignore[attr-defined]
            seed=self.seed,
        )

    def _method(self) -> DrawingMethod:
        assert self.trainer is not None
        method = self.trainer.lightning_module
        if not isinstance(method, DrawingMethod):
            raise InputError(
                f"{type(method).__name__} draws no completions for supervised training; ExpertIterationData is for "
                "SFTModule. Give PromptData to a method of reinforcement learning"
            )
        return method

    def val_dataloader(self) -> list[TokenBatch]:
        """Nothing: held-out problems have no worked answers here; probes measure them."""
        return []

    def _sampling(self, module: Any) -> Sampling | None:
        return self.drawing.sampling if isinstance(module, DrawingMethod) else super()._sampling(module)
