"""Keeps secrets out of what is tracked: by the name of a value and by its look.

Names are taken as whole words, so `hf_token`, `apiKey` and `db.password` are secrets while `num_tokens`,
`eos_token_id`, `use_cls_token` and `answer_key` are not.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_SECRET_WORDS = {
    "password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials",
    "apikey", "accesskey", "secretkey", "authtoken", "accesstoken", "authorization",
}  # fmt: skip
_PASSWORDS = {"password", "passwd", "passphrase", "pwd", "secret"}
_NOTHING = {"", REDACTED, "none", "null", "true", "false", "~"}
_ABOUT_SECRETS = {
    "length", "file", "path", "env", "name", "count", "size", "dir", "type", "required", "policy", "enabled",
}  # fmt: skip
_CREDENTIAL_OWNERS = {
    "api", "access", "auth", "bearer", "client", "private", "secret", "encryption", "signing", "ssh",
    "master", "account", "subscription", "storage", "deploy", "refresh", "session", "oauth", "jwt",
    "personal", "login", "hf", "hub", "huggingface", "github", "gitlab", "gh", "git", "wandb", "openai",
    "anthropic", "aws", "azure", "mlflow", "tracking", "slack", "registry", "service", "user", "upload",
}  # fmt: skip
_VOCABULARY_TOKENS = {
    "eos", "bos", "pad", "cls", "sep", "unk", "mask", "image", "video", "audio", "stop", "start", "end",
    "eot", "eom", "think", "tool", "special", "extra", "step", "reward", "score", "first", "last", "next",
    "new", "prefix", "suffix", "middle", "fim", "newline", "separator", "padding", "prompt", "decoder",
}  # fmt: skip

_SHAPES = [
    re.compile(pattern)
    for pattern in (
        r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}",
        r"(?<![A-Za-z0-9])sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{20,}",
        r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,})",
        r"(?<![A-Za-z0-9])xox[abposr]-[A-Za-z0-9-]{10,}",
        r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}",
        r"(?<![A-Za-z0-9])(?:npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}|nvapi-[A-Za-z0-9_-]{20,})",
        r"(?<![A-Za-z0-9])(?:gsk_|r8_)[A-Za-z0-9]{30,}",
        r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+",
        r"(?:(?<=://)|(?<=[a-z]:/)(?!/))[^\s/:@\"']*:[^\s/\"']+(?=@)",  # one slash: as a path keeps it
        r"(?<=://)[A-Za-z0-9_-]{20,}(?=@)",
        r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*",
        r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    )
]
_ASSIGNMENT = re.compile(
    r"""(?P<name>[A-Za-z][\w.\-]*)(?P<joint>["']?[ \t]*[:=][ \t]*)"""
    r"""(?P<value>"[^"\n]*(?:"|\Z)|'[^'\n]*(?:'|\Z)|"""
    r"""(?!\[redacted)(?:(?:[Bb]asic|[Bb]earer|[Tt]oken|[Dd]igest)[ ]+)?[^\s"',;&}\]]+)"""
)
_EQUALS = re.compile(r"""(?P<name>[A-Za-z][\w.\-]*)=(?P<value>(?!\[redacted)[^\s"',;&}\]]+)""")
_OPTION = re.compile(
    r"""(?<![\w-])--(?P<name>[A-Za-z][\w.\-]*)(?P<joint>["']?,?[ \t]+)"""
    r"""(?P<value>"[^"\n]*"|'[^'\n]*'|(?!\[redacted)[^\s"',-][^\s"',]*)"""
)
_ENTRY = re.compile(  # of YAML: the whole of a plain value, spaces included
    r"""(?P<lead>^[ \t]*(?:-[ ]+)*|[{,][ \t]*)(?P<name>[A-Za-z][\w.\-]*)(?P<joint>[ \t]*:[ \t]+)"""
    r"""(?P<value>[^\s"'|>{\[][^\n,}\]]*)""",
    re.MULTILINE,
)
_BLOCK = re.compile(  # of YAML: what stands below `name: |`
    r"""^[ ]*(?:-[ ]+)*(?P<name>[A-Za-z][\w.\-]*)[ ]*:[ ]+"""
    r"""(?P<value>[|>][+\-\d]*[ ]*\n(?P<deep>[ ]+)[^\n]*(?:\n(?:(?P=deep)[^\n]*|[ ]*(?=\n)))*)""",
    re.MULTILINE,
)


def by_shape(text: str) -> str:
    """`text` with all that looks like a credential replaced (prefixes, PEM keys, `user:pass@`)."""
    for shape in _SHAPES:
        text = shape.sub(REDACTED, text)
    return text


def in_text(text: str) -> str:
    """`text` with credentials replaced by look, and by name.

    A name counts where it says `name: value`, `name=value` or `--name value`, as YAML, JSON, program text,
    addresses (`?token=…`) and command lines do.
    """
    text = _BLOCK.sub(_redact_named, by_shape(text))
    for form in (_ENTRY, _ASSIGNMENT, _EQUALS, _OPTION):
        text = form.sub(_redact_named, text)
    return text


def in_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with secret values replaced, at any depth."""
    return {name: in_value(value, str(name)) for name, value in values.items()}


def in_value(value: Any, name: str = "") -> Any:
    """A value of a config with secrets replaced by name and look: strings in it, at any depth.

    Args:
        value: Mappings and lists are copied; what is neither nor a string is kept as it is.
        name: What the value is called; entries of lists are called as the list is, or as an option before them.
    """
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return in_mapping(value)
    if isinstance(value, list | tuple):
        names = [name, *(_option_name(entry) or name for entry in value)]
        return [in_value(entry, called) for entry, called in zip(value, names, strict=False)]
    if is_secret(name, value):
        return REDACTED
    return in_text(value) if isinstance(value, str) else value


def shapes_in(value: Any) -> Any:
    """Data with credentials replaced by look alone: strings at any depth. For texts of problems and models."""
    if isinstance(value, str):
        return by_shape(value)
    if isinstance(value, Mapping):
        return {name: shapes_in(entry) for name, entry in value.items()}
    return [shapes_in(entry) for entry in value] if isinstance(value, list | tuple) else value


def is_secret(name: str, value: Any) -> bool:
    """Whether a value of this name must not be shown; booleans and None never, numbers only as passwords."""
    words = _words(name)
    if not words or words[-1] in _ABOUT_SECRETS:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        return words[-1] in _PASSWORDS
    if not isinstance(value, str) or value.lower() in _NOTHING:
        return False
    if _SECRET_WORDS & set(words):
        return True
    if words[-1] not in ("token", "key") or not _could_be_credential(value):
        return False
    owners = set(words[:-1])
    if owners & _CREDENTIAL_OWNERS:
        return True
    if words[-1] == "token":
        return not owners & _VOCABULARY_TOKENS
    return len(value) >= 16 and bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))


def _words(name: str) -> list[str]:
    last = re.split(r"[./]", name)[-1]
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return words[:-1] if len(words) > 1 and words[-1].isdigit() else words


def _could_be_credential(value: str) -> bool:
    """False for special tokens (`<eos>`, `[PAD]`), short words, prose, file paths and plain numbers."""
    return (
        len(value) >= 8
        and re.fullmatch(r"[A-Za-z0-9_\-.+/=~:]+", value) is not None
        and re.fullmatch(r"[\d.+\-eE]+", value) is None
    )


def _redact_named(match: re.Match[str]) -> str:
    raw = match["value"]
    content = raw.partition("\n")[2].strip() if raw[0] in "|>" else raw.strip("\"'")
    if not is_secret(match["name"], content):
        return match[0]
    quote = raw[0] if raw[0] in "\"'" else ""
    start, end = match.span("value")
    return f"{match.string[match.start() : start]}{quote}{REDACTED}{quote}{match.string[end : match.end()]}"


def _option_name(entry: Any) -> str:
    return entry[2:] if isinstance(entry, str) and entry.startswith("--") and "=" not in entry else ""
