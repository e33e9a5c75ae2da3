"""The KL to the policy at the start, as probes measure it."""

import logging
import math
import os
import socket
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import difference, grpo, prompt_data, tiny, trainer
from lightning.pytorch import Callback

from lit_posttrain.batches import Sampling
from lit_posttrain.ledger import Phase
from lit_posttrain.networks import LoraSettings, PromptTuning, build
from lit_posttrain.tracking import drift
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.drift import ProblemDrift, drift_metrics, is_defined

sys.path.insert(0, str(Path(__file__).parent))
from drift_ranks import RUNS, SAMPLES, STRATEGIES, TEMPERATURE, data, method, points, probe_of

HERE = Path(__file__).parent
NAMES = ("scurve/kl_start_nats", "scurve/kl_start_standard_error", "scurve/kl_start_nats_per_token")
NETWORKS = {
    "full": tiny(),
    "lora": tiny(lora=LoraSettings(rank=4)),
    "dora": tiny(lora=LoraSettings(rank=4, use_dora=True)),
    "virtual tokens": tiny(adapter=PromptTuning(tokens=2, init="random")),
}


def test_mean_over_problems_with_its_error_and_per_token():
    """Of two samples each: means 0.5 and 1.5, so 1 with error sqrt(0.5 / 2) = 0.5; 4 nats over 16 tokens."""
    told = drift_metrics([ProblemDrift(1.0, 2, 4), ProblemDrift(3.0, 2, 12)])
    assert told == pytest.approx(dict(zip(NAMES, (1.0, 0.5, 0.25), strict=True)), abs=1e-12)
    assert drift_metrics([ProblemDrift(-1.0, 2, 0)]) == {"scurve/kl_start_nats": -0.5}


@pytest.mark.parametrize(
    "sampling", [Sampling(0.0), Sampling(top_p=0.9), Sampling(top_k=5), Sampling(min_new_tokens=2)]
)
def test_no_kl_where_logprobs_do_not_say_what_is_drawn(sampling, caplog):
    assert is_defined(Sampling(1.3))
    assert not is_defined(sampling)
    with caplog.at_level(logging.WARNING):
        probe, _ = run(settings={"sampling": replace(sampling, max_new_tokens=6)})
    assert "logs no KL to the policy at the start" in caplog.text
    assert not set(NAMES) & {name for point in probe.points for name in point}


class ByHand(Callback):
    """The same numbers from the bare Hugging Face models, one sample at a time."""

    def __init__(self, start):
        self.start, self.points = start, []

    def on_probe(self, trainer, pl_module, point, answers):
        means, nats, tokens = [], [], 0
        for group in answers:
            prompt = pl_module.text.prompt_ids(group[0].problem.messages)
            drawn = [answer.completion.tokens for answer in group]
            pairs = [[logprob(n, prompt, d) for n in (pl_module.policy, self.start)] for d in drawn]
            nats += [now - before for now, before in pairs]
            means.append(sum(nats[-len(group) :]) / len(group))
            tokens += sum(map(len, drawn))
        mean = sum(means) / len(means)
        variance = sum((m - mean) ** 2 for m in means) / (len(means) - 1)
        self.points.append((mean, math.sqrt(variance / len(means)), sum(nats) / tokens))


@torch.no_grad()
def logprob(network, prompt, drawn):
    """Of the drawn tokens together, at the temperature of the sampling."""
    ids = torch.tensor([[*prompt, *drawn.tolist()]])
    logits = network.model.eval()(input_ids=ids).logits[0, -len(drawn) - 1 : -1].double() / TEMPERATURE
    return float(logits.log_softmax(-1).gather(-1, drawn[:, None]).sum())


