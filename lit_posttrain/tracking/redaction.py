"""Keeps secrets out of what is tracked: by the name of a value and by its look.

Names are taken as whole words, so `hf_token`, `apiKey` and `db.password` are secrets while `num_tokens`,
`eos_token_id`, `use_cls_token` and `answer_key` are not.
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_SECRET_WORDS = {
    "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials",
    "apikey", "accesskey", "secretkey", "authtoken", "accesstoken", "authorization",
}  # fmt: skip
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
        r"(?<=://)[^\s/:@]*:[^\s/@]+(?=@)",
        r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    )
]
_ASSIGNMENT = re.compile(
    r"""(?P<name>[A-Za-z][\w.\-]*)(?P<joint>["']?[ \t]*[:=][ \t]*)"""
    r"""(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s"',;&}\]]+)"""
)


def by_shape(text: str) -> str:
    """`text` with all that looks like a credential replaced (prefixes, PEM keys, `user:pass@`)."""
    for shape in _SHAPES:
        text = shape.sub(REDACTED, text)
    return text


def in_text(text: str) -> str:
    """`text` with credentials replaced by look, and by name where it says `name: value` or `name=value`."""
    return _ASSIGNMENT.sub(_redact_assignment, by_shape(text))


def in_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """A flat mapping with secret values replaced; numbers, booleans and None are never secrets."""
    return {
        name: REDACTED if is_secret(name, value) else by_shape(value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def is_secret(name: str, value: Any) -> bool:
    """Whether a value of this name must not be shown."""
    if (
        not isinstance(value, str)
        or value in ("", REDACTED)
        or value.lower() in ("none", "null", "true", "false")
    ):
        return False
    words = _words(name)
    if not words or words[-1] in _ABOUT_SECRETS:
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
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def _could_be_credential(value: str) -> bool:
    """False for special tokens (`<eos>`, `[PAD]`), short words, prose, file paths and plain numbers."""
    return (
        len(value) >= 8
        and re.fullmatch(r"[A-Za-z0-9_\-.+/=~:]+", value) is not None
        and re.fullmatch(r"[\d.+\-eE]+", value) is None
    )


def _redact_assignment(match: re.Match[str]) -> str:
    raw = match["value"]
    quote = raw[0] if raw[0] in "\"'" else ""
    if not is_secret(match["name"], raw.strip("\"'")):
        return match[0]
    return f"{match['name']}{match['joint']}{quote}{REDACTED}{quote}"
