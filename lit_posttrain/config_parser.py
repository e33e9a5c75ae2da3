"""The parser of configs and of the command line: nothing is imported unasked, and errors are one message."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import set_parsing_settings
from jsonargparse._subcommands import ActionSubCommands
from lightning.pytorch.cli import LightningArgumentParser

from lit_posttrain.class_paths import check_values, taken_from
from lit_posttrain.errors import InputError
from lit_posttrain.guarded_imports import in_force, only
from lit_posttrain.messages import condensed

# Lightning lets configs be fetched from anywhere; here they are files of this machine, and data stays data.
set_parsing_settings(
    config_read_mode_urls_enabled=False,
    config_read_mode_fsspec_enabled=False,
    instantiate_subclass_spec_in_any=False,
)

REMOTE = re.compile(r"(?:--config=|-c=?)?([A-Za-z][\w+.-]+):[/:]\S*")


class Parser(LightningArgumentParser):
    """Takes `--allow-class-path`, guards imports by it, and ends with one short message instead of the usage."""

    allowed: tuple[str, ...] = ()
    """The prefixes of the last command line; the parsers of the subcommands are given the same."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Parses a command line. One that a parser within the parser gets is parsed as it is.

        Raises:
            InputError: if it cannot be used.
        """
        if in_force():
            return super().parse_args(args, *rest, **options)
        kept, allowed = taken_from(sys.argv[1:] if args is None else args)
        for parser in (self, *self._parsers_of_subcommands()):
            parser.allowed = allowed
        _refuse_remote_configs(kept)
        with only(self.allowed) as guard:
            parsed = super().parse_args(kept, *rest, **options)
            check_values(parsed, guard)
        return parsed

    def _parsers_of_subcommands(self) -> list["Parser"]:
        found = [action for action in self._actions if isinstance(action, ActionSubCommands)]
        return [parser for action in found for parser in action.choices.values()]

    def parse_object(self, *args: Any, **options: Any) -> Any:
        """Parses nested values, guarded as `parse_args` is; so do the others."""
        with only(self.allowed):
            return super().parse_object(*args, **options)

    def parse_path(self, *args: Any, **options: Any) -> Any:
        """Parses a file."""
        with only(self.allowed):
            return super().parse_path(*args, **options)

    def parse_string(self, *args: Any, **options: Any) -> Any:
        """Parses YAML."""
        with only(self.allowed):
            return super().parse_string(*args, **options)

    def parse_env(self, *args: Any, **options: Any) -> Any:
        """Parses environment variables."""
        with only(self.allowed):
            return super().parse_env(*args, **options)

    def get_defaults(self, *args: Any, **options: Any) -> Any:
        """The defaults, of default config files as well."""
        with only(self.allowed):
            return super().get_defaults(*args, **options)

    def dump(self, *args: Any, **options: Any) -> str:
        """A parsed config as text."""
        with only(self.allowed):
            return super().dump(*args, **options)

    def instantiate(self, *args: Any, **options: Any) -> Any:
        """Builds what a parsed config names."""
        with only(self.allowed):
            return super().instantiate(*args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises:
        InputError: always; the refusal of a class path if it is about one, else the lines that tell something.
        """
        if not self.exit_on_error:  # a parser within the parser, whose error the outer one words
            super().error(message, ex)
        guard = in_force()
        refusal = guard.refusal_in(message) if guard is not None else None
        raise refusal or InputError(condensed(message)) from ex


def _refuse_remote_configs(arguments: Sequence[str]) -> None:
    expected = False
    for argument in arguments:
        is_config = expected or argument.startswith(("--config=", "-c"))
        found = REMOTE.fullmatch(argument) if is_config else None
        if found is not None:
            raise InputError(
                f"a config is a file of this machine; got an address of {found[1]}. Fetch it, look at what it "
                "names, and give the file"
            )
        expected = argument in ("--config", "-c")
