import json
import math

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
import torch

from lit_posttrain.batches import Grade, Problem, PromptBatch, Sampling, Verdict
from lit_posttrain.contracts import Grader, Outcome, Strategy
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.names import is_known
from lit_posttrain.networks import NetworkConfig, build, network_state
from lit_posttrain.pools import read_pool
from lit_posttrain.test_time import Sample, TestTimeModule
from lit_posttrain.test_time.sample import solve_all
from lit_posttrain.text import TextConfig, load_text

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*num_workers.*")

TEXT = TextConfig(characters="0123456789+=")


def network(hidden=16):
    shape = {"hidden_size": hidden, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return NetworkConfig(
        config={"model_type": "llama", "vocab_size": 16, "max_position_embeddings": 24, **shape},
        chunk_tokens=0,
    )


class ShortIsRight(Grader):
    """Right if the completion has at most two tokens; problem `u2` cannot be graded."""

    def grade(self, items):
        return [self.one(problem, completion) for problem, completion in items]

    def one(self, problem, completion):
        if problem.uid == "u2":
            return Grade(None, None, Verdict.GOLD_UNPARSEABLE, note="no gold")
        is_right = len(completion.tokens) <= 2
        verdict = Verdict.CORRECT if is_right else Verdict.INCORRECT
        return Grade(float(is_right), is_right, verdict, {"short": float(is_right)}, answer_key=str(is_right))


class Last(Strategy):
    """Draws five, stands by the last."""

    def solve(self, problem, prompt_ids):
        outcome = yield from Sample(5, Sampling(max_new_tokens=4)).solve(problem, prompt_ids)
        return Outcome(outcome.completions, chosen=4)


class Batches(list):
    """Problems u0 to u4 in two batches."""

    def __init__(self, text):
        problems = [
            Problem(({"role": "user", "content": f"{i}+1="},), str(i + 1), f"u{i}", "sums") for i in range(5)
        ]
        ids = [text.prompt_ids(problem.messages) for problem in problems]
        super().__init__([PromptBatch(problems[:3], ids[:3]), PromptBatch(problems[3:], ids[3:])])


class Method(pl.LightningModule):
    """What `from_method` needs of a training method, with a network beside the policy."""

    def __init__(self, config):
        super().__init__()
        self.network, self.max_rows, self.ledger = config, 64, Ledger()
        self.text = load_text(TEXT)
        self.extra = torch.nn.Linear(2, 2)

    def configure_model(self):
        if "policy" not in self._modules:
            self.policy = build(self.network)

    def training_step(self, batch, batch_idx):
        return sum(parameter.sum() for parameter in self.policy.parameters())

    def on_save_checkpoint(self, checkpoint):
        checkpoint["lit_posttrain"] = network_state(self.policy, self.text)

    def train_dataloader(self):
        return [torch.zeros(1)]

    def configure_optimizers(self):
        return torch.optim.Adam(self.policy.parameters(), lr=0.05)


def trainer(**settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(accelerator="cpu", devices=1, **quiet, **{"enable_checkpointing": False, **settings})


def module(tmp_path, **settings):
    settings = {"strategy": Sample(4, Sampling(max_new_tokens=4)), **settings}
    return TestTimeModule(network(), ShortIsRight(), TEXT, output=str(tmp_path / "out.jsonl"), **settings)


def drawn(tested, strategy):
    """Completions as the engine gives them, for comparison."""
    batches = Batches(tested.text)
    with tested.ledger.phase(next(iter(tested.ledger.spent))):
        return [outcome for batch in batches for outcome in solve_all(strategy, batch, tested.engine)]


def test_results_are_those_of_the_answers(tmp_path, capsys):
    tested = module(tmp_path, pass_at=(2,), majority_at=(3,))
    (results,) = trainer().test(tested, Batches(tested.text), verbose=False)
    outcomes = [o for i, o in enumerate(drawn(tested, tested.strategy)) if i != 2]
    shares = [sum(len(c.tokens) <= 2 for c in outcome.completions) / 4 for outcome in outcomes]
    assert 0 < sum(shares) < 4
    assert results["test_time/accuracy"] == pytest.approx(sum(shares) / 4, abs=1e-6)
    error = torch.tensor(shares, dtype=torch.float64).std() / 2
    assert results["test_time/standard_error"] == pytest.approx(float(error), abs=1e-6)
    # of 4 samples with c right, a pair without any right one: C(4-c, 2) of 6
    pairs = [1 - math.comb(4 - round(4 * share), 2) / 6 for share in shares]
    assert results["test_time/pass_at_2"] == pytest.approx(sum(pairs) / 4, abs=1e-6)
    assert results["test_time/problems"] == 5
    assert results["test_time/samples_per_problem"] == 4
    assert results["test_time/flops"] > 0
    assert all(is_known(name) for name in results)
    assert f"accuracy {sum(shares) / 4:.4f}" in capsys.readouterr().out


def test_a_strategy_that_chooses_is_judged_by_its_choice(tmp_path):
    tested = module(tmp_path, strategy=Last())
    (results,) = trainer().test(tested, Batches(tested.text), verbose=False)
    outcomes = [o for i, o in enumerate(drawn(tested, Last())) if i != 2]
    right = [len(outcome.completions[4].tokens) <= 2 for outcome in outcomes]
    shares = [sum(len(c.tokens) <= 2 for c in outcome.completions) / 5 for outcome in outcomes]
    assert abs(sum(right) - sum(shares)) > 0.1  # the choice makes a difference here
    assert results["test_time/accuracy"] == pytest.approx(sum(right) / 4, abs=1e-6)


def test_predictions_are_all_in_the_file(tmp_path):
    tested = module(tmp_path)
    counts = trainer().predict(tested, Batches(tested.text))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert counts == [12, 8]
    assert [(row["uid"], row["sample"]) for row in rows] == [(f"u{i}", k) for i in range(5) for k in range(4)]
    completions = [c for outcome in drawn(tested, tested.strategy) for c in outcome.completions]
    assert [row["completion"] for row in rows] == [c.text for c in completions]
    assert [row["tokens"] for row in rows] == [len(c.tokens) for c in completions]
    assert rows[0]["mean_logprob_nats"] == pytest.approx(float(completions[0].logprobs.mean()), abs=1e-6)
    assert rows[4]["prompt"].endswith("1+1=")
    assert (rows[8]["reward"], rows[8]["correct"], rows[8]["verdict"]) == (None, None, "gold_unparseable")
    assert {row["stop"] for row in rows} <= {"eos", "length"}
    assert rows[0]["parts"] == {"short": rows[0]["reward"]}
    assert {row["samples"] for row in rows} == {4}
    assert {row["schema"] for row in rows} == {1}


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    one = module(tmp_path)
    one.output = str(tmp_path / "pool.parquet")
    first = Batches(one.text)
    del first[1]
    trainer().predict(one, first)
    again = module(tmp_path)
    again.output = one.output
    assert trainer().predict(again, Batches(again.text)) == [0, 8]
    assert "3 problems were answered there before" in capsys.readouterr().out
    other = module(tmp_path, strategy=Sample(4, Sampling(max_new_tokens=4), seed=1))
    other.output = one.output
    assert trainer().predict(other, Batches(other.text)) == [12, 8]
    pool = read_pool(tmp_path / "pool.parquet")
    assert len(pool) == 40
    assert len({candidate.uid for candidate in pool}) == 40
    assert len({candidate.origin.policy for candidate in pool}) == 1


def test_more_samples_of_the_same_draw_are_added(tmp_path):
    few = module(tmp_path, strategy=Sample(2, Sampling(max_new_tokens=4)))
    trainer().predict(few, Batches(few.text))
    more = module(tmp_path)
    assert trainer().predict(more, Batches(more.text)) == [12, 8]
    pool = read_pool(tmp_path / "out.jsonl")
    assert len(pool) == 20  # the first two of each problem were drawn again, and are the same
    assert {candidate.samples for candidate in pool} == {4}


def test_cost_is_what_the_ledger_booked(tmp_path):
    tested = module(tmp_path)
    trainer().predict(tested, Batches(tested.text))
    pool = read_pool(tmp_path / "out.jsonl")
    spent = tested.ledger.spent[Phase.ROLLOUT]
    assert sum(c.cost.flops for c in pool) == pytest.approx(spent.flops, rel=1e-9)
    assert sum(c.cost.seconds for c in pool) == pytest.approx(spent.seconds, rel=1e-6)
    assert sum(c.cost.tokens for c in pool) == spent.generated_tokens


def test_parquet_holds_the_same(tmp_path):
    tested = module(tmp_path)
    trainer().predict(tested, Batches(tested.text), return_predictions=False)
    again = TestTimeModule(
        network(), ShortIsRight(), TEXT, tested.strategy, output=str(tmp_path / "p.parquet")
    )
    trainer().predict(again, Batches(again.text), return_predictions=False)
    table = pq.read_table(tmp_path / "p.parquet").to_pylist()
    for row in table:
        del row["seconds"]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{**row, "parts": dict(row["parts"])} for row in table] == [
        {k: row[k] for k in table[0]} for row in rows
    ]
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_interrupt_keeps_what_is_done(tmp_path, name):
    tested = module(tmp_path)
    tested.output = str(tmp_path / name)

    class Interrupted(Batches):
        def __iter__(self):
            yield self[0]
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        trainer().predict(tested, Interrupted(tested.text))
    assert len(read_pool(tmp_path / name)) == 12


def checkpoint(tmp_path, config):
    method = Method(config)
    fitting = trainer(max_steps=1, log_every_n_steps=1)
    fitting.fit(method)
    fitting.save_checkpoint(tmp_path / "method.ckpt")
    return method, tmp_path / "method.ckpt"


def test_the_checkpoint_of_a_method_is_tested(tmp_path):
    method, path = checkpoint(tmp_path, network())
    fresh = TestTimeModule.from_method(Method(network()), ShortIsRight(), Sampling(max_new_tokens=4), 2)
    trainer().test(fresh, Batches(fresh.text), ckpt_path=path, verbose=False)
    for name, value in method.policy.state_dict().items():
        assert torch.equal(fresh.policy.state_dict()[name], value), name
    untrained = build(network()).state_dict()
    assert not any(torch.equal(untrained[name], value) for name, value in fresh.policy.state_dict().items())


def test_a_loaded_method_lends_its_policy(tmp_path):
    method, _ = checkpoint(tmp_path, network())
    tested = TestTimeModule.from_method(method, ShortIsRight(), Sampling(max_new_tokens=4), 4)
    assert tested.policy is method.policy
    assert (tested.pass_at, tested.majority_at) == ((2, 4), (4,))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    _, path = checkpoint(tmp_path, network())
    other = TestTimeModule(network(hidden=32), ShortIsRight(), TEXT)
    with pytest.raises(InputError, match=r"[1-9]\d* of another shape"):
        trainer().test(other, Batches(other.text), ckpt_path=path, verbose=False)
    stored = torch.load(path, weights_only=True)
    stored["state_dict"] = {k: v for k, v in stored["state_dict"].items() if "mlp" not in k}
    torch.save(stored, path)
    tested = module(tmp_path)
    with pytest.raises(InputError, match="3 parameters missing"):
        trainer().test(tested, Batches(tested.text), ckpt_path=path, verbose=False)


def test_another_ending_is_refused(tmp_path):
    tested = module(tmp_path)
    tested.output = str(tmp_path / "out.csv")
    with pytest.raises(InputError, match=r"must end in .jsonl or .parquet"):
        trainer().predict(tested, Batches(tested.text))
