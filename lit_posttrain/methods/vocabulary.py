"""Whether a second network reads the policy's tokens as the policy does."""

from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig, read_config
from lit_posttrain.text import ChatText, TextConfig, load_text


def check_vocabulary(other: NetworkConfig, text: ChatText, *, role: str, instead: str) -> None:
    """Refuses a network whose token ids mean something else.

    A network from a config has no tokenizer of its own: there only its number of embeddings is compared.

    Args:
        other: The network that is to read the policy's tokens.
        text: The policy's tokenizer.
        role: What messages call the network.
        instead: What else could be done, for the message.

    Raises:
        InputError: naming how many tokens differ.
    """
    have, need = int(read_config(other).vocab_size), text.highest_id + 1
    if have < need:
        raise InputError(
            f"the {role} has embeddings for {have} tokens and the policy's tokenizer writes ids up to {need - 1}; "
            f"give a {role} with the policy's vocabulary"
        )
    if other.path is None:
        return
    theirs = set(load_text(TextConfig(path=other.path)).tokenizer.get_vocab().items())
    different = sorted({token for token, _ in theirs ^ set(text.tokenizer.get_vocab().items())})
    if different:
        raise InputError(
            f"the {role} {other.path!r} has another vocabulary than the policy: {len(different)} tokens differ, such "
            f"as {different[:3]}; its log-probs would be of other texts. Give a {role} with the same tokenizer, or "
            f"{instead}"
        )
