"""`fit`, `validate`, `test` and `predict`: a LightningCLI over every room's parts.

Parts are named in YAML by class, with a short name where it is one of ours, torch's or Lightning's.
"""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import lightning.pytorch as pl
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.model_helpers import is_overridden

import lit_posttrain.data.sources
import lit_posttrain.graders
import lit_posttrain.methods
import lit_posttrain.objectives.advantages
import lit_posttrain.objectives.policy
import lit_posttrain.objectives.weights  # noqa: F401 (imported so that YAML finds them by short name)
from lit_posttrain.checkpoints.run_state import RunState
from lit_posttrain.data import PromptData
from lit_posttrain.errors import InputError
from lit_posttrain.messages import condensed
from lit_posttrain.test_time import TestTimeModule
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.console import Console
from lit_posttrain.tracking.mlflow import JournaledMLflowLogger  # noqa: F401
from lit_posttrain.tracking.probe import AccuracyProbe
from lit_posttrain.tracking.stopping import BestOnProbe
from lit_posttrain.tracking.transcripts import Transcripts  # noqa: F401

EXIT_INTERRUPTED = 130
NOISE = ("GPU available", "TPU available", "Tip: For seamless")
TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
}


class RunRecord(SaveConfigCallback):
    """Tells the loggers what is run: the resolved config and the datasets, once training really starts."""

    def __init__(self, parser: Any, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, **{**kwargs, "save_to_log_dir": False})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing yet, so that a failed start leaves nothing behind."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The config as parameters and as an artifact; which data is read."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same."""
        self.on_train_start(trainer, pl_module)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """To every logger: parameters; the YAML and the datasets to those that keep them."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config.as_dict())
            log_text = getattr(logger, "log_text", None)
            if log_text is not None:
                log_text(self.parser.dump(self.config, skip_none=False), "config.yaml")
            log_dataset = getattr(logger, "log_dataset", None)
            if log_dataset is not None and hasattr(datamodule, "datasets"):
                for entry in datamodule.datasets():
                    log_dataset(**entry)


class Parser(LightningArgumentParser):
    """Ends with one short message instead of the usage of some hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises:
        InputError: always, with the lines that tell something.
        """
        if not self.exit_on_error:  # a parser within the parser, whose error the outer one words
            super().error(message, ex)
        raise InputError(condensed(message)) from ex


class PostTrainCLI(LightningCLI):
    """Lightning's command line with our subcommands, our callbacks and test-time modules."""

    latest: ClassVar["PostTrainCLI | None"] = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The four of the trainer."""
        hidden = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        return {"fit": hidden, "validate": hidden, "test": hidden, "predict": hidden}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every run keeps its best and its last checkpoint."""
        parser.add_lightning_class_args(BestOnProbe, "checkpoint")

    def _parse_ckpt_path(self) -> None:
        """Lightning would replace the arguments of YAML and command line by the checkpoint's, silently: not here."""

    def instantiate_classes(self) -> None:
        """Builds everything; `test` and `predict` then run a test-time module over the method's policy."""
        PostTrainCLI.latest = None
        super().instantiate_classes()
        PostTrainCLI.latest = self
        if self.subcommand in ("test", "predict") and not isinstance(self.model, TestTimeModule):
            self._to_test_time()
        if self.subcommand == "validate" and not is_overridden("validation_step", self.model):
            raise InputError(
                f"{type(self.model).__name__} has no validation loss; probes log its accuracy on the validation split "
                "while it trains, and `lit-posttrain test` measures the test split"
            )

    def was_interrupted(self) -> bool:
        """Whether the trainer was stopped by Ctrl-C."""
        return self.trainer.state.status == TrainerStatus.INTERRUPTED

    def how_to_go_on(self, arguments: Sequence[str]) -> str:
        """Which checkpoint there is, and the command that goes on from it."""
        paths = (getattr(callback, "last_model_path", "") for callback in self.trainer.checkpoint_callbacks)
        saved = next((path for path in paths if path), None)
        if saved is None:
            return f"Stopped at step {self.trainer.global_step}; no checkpoint was written."
        command = shlex.join(
            ["lit-posttrain", *without_option(arguments, "--ckpt_path"), "--ckpt_path", saved]
        )
        return (
            f"Stopped at step {self.trainer.global_step}; the state is in {saved}. Go on with:\n  {command}"
        )

    def _to_test_time(self) -> None:
        trainer: Any = self.trainer
        probe = next((c for c in trainer.callbacks if isinstance(c, AccuracyProbe)), None)
        data = probe.data if probe is not None and probe.data is not None else self.datamodule
        grader, sampling = (
            self._of_probe_or_method(probe, "grader"),
            self._of_probe_or_method(probe, "sampling"),
        )
        if not isinstance(data, PromptData) or grader is None or sampling is None:
            raise InputError(
                f"`{self.subcommand}` needs problems, a grader and a sampling: give the config an AccuracyProbe with "
                "data, grader and sampling, or use a TestTimeModule as the model"
            )
        samples = 4 if probe is None else probe.samples_per_problem
        training_only = (AccuracyProbe, ComputeMeter, ModelCheckpoint)
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, training_only)]
        self.model = TestTimeModule.from_method(self.model, grader=grader, sampling=sampling, n=samples)
        self.datamodule = data

    def _of_probe_or_method(self, probe: AccuracyProbe | None, name: str) -> Any:
        given = getattr(probe, name, None)
        return getattr(self.model, name, None) if given is None else given


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without an option and its value, in either spelling."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != name and not argument.startswith(f"{name}="):
            kept.append(argument)
        skip = argument == name
    return kept


def quiet() -> None:
    """Keeps what Lightning and torch say to nobody off the screen."""
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty", UserWarning)
    warnings.filterwarnings("ignore", "The dirpath has changed from", UserWarning)
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks", UserWarning)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).handlers.clear()
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).addFilter(lambda record: not any(n in record.getMessage() for n in NOISE))
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()


def run(arguments: Sequence[str]) -> int:
    """Runs one of the four commands; Ctrl-C leaves a checkpoint and says how to go on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet()
    sys.argv[1:] = arguments  # where LightningCLI and the processes that Lightning launches read them
    try:
        PostTrainCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunRecord,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS | {"callbacks": [ComputeMeter(), RunState(), Console()]},
            auto_configure_optimizers=False,
            parser_class=Parser,
        )
    except ValueError as error:
        raise cause(error) from error
    except SystemExit:
        if PostTrainCLI.latest is not None and PostTrainCLI.latest.was_interrupted():
            print(PostTrainCLI.latest.how_to_go_on(arguments))
            return EXIT_INTERRUPTED
        raise
    return 0


def cause(error: ValueError) -> ValueError:
    """The input error behind an error of the parser, which wraps those that constructors raise."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, InputError):
            return behind
        behind = behind.__cause__ or behind.__context__
    return error
