"""`fit`, `validate`, `test` and `predict`: a LightningCLI over every room's parts.

Parts are named in YAML by class, with a short name where it is one of ours, torch's or Lightning's.
"""

import atexit
import gc
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import transformers
import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

import lit_posttrain.data.sources
import lit_posttrain.graders
import lit_posttrain.methods
import lit_posttrain.objectives.advantages
import lit_posttrain.objectives.corrections
import lit_posttrain.objectives.kl
import lit_posttrain.objectives.kl_coefficients
import lit_posttrain.objectives.part_advantages
import lit_posttrain.objectives.policy
import lit_posttrain.objectives.policy_gradient
import lit_posttrain.objectives.process_advantages
import lit_posttrain.objectives.returns
import lit_posttrain.objectives.weights  # noqa: F401 (imported so that YAML finds them by short name)
from lit_posttrain.checkpoints.keeper import CheckpointKeeper, use_folders
from lit_posttrain.checkpoints.preemption import Preemption, requeue
from lit_posttrain.checkpoints.run_state import RunState
from lit_posttrain.class_paths import EPILOG
from lit_posttrain.config_parser import Parser
from lit_posttrain.data import PromptData
from lit_posttrain.errors import InputError
from lit_posttrain.test_time import TestTimeModule
from lit_posttrain.tracking import redaction
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.console import Console
from lit_posttrain.tracking.mlflow import JournaledMLflowLogger  # noqa: F401
from lit_posttrain.tracking.probe import AccuracyProbe
from lit_posttrain.tracking.sandbox_tags import SandboxTags
from lit_posttrain.tracking.stopping import EarlyStopOnProbe, StopAtCompute  # noqa: F401
from lit_posttrain.tracking.transcripts import Transcripts  # noqa: F401

log = logging.getLogger(__name__)

NOISE = (
    "GPU available",
    "TPU available",
    "Tip: For seamless",
    "`weights_only` was not set",
    "distributed_backend",
    "-----",
)
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
        shown = redaction.in_mapping(self.config.as_dict())
        for logger in trainer.loggers:
            logger.log_hyperparams(shown)
            log_text = getattr(logger, "log_text", None)
            if log_text is not None:
                log_text(self._as_yaml(), "config.yaml")
            log_dataset = getattr(logger, "log_dataset", None)
            if log_dataset is not None and hasattr(datamodule, "datasets"):
                for entry in datamodule.datasets():
                    log_dataset(**entry)

    def _as_yaml(self) -> str:
        content = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        header = "".join(f"# {line}\n" for line in self.parser.dump_header or ())
        return header + yaml.safe_dump(redaction.in_mapping(content), sort_keys=False, allow_unicode=True)


