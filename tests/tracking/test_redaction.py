from argparse import Namespace

import pytest

from lit_posttrain.tracking.redaction import REDACTED, by_shape, in_mapping, in_text, is_secret, shapes_in
from lit_posttrain.tracking.staging import stage_file, stage_text

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
    "odd": "postgresql://me:s3@cr@et@db/runs",
    "remote_url": "https://" + "a1B2c3D4e5" * 3 + "@github.com/org/repository",
    "query": "http://host/runs?token=abcdefgh1234&rows=3",
    "command": "serve --db.password hunter2 --rows 3",
    "pwd": "x",
    "api_key_2": "abcdefgh12",
    "password_1": 12345678,
    "pgp": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\nlQ\n-----END PGP PRIVATE KEY BLOCK-----",
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
    "use_password": True,
    "num_secrets": 3,
    "address": "http://host:8080/people/someone@example.org",
    "mode": "basic arithmetic",
    "rows": ["num_tokens", "12"],
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


def test_secrets_at_any_depth():
    given = {
        "callbacks": [
            {"init_args": {"api_key": "abcdefgh12", "n": 2}},
            ["--password", "hunter2", "--n", "2"],
        ],
        "store": Namespace(password="correct horse", tokens=(1, 2)),
        "passwords": {"password": "x"},
    }
    assert in_mapping(given) == {
        "callbacks": [{"init_args": {"api_key": REDACTED, "n": 2}}, ["--password", REDACTED, "--n", "2"]],
        "store": {"password": REDACTED, "tokens": [1, 2]},
        "passwords": {"password": REDACTED},
    }
    assert given["store"].password == "correct horse"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password: correct horse\nlr: 1", "password: [redacted]\nlr: 1"),
        ("{password: correct horse, lr: 1}", "{password: [redacted], lr: 1}"),
        ("- hf_token: |\n    abcdefgh12\n  lr: 2", "- hf_token: [redacted]\n  lr: 2"),
        ("a:\n  password: >-\n    one\n\n    two\n  lr: 1", "a:\n  password: [redacted]\n  lr: 1"),
        ("password:\n  length: 8", "password:\n  length: 8"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [redacted]"),
        ("GET http://h/?token=abcdefgh1234&rows=3", "GET http://h/?token=[redacted]&rows=3"),
        ("fit --db.password 'a b' --lr 1", "fit --db.password '[redacted]' --lr 1"),
        ("['--password', 'hunter2', '--lr', '1']", "['--password', '[redacted]', '--lr', '1']"),
        ("Namespace(password='a b', lr=1)", "Namespace(password='[redacted]', lr=1)"),
        ("Source(password='cut off he", "Source(password='[redacted]'"),
        ("lr: 1 token: abcdefgh1234 pad_token: <pad>", "lr: 1 token: [redacted] pad_token: <pad>"),
        ("no such folder: https:/me:s3cret@host/x", "no such folder: https:/[redacted]@host/x"),
        ("--max_new_tokens 256 --eos_token_id 2", "--max_new_tokens 256 --eos_token_id 2"),
    ],
)
def test_forms_in_which_texts_name_a_value(text, expected):
    assert in_text(text) == expected
    assert in_text(expected) == expected


def test_in_data_only_looks_count():
    rows = {
        "prompt": [f"use {HF}", "secret_santa: Ann, token: abcdefgh12"],
        "turns": [[{"content": HF}]],
        "n": [1, None],
    }
    assert shapes_in(rows) == {
        "prompt": [f"use {REDACTED}", "secret_santa: Ann, token: abcdefgh12"],
        "turns": [[{"content": REDACTED}]],
        "n": [1, None],
    }


def test_artifacts_are_redacted_wherever_they_lie(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    run.mkdir()
    (outside / "out.log").write_text("password=hunter2 ok\n")
    (outside / "rows.jsonl").write_text(f'{{"prompt": "secret: 4 {HF}"}}\n')
    (outside / "weights.bin").write_bytes(b"password=\xff\x00")
    record = stage_file(run, tmp_path / "outside", "")
    there = run / record["path"] / "deep"
    assert (there / "out.log").read_text() == "password=[redacted] ok\n"
    assert (there / "rows.jsonl").read_text() == f'{{"prompt": "secret: 4 {REDACTED}"}}\n'
    assert (there / "weights.bin").read_bytes() == b"password=\xff\x00"

    (run / "mine.log").write_text("password=hunter2")
    (run / "plain.log").write_text("eos_token=<eos>")
    assert (run / stage_file(run, run / "mine.log", "")["path"]).read_text() == "password=[redacted]"
    assert stage_file(run, run / "plain.log", "")["path"] == "plain.log"
    table = stage_text(run, "token,secret: 4\n", "cells.csv")
    assert (run / table["path"]).read_text() == "token,secret: 4\n"
