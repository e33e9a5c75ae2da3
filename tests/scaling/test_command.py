import argparse
import inspect
import subprocess
import sys

from lit_posttrain.scaling import command
from lit_posttrain.scaling.fit import fit
from lit_posttrain.scaling.points import make_points
from lit_posttrain.scaling.report import compact, share, verdict


def parser():
    made = argparse.ArgumentParser()
    command.add_arguments(made)
    return made


def test_every_parameter_has_an_option_with_help():
    actions = {action.dest: action for action in parser()._actions if action.dest != "help"}
    parameters = inspect.signature(command.curve_fit).parameters
    assert actions.keys() == parameters.keys()
    assert all(action.help for action in actions.values())
    for name in parameters:
        assert f"        {name}: " in command.curve_fit.__doc__


def test_parsed_options_reach_the_function(monkeypatch):
    seen = {}

    def fake(experiment, tracking_uri="sqlite:///mlflow.db", run=(), pool=False, log=True):
        seen.update(experiment=experiment, uri=tracking_uri, run=run, pool=pool, log=log)
        return 0

    arguments = parser().parse_args(["--experiment", "e", "--run", "a", "--run", "b", "--pool", "--no-log"])
    monkeypatch.setattr(command, "curve_fit", fake)
    assert command.run(arguments) == 0
    uri = "sqlite:///mlflow.db"
    assert seen == {"experiment": "e", "uri": uri, "run": ["a", "b"], "pool": True, "log": False}


def test_help_needs_no_heavy_package():
    code = (
        "import sys, argparse\nfrom lit_posttrain.scaling.command import add_arguments\n"
        "parser = argparse.ArgumentParser(); add_arguments(parser); parser.format_help()\n"
        "print([name for name in ('torch', 'lightning', 'mlflow', 'scipy', 'matplotlib', 'plotly', 'numpy')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_numbers_are_short():
    assert [share(value) for value in (0.6123, -0.05, 1.0)] == [".612", "-.050", "1.000"]
    assert [compact(value) for value in (12.34, 1.234e18)] == ["12.3", "1.23e18"]


def test_verdicts(run):
    assert verdict(fit(run)).startswith(("yes", "no", "undecided"))
    assert "doubling to 80" in verdict(fit(run))
    assert verdict(fit(make_points([0, 1], [0.1, 0.2]))) == "cannot say: there is no fit"
