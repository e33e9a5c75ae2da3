"""The parsers of the command line as they are really built, without running anything."""

import sys
from typing import Any
from unittest import mock

from lit_posttrain import training_cli


class Built(Exception):
    """Carries the parser out of the command line at the moment when it would parse."""

    def __init__(self, parser: Any) -> None:
        super().__init__()
        self.parser = parser


def training_parser() -> Any:
    """The parser of `fit`, `validate`, `test` and `predict`; its `parse_args` takes the words of a command."""

    def stop(self: Any, parser: Any, args: Any) -> None:
        raise Built(parser)

    with (
        mock.patch.object(training_cli.PostTrainCLI, "parse_arguments", stop),
        mock.patch.object(sys, "argv", list(sys.argv)),
    ):
        try:
            training_cli.run(["fit"])
        except Built as built:
            return built.parser
    raise AssertionError("the command line did not come to parse its arguments")
