import pytest

from lit_posttrain.tracking.redaction import REDACTED, by_shape, in_mapping, in_text, is_secret

# Made up, and put together here so that no scanner takes this file for a leak.
HF = "hf_" + "AbCdEfGhIj" * 3
SK = "sk-" + "proj-a1B2c3D4e5F6g7H8i9J0"
AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
GITHUB = "ghp_" + "a1B2c3D4e5" * 4
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + ".abc-DEF_123"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"

PLANTED = {
    "password": "hunter2",
    "db.password": "p w",
    "data/db_password": "x",
    "dbPassword": "x1",
    "passphrase": "correct horse",
    "secret": "abc",
    "client_secret": "q",
    "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG",
    "credentials": "user-1234",
    "credential": "abcd",
    "api_key": "0123456789abcdef",
    "apikey": "zz",
    "apiKey": "abcdefgh12",
    "OPENAI_API_KEY": "abcdefgh",
    "wandb_api_key": "f" * 40,
    "private_key": "MIIEowIBAAKC",
    "access-key": "abcdefgh",
    "ssh_key": "AAAAB3NzaC1yc2E",
    "encryption_key": "0f1e2d3c4b5a",
    "hf_token": "abcdefghij",
    "HF_TOKEN": "abcdefghij",
    "token": "abcdefgh1234",
    "auth.token": "abcdefgh1234",
    "authToken": "abcdefgh1234",
    "access_token": "abcdefgh",
    "refresh_token": "abcdefgh",
    "github_token": "abcdefgh",
    "mlflow.tracking.token": "abcdefgh",
    "bearer_token": "abcdefgh",
    "key": "a1b2c3d4e5f6a7b8c9",
    "authorization": "Basic YWxhZGRpbg",
    "note": f"use {HF} here",
    "hub": SK,
    "bucket": AWS,
    "remote": GITHUB,
    "header": "Bearer " + "a1b2c3d4e5f6g7h8",
    "session": JWT,
    "pem": PEM,
    "store": "postgresql://me:s3cret@db:5432/runs",
    "proxy": "redis://:s3cret@cache:6379",
}
LOOK_ALIKES = {
    "num_tokens": "1234567890",
    "max_new_tokens": 256,
    "eos_token_id": 2,
    "eos_token": "<|endoftext|>",
    "pad_token": "[PAD]",
    "use_cls_token": "true",
    "cls_token": "classification",
    "bos_token": "<s>",
    "image_token": "image-placeholder",
    "stop_token_ids": "(1, 2)",
    "token_weights": "TokenMean",
    "class_path": "lit_posttrain.objectives.weights.TokenMean",
    "tokens_per_s": 10.5,
    "special_tokens": "added_tokens.json",
    "answer_key": "canonical",
    "sort_key": "accuracy_descending",
    "key": "completion",
    "primary_key": "problem_identifier",
    "keys": "randomness",
    "query_key_value": "attention.dense",
    "key_dim": 64,
    "token": 7,
    "step_token": "\n\n",
    "separator_token": "boundary",
    "password_length": "16",
    "password_file": "/run/secret/db",
    "api_key_env": "OPENAI_API_KEY",
    "secret_name": "vault-entry",
    "hf_hub": "hf_hub_download",
    "name": "hf_transfer",
    "task": "task-1234567890-abcdefghijklmnop",
    "package": "sk-learn-pipeline-with-no-number",
    "metric": "accuracy:pass@8",
    "url": "https://huggingface.co/org/name",
    "email": "someone@example.org",
    "commit": "c441824" + "0" * 33,
    "monkey": "abcdefgh12345678",
    "keyboard": "qwerty-12345678-layout",
    "secretary": "abcdefgh",
    "api_token": None,
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_secrets_do_not_get_out(name):
    assert REDACTED in in_mapping({name: PLANTED[name]})[name]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_only_looks_like_a_secret_stays(name):
    assert in_mapping({name: LOOK_ALIKES[name]}) == {name: LOOK_ALIKES[name]}


def test_only_the_secret_part_of_a_value_goes():
    assert by_shape(f"before {HF} after") == f"before {REDACTED} after"
    assert by_shape("postgresql://me:s3cret@db:5432/runs") == f"postgresql://{REDACTED}@db:5432/runs"


def test_texts_are_read_as_assignments():
    text = f"model:\n  hf_token: abcdefgh12\n  eos_token: <eos>\ncmd --api_key='abcdefgh12' lr=0.1\n{PEM}\n"
    assert in_text(text) == (
        f"model:\n  hf_token: {REDACTED}\n  eos_token: <eos>\ncmd --api_key='{REDACTED}' lr=0.1\n{REDACTED}\n"
    )
    assert (
        in_text('{"client_secret": "abc", "loss": 1.5}') == f'{{"client_secret": "{REDACTED}", "loss": 1.5}}'
    )


def test_redacting_twice_changes_nothing():
    for name, value in PLANTED.items():
        once = in_mapping({name: value})
        assert in_mapping(once) == once
    assert not is_secret("password", REDACTED)
