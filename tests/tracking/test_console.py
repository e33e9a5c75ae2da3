import re

import pytest
import torch
from scripted_run import Questions, ScriptedMethod, fit

from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.console import Console, clock, values_text
from lit_posttrain.tracking.probe import AccuracyProbe


def lines_of(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]


class Logging(ScriptedMethod):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log_dict({"train/loss": loss, "reward/mean": torch.tensor(0.25)})
        return loss


def test_without_a_terminal_plain_lines_are_written(capsys):
    fit(Logging(batches=4), [ComputeMeter(), Console(every_n_steps=2)])
    lines = lines_of(capsys)
    assert [re.sub(r"\d:\d\d:\d\d", "TIME", line) for line in lines] == [
        "step 2/4  loss -0.125  reward 0.250  TIME",
        "step 4/4  loss -0.375  reward 0.250  TIME",
        "step 4/4  loss -0.375  reward 0.250  TIME",
    ]


def test_modules_print_through_it(capsys):
    class Talking(ScriptedMethod):
        def on_train_end(self):
            self.print("that was all")

    fit(Talking(batches=2), [ComputeMeter(), Console()])
    assert "that was all" in capsys.readouterr().out


def test_lines_come_only_so_often_and_at_the_end(capsys):
    fit(ScriptedMethod(batches=20), [ComputeMeter(), Console(every_s=3600.0)], max_steps=15)
    assert [line.split()[1] for line in lines_of(capsys)] == ["15/15"]


def test_the_accuracy_of_the_last_probe_is_shown(capsys):
    probe = AccuracyProbe(data=Questions(["a", "b", "c"]), every_n_steps=4)
    fit(ScriptedMethod(batches=8), [Console(every_n_steps=4), probe, ComputeMeter()])
    assert f"accuracy {probe.points[-1]['scurve/accuracy']:.3f}" in lines_of(capsys)[-1]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    fit(Logging(batches=4), [ComputeMeter(), Console()])
    shown = capsys.readouterr().out
    assert "4/4" in shown
    assert "reward 0.250" in shown
    assert "step 4/4" not in shown


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (61.9, "0:01:01"), (36_125.0, "10:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_only_what_is_known_is_shown():
    assert values_text({"scurve/accuracy": torch.tensor(0.5), "policy/ratio_max": torch.tensor(2.0)}) == (
        "accuracy 0.500"
    )