class SaveAtTwo(Callback):
    """Writes a checkpoint after two steps."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def run(network=None, *, settings=None, others=(), steps=3, module=None, **fitting):
    probe = probe_of(**(settings or {}))
    module = module or method(network)
    trainer(max_steps=steps, callbacks=[probe, ComputeMeter(), *others]).fit(
        module, datamodule=data(), **fitting
    )
    return probe, module


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_is_0_at_the_start_and_then_what_two_networks_say(kind):
    by_hand = ByHand(build(NETWORKS[kind]))
    probe, _ = run(NETWORKS[kind], others=[by_hand])
    found = [tuple(point[name] for name in NAMES) for point in probe.points]
    assert found[0] == (0.0, 0.0, 0.0)
    assert found[-1][0] > (0.01 if kind != "virtual tokens" else 1e-4)
    for point, expected in zip(found, by_hand.points, strict=True):
        assert point == pytest.approx(expected, abs=2e-5)


def test_reinforcement_without_a_kl_is_measured_too():
    module, probe = grpo(optimizer=lambda p: torch.optim.SGD(p, lr=1.0)), probe_of()
    trainer(max_steps=2, callbacks=[probe, ComputeMeter()]).fit(module, datamodule=prompt_data())
    assert probe.points[0]["scurve/kl_start_nats"] == 0
    assert probe.points[-1]["scurve/kl_start_nats"] > 0.01


def test_the_size_of_batches_changes_nothing(monkeypatch):
    whole, _ = run(steps=2)
    calls = []
    single = drift.token_logprobs
    monkeypatch.setattr(drift, "POSITIONS", 20)
    monkeypatch.setattr(drift, "token_logprobs", lambda n, b, **k: calls.append(b) or single(n, b, **k))
    cut, _ = run(steps=2)
    assert len(calls) > 2 * 2 * 3  # several batches, of two networks, at three points
    assert max(batch.input_ids.numel() for batch in calls) <= 20
    for name, (one, other) in product(NAMES, zip(whole.points, cut.points, strict=True)):
        assert one[name] == pytest.approx(other[name], abs=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_is_not_touched_and_its_cost_is_evaluation(kind):
    torch.manual_seed(3)
    probe, module = run(NETWORKS[kind])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    without, plain = run(NETWORKS[kind], settings={"kl_to_start": False})
    assert torch.equal(state, torch.get_rng_state())
    pairs = (one.policy.state_dict() for one in (module, plain))
    assert difference(*pairs) == 0
    assert all(
        p.requires_grad == (kind == "full" or "lora" in n) for n, p in module.policy.named_parameters()
    )
    spent, less = module.ledger.spent, plain.ledger.spent
    assert spent[Phase.EVALUATION].flops > less[Phase.EVALUATION].flops
    assert spent[Phase.UPDATE].flops == less[Phase.UPDATE].flops
    for point, same in zip(probe.points, without.points, strict=True):
        assert point["scurve/flops"] == same["scurve/flops"]
        assert point["scurve/accuracy"] == same["scurve/accuracy"]
        assert not set(NAMES) & same.keys()


def test_two_forwards_of_the_samples_are_booked():
    """One problem of samples without padding: twice the positions of prompts and samples, at each of two points."""
    seen = []

    class Lengths(Callback):
        def on_probe(self, trainer, pl_module, point, answers):
            for group in answers:
                prompt = len(pl_module.text.prompt_ids(group[0].problem.messages))
                longest = max(len(answer.completion.tokens) for answer in group)
                seen.append(len(group) * (prompt + longest))

    books = [
        run(settings={"problems": 1, "kl_to_start": kl}, steps=1, others=[Lengths()])[1].ledger
        for kl in (True, False)
    ]
    more, less = (book.spent[Phase.EVALUATION].positions for book in books)
    assert more - less == 2 * sum(seen[:2])
    assert len(seen) == 4
    assert seen[0] >= SAMPLES


def test_the_second_network_is_given_up(monkeypatch):
    seen = []
    place = drift.place

    def watched(*arguments):
        network = place(*arguments)
        seen.append(weakref.ref(network))
        return network

    monkeypatch.setattr(drift, "place", watched)
    run(steps=1)
    assert len(seen) == 2  # one at each point
    assert [network() for network in seen] == [None, None]
    run(NETWORKS["lora"], steps=1)
    assert len(seen) == 2  # none beside adapters


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_run_measures_from_the_same_start(kind, tmp_path):
    whole, _ = run(NETWORKS[kind])
    run(NETWORKS[kind], others=[SaveAtTwo(tmp_path / "half.ckpt")])
    resumed, _ = run(NETWORKS[kind], ckpt_path=tmp_path / "half.ckpt")
    assert len(resumed.points) == 4
    for point, expected in zip(resumed.points, whole.points, strict=True):
        assert {name: point[name] for name in NAMES} == {name: expected[name] for name in NAMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The points that two processes found."""
    place = tmp_path_factory.mktemp("drift_ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "drift_ranks.py"), str(place), str(rank), port],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_find_what_one_does(folder, name):
    """Replicated and divided networks; unequal shares of the problems, and none at all for one of the two."""
    alone = points(name)
    assert alone[0]["scurve/kl_start_nats"] == 0 < alone[-1]["scurve/kl_start_nats"]
    for strategy, rank in product(STRATEGIES, (0, 1)):
        found = torch.load(folder / f"{strategy}-{name}-{rank}.pt")
        assert found[0]["scurve/kl_start_nats"] == 0
        for point, expected in zip(found, alone, strict=True):
            for metric in set(NAMES) & expected.keys():
                assert point[metric] == pytest.approx(expected[metric], abs=1e-4), (strategy, rank, metric)
