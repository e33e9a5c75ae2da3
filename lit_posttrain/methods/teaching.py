"""A teacher for on-policy distillation: which network, and how its log-probs count."""

from dataclasses import dataclass, field

from lit_posttrain.contracts import Distillation
from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig, read_config
from lit_posttrain.objectives.distillation import ReverseKLAdvantage
from lit_posttrain.text import ChatText, TextConfig, load_text


@dataclass(frozen=True)
class Teacher:
    """A second network that judges every token that the policy wrote, by its own log-probability of it.

    It reads the policy's tokens as they are, so it must have the same vocabulary. It is not trained and not stored
    in checkpoints.

    Args:
        network: The teacher.
        objective: How its log-probs are learned from.
        reward_weight: Weight of the advantages from rewards; 0 distils alone, and then answers that could not be
            graded count like all others.
    """

    network: NetworkConfig
    objective: Distillation = field(default_factory=ReverseKLAdvantage)
    reward_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.reward_weight < 0:
            raise InputError(
                f"reward_weight must not be negative (got {self.reward_weight}); it would reward wrong answers"
            )


def check_vocabulary(teacher: NetworkConfig, text: ChatText) -> None:
    """Refuses a teacher whose token ids mean something else.

    A network from a config has no tokenizer of its own: there only its number of embeddings is compared.

    Raises:
        InputError: naming how many tokens differ.
    """
    have, need = int(read_config(teacher).vocab_size), text.highest_id + 1
    if have < need:
        raise InputError(
            f"the teacher has embeddings for {have} tokens and the policy's tokenizer writes ids up to {need - 1}; "
            "give a teacher with the policy's vocabulary"
        )
    if teacher.path is None:
        return
    theirs = load_text(TextConfig(path=teacher.path)).tokenizer.get_vocab()
    ours = text.tokenizer.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if different:
        raise InputError(
            f"the teacher {teacher.path!r} has another vocabulary than the policy: {len(different)} tokens differ, "
            f"such as {different[:3]}; on-policy distillation compares probabilities token by token. Give a teacher "
            "with the same tokenizer, or distil from a pool of its answers (`predict`, then the source Pool)"
        )
