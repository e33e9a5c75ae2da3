"""An exported folder goes to the Hugging Face hub; the token comes from the hub client's own places only."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HFValidationError, HTTPError, OIDCError
from huggingface_hub.utils import validate_repo_id

from lit_posttrain.errors import InputError

REPLACED = ("model*.safetensors*", "adapter_model*", "adapter_config.json", "chat_template.jinja")
"""Files of an earlier export that would be read together with the new ones; the hub's history keeps them."""


@dataclass(frozen=True)
class Destination:
    """A model repository on the hub.

    Args:
        name: `owner/name`.
        private: Make it private when it is created.
        revision: Branch to write to, made if it is not there; default: the main one.

    Raises:
        InputError: for a name that is not one of a repository.
    """

    name: str
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.name)
        except HFValidationError as error:
            raise InputError(
                f"--push {self.name!r} is no repository name: {error} Give OWNER/NAME."
            ) from error
        if self.name.count("/") != 1:
            raise InputError(f"--push {self.name!r} names no owner; give OWNER/NAME.")


def check_ready() -> None:
    """Refuses what could not be pushed, before any work.

    Raises:
        InputError: in offline mode, or without a token.
    """
    if is_offline_mode():
        raise InputError(
            "--push needs the network, and HF_HUB_OFFLINE is set; unset it, or export without --push."
        )
    try:
        token = get_token()
    except (HTTPError, OSError, OIDCError) as error:
        raise InputError(f"no token for the hub could be got: {_first_line(error)}") from error
    if token is None:
        raise InputError(
            "--push needs a token of the hub and there is none; run `hf auth login`, or set HF_TOKEN."
        )


def push(folder: Path, to: Destination) -> str:
    """Uploads a whole folder in one commit, its repository and branch made if need be; returns the address.

    Raises:
        InputError: if the hub refuses or cannot be reached, or a repository that should be private is public.
    """
    api = HfApi()
    try:
        address = str(api.create_repo(to.name, private=to.private, repo_type="model", exist_ok=True))
        if to.private and not api.repo_info(to.name).private:
            raise InputError(
                f"{to.name} is there already and is public, which --private does not change; make it private "
                f"on the hub, or give another name. Nothing was uploaded; {folder} is whole."
            )
        if to.revision is not None:
            api.create_branch(to.name, branch=to.revision, exist_ok=True)
        api.upload_folder(
            repo_id=to.name,
            folder_path=folder,
            revision=to.revision,
            commit_message="Export of lit-posttrain",
            delete_patterns=list(REPLACED),
        )
    except (HTTPError, OSError) as error:
        raise InputError(
            f"the hub did not take {to.name}: {_first_line(error)} Check that the token may write there; "
            f"{folder} is whole and can be pushed again with `hf upload {to.name} {folder}`."
        ) from error
    return address


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else f"{type(error).__name__}."