class PostTrainCLI(LightningCLI):
    """Lightning's command line with our subcommands, our callbacks and test-time modules."""

    latest: ClassVar["PostTrainCLI | None"] = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The four of the trainer."""
        hidden = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        return {"fit": hidden, "validate": hidden, "test": hidden, "predict": hidden}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Its help tells of `--allow-class-path`, which is no setting of a config."""
        return super().init_parser(**{"epilog": EPILOG, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every run keeps its best and its last checkpoint, and saves when it is told to stop."""
        parser.add_lightning_class_args(CheckpointKeeper, "checkpoint")
        parser.add_lightning_class_args(Preemption, "preemption")

    def _parse_ckpt_path(self) -> None:
        """Lightning would replace the arguments of YAML and command line by the checkpoint's, silently: not here."""

    def before_instantiate_classes(self) -> None:
        """Refuses credentials in a network's config, which goes into every checkpoint as it is."""
        network = self._get(self.config, "model").get("init_args.network")
        config = network.get("config") if isinstance(network, Namespace) else None
        if config and redaction.in_value(config) != config:
            raise InputError(
                "network.config holds what looks like a credential, and every checkpoint would; remove it. "
                "Hub tokens are read from HF_TOKEN or `hf auth login`"
            )

    def instantiate_classes(self) -> None:
        """Builds everything; `test` and `predict` then run a test-time module over the method's policy."""
        PostTrainCLI.latest = None
        super().instantiate_classes()
        PostTrainCLI.latest = self
        trainer: Any = self.trainer
        self.keeper = next(c for c in trainer.callbacks if isinstance(c, CheckpointKeeper))
        self.preemption = next(c for c in trainer.callbacks if isinstance(c, Preemption))
        use_folders(trainer)
        if self.subcommand in ("test", "predict") and not isinstance(self.model, TestTimeModule):
            self._to_test_time()
        if self.subcommand == "validate" and not is_overridden("validation_step", self.model):
            raise InputError(
                f"{type(self.model).__name__} has no validation loss; probes log its accuracy on the validation split "
                "while it trains, and `lit-posttrain test` measures the test split"
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer; settings that Lightning refuses are bad input.

        Raises:
            InputError: with Lightning's reason.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except InputError:
            raise
        except (ValueError, MisconfigurationException) as error:
            raise InputError(f"the trainer cannot be set up: {error}") from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Those of Lightning, with `last` and `best` looked up in the run's own folder."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self._checkpoint(subcommand, kwargs.get("ckpt_path"))
        return kwargs

    def _checkpoint(self, subcommand: str, asked: Any) -> Any:
        if asked is None and subcommand == "fit":
            self.keeper.check_new(self.trainer)
        if asked not in ("last", "best"):
            return asked
        found = self.keeper.find(self.trainer, asked)
        if found is None and (asked == "best" or subcommand != "fit"):
            raise InputError(f"--ckpt_path {asked}: the run has no {asked} checkpoint yet")
        if found is None:
            log.info("--ckpt_path last: there is no checkpoint yet, so the run starts from the beginning")
            self.keeper.start_over(self.trainer)
        return found

    def was_interrupted(self) -> bool:
        """Whether the trainer was stopped by Ctrl-C or another signal."""
        return self.trainer.state.status == TrainerStatus.INTERRUPTED

    def leave(self, arguments: Sequence[str]) -> int:
        """The end of an interrupted run: says how to go on, puts a SLURM job back; returns the exit code."""
        atexit.register(
            gc.freeze
        )  # so that the interpreter does not spend seconds on tidying up before it ends
        trainer: Any = self.trainer
        if trainer.is_global_zero:
            print(redaction.in_text(self.how_to_go_on(arguments)), flush=True)
            if self.preemption.reason == "SIGUSR1":
                requeue()
        launched = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) and trainer.local_rank > 0
        if launched and isinstance(trainer.strategy.cluster_environment, LightningEnvironment):
            return 0  # for another code Lightning would kill the first process before its end
        return self.preemption.exit_code

    def how_to_go_on(self, arguments: Sequence[str]) -> str:
        """Which checkpoint there is, and the command that goes on from it."""
        saved = self.keeper.last_model_path
        if not saved:
            return f"Stopped at step {self.trainer.global_step}; no checkpoint was written."
        command = shlex.join(
            ["lit-posttrain", *without_option(arguments, "--ckpt_path"), "--ckpt_path", saved]
        )
        written = f"{saved} ({os.readlink(saved)})"
        return (
            f"Stopped at step {self.trainer.global_step}; the state is in {written}. Go on with:\n  {command}"
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
        training_only = (AccuracyProbe, ComputeMeter, Checkpoint, Preemption)
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
            trainer_defaults=TRAINER_DEFAULTS
            | {"callbacks": [ComputeMeter(), RunState(), Console(), SandboxTags()]},
            auto_configure_optimizers=False,
            parser_class=Parser,
        )
    except ValueError as error:
        raise cause(error) from error
    except SystemExit:
        if PostTrainCLI.latest is not None and PostTrainCLI.latest.was_interrupted():
            return PostTrainCLI.latest.leave(arguments)
        raise
    close_connections()
    return 0


def close_connections() -> None:
    """Leaves the other processes of a run that is done; their threads could abort the interpreter's end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def cause(error: ValueError) -> ValueError:
    """The input error behind an error of the parser, which wraps those that constructors raise."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, InputError):
            return behind
        behind = behind.__cause__ or behind.__context__
    return error
