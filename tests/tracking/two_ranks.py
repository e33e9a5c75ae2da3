"""Trains and probes on two processes; rank 0 prints what came of it as JSON."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl

sys.path.insert(0, str(Path(__file__).parent))
from scripted_run import MemoryLogger, Questions, ScriptedMethod

from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

if __name__ == "__main__":
    logger, meter = MemoryLogger(), ComputeMeter()
    probe = AccuracyProbe(data=Questions([f"q{i}" for i in range(7)]), every_n_steps=4, batch_problems=2)
    method = ScriptedMethod()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        callbacks=[probe, meter],
        logger=logger,
        log_every_n_steps=4,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(method)
    figures, state = meter.figures(), meter.state_dict()
    if trainer.is_global_zero:
        counts = json.loads(logger.texts["scurve/counts_step_000004.json"])["problems"]
        result = {"points": probe.points, "counts": counts, "calls": method.engine.calls}
        print(json.dumps({**result, "figures": figures, "state": state}))
