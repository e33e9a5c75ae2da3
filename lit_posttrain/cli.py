"""The one door: `lit-posttrain fit | validate | test | predict | curve | export | sync`.

The light commands start without lightning; the others are a LightningCLI, built in `training_cli`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from lit_posttrain import __version__
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.redaction import in_text
from lit_posttrain.tracking.screen import guard_screen

TRAINING = {
    "fit": "train a model as a config says, tracked and probed",
    "validate": "the validation loss of a checkpoint",
    "test": "the accuracy of a checkpoint on the test split",
    "predict": "write graded completions of a checkpoint",
}
EXIT_INPUT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is 2 for input that cannot be used, with one message and no traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    guard_screen()
    for noisy in ("httpx", "alembic", "mlflow", "matplotlib", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if given and given[0] in TRAINING:
            from lit_posttrain.training_cli import run

            return run(given)
        return _light(given)
    except InputError as error:
        print(f"lit-posttrain: error: {in_text(str(error))}", file=sys.stderr)
        return EXIT_INPUT_ERROR


def parser() -> argparse.ArgumentParser:
    """The parser of the light commands; the training commands stand in it for `--help`."""
    from lit_posttrain.scaling import command as curve

    top = _Parser(
        prog="lit-posttrain",
        description="Post-training of language models on one axis: accuracy against compute.",
    )
    top.add_argument("--version", action="version", version=f"lit-posttrain {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in TRAINING.items():
        commands.add_parser(name, help=text, add_help=False)
    curves = commands.add_parser("curve", help="fit S-curves to the runs of an experiment")
    kinds = curves.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    fit = kinds.add_parser(
        "fit", help="accuracy against compute, with intervals", description=curve.DESCRIPTION
    )
    curve.add_arguments(fit)
    fit.set_defaults(call=curve.run)
    _add_export(commands.add_parser("export", help="write a checkpoint as a Hugging Face folder"))
    _add_sync(commands.add_parser("sync", help="upload to MLflow what a run could not"))
    return top


class _Parser(argparse.ArgumentParser):
    """Repeats no secret that stood in a line it cannot use."""

    def error(self, message: str) -> NoReturn:
        super().error(in_text(message))


def _light(given: list[str]) -> int:
    chosen = parser().parse_args(given or ["--help"])
    return int(chosen.call(chosen))


def _add_export(export: argparse.ArgumentParser) -> None:
    export.description = (
        "Write a checkpoint as a folder that transformers loads: weights, config, tokenizer, template, card."
    )
    export.add_argument("checkpoint", help="a .ckpt folder that `fit` wrote, or a link to one")
    export.add_argument("output", help="the folder to write; it must not exist")
    export.add_argument(
        "--adapter", action="store_true", help="write the LoRA adapter alone instead of merging it"
    )
    export.add_argument("--base", metavar="PATH", help="where the base network of a LoRA run is, if it moved")
    export.add_argument("--push", metavar="OWNER/NAME", help="then upload the folder to this hub repository")
    export.add_argument("--private", action="store_true", help="make that repository private")
    export.add_argument("--revision", metavar="BRANCH", help="upload to this branch, made if need be")
    export.set_defaults(call=_export)


def _export(chosen: argparse.Namespace) -> int:
    if chosen.push is None and (chosen.private or chosen.revision is not None):
        raise InputError("--private and --revision are about --push OWNER/NAME, which is not given.")
    import huggingface_hub
    import transformers

    from lit_posttrain.checkpoints.export import export_command
    from lit_posttrain.checkpoints.push import Destination

    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    to = None if chosen.push is None else Destination(chosen.push, chosen.private, chosen.revision)
    return export_command(chosen.checkpoint, chosen.output, adapter=chosen.adapter, base=chosen.base, to=to)


def _add_sync(sync: argparse.ArgumentParser) -> None:
    sync.description = "Upload the journals of runs to MLflow; what the server has already is not sent again."
    sync.add_argument("run", nargs="*", help="run folders (default: all below --root)")
    sync.add_argument("--root", default="runs", help="where runs are looked for (default: %(default)s)")
    sync.add_argument("--tracking_uri", default=None, help="MLflow store (default: that of each run)")
    sync.set_defaults(call=_sync)


def _sync(chosen: argparse.Namespace) -> int:
    from lit_posttrain.tracking.sync import sync_command

    return sync_command(chosen.run, root=chosen.root, tracking_uri=chosen.tracking_uri)
