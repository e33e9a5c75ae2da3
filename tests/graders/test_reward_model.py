import pytest
import torch
from fakes import TEXT, DigitCount, grpo, prompt_data, tiny, trainer
from reward_cases import data_of, reward

from lit_posttrain.batches import Completion, Problem, StopReason, Verdict
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.collate import from_lists
from lit_posttrain.errors import InputError
from lit_posttrain.graders import (
    EnsembleMinimum,
    LengthWindow,
    MeanLessSpread,
    RewardModel,
    WeightedSum,
    grade_all,
)
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import NetworkConfig, ScoreHead, build, last_tokens
from lit_posttrain.text import load_text

QUESTION = Problem(({"role": "user", "content": "1+2="},), None, "q")


def said(text: str) -> Completion:
    return Completion(torch.zeros(0, dtype=torch.int64), torch.zeros(0), StopReason.EOS, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("reward_model")
    module = reward(ScoreHead(3))
    fitting = trainer(max_steps=2, plugins=[FolderIO()])
    fitting.fit(module, datamodule=data_of())
    fitting.save_checkpoint(place / "fit.ckpt")
    return str(export(place / "fit.ckpt", place / "out"))


def by_hand(folder: str, answer: str) -> torch.Tensor:
    """The scores (K,) of the question, the answer and one end token, read alone."""
    vocabulary = load_text(TEXT).tokenizer.get_vocab()
    ids = [vocabulary[c] for c in "1+2=" + answer] + [vocabulary["<eos>"]]
    batch = from_lists([ids], [[True] * len(ids)], 0)
    with torch.no_grad():
        network = build(NetworkConfig(path=folder, head=ScoreHead(3))).eval()
        return network.scores(batch, last_tokens(batch))[0]


def test_rewards_are_the_scores_whatever_the_batch(folder):
    answers = ["3", "12345", "3+3", "0"]
    for batch_tokens in (1, 16_384):
        grades = RewardModel(folder, batch_tokens=batch_tokens).grade(
            [(QUESTION, said(one)) for one in answers]
        )
        for answer, grade in zip(answers, grades, strict=True):
            scores = by_hand(folder, answer)
            assert grade.reward == pytest.approx(float(scores.mean()), abs=1e-6)
            assert grade.parts["score_mean"] == grade.reward
            assert grade.parts["score_spread"] == pytest.approx(float(scores.std(correction=0)), abs=1e-6)
            assert (grade.correct, grade.verdict) == (None, Verdict.PARTIAL)
    assert len({grade.reward for grade in grades}) == 4


def test_ways_to_join_an_ensemble(folder):
    scores = by_hand(folder, "12")

    def rewarded(**settings) -> float | None:
        return RewardModel(folder, **settings).grade([(QUESTION, said("12"))])[0].reward

    assert rewarded(ensemble=EnsembleMinimum(), offset=2.0) == pytest.approx(
        float(scores.min()) - 2, abs=1e-6
    )
    less = float(scores.mean() - 0.5 * scores.std(correction=0))
    assert rewarded(ensemble=MeanLessSpread(0.5)) == pytest.approx(less, abs=1e-6)
    with pytest.raises(InputError, match="reward disagreement"):
        MeanLessSpread(-1.0)


def test_text_is_judged_and_never_an_error(folder):
    unreadable = Problem(({"role": "user", "content": "what?"},), None, "q")
    items = [
        (QUESTION, said("  ")),
        (QUESTION, said("one")),  # not in the alphabet
        (QUESTION, said("1" * 80)),  # 64 positions
        (unreadable, said("1")),
        (QUESTION, said("3")),
    ]
    grades = grade_all(RewardModel(folder, lowest=-3.0), items, deadline_s=60)
    verdicts = [
        Verdict.NO_ANSWER,
        Verdict.MALFORMED,
        Verdict.GRADER_ERROR,
        Verdict.GOLD_UNPARSEABLE,
        Verdict.PARTIAL,
    ]
    assert [grade.verdict for grade in grades] == verdicts
    assert [grade.reward for grade in grades[:4]] == [-3.0, -3.0, None, None]
    assert grades[4].reward == pytest.approx(float(by_hand(folder, "3").mean()), abs=1e-6)
    assert "64 positions" in grades[2].note


def test_folder_without_a_head_is_refused(tmp_path):
    build(tiny()).causal.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no reward head"):
        RewardModel(str(tmp_path))


def test_no_items(folder):
    assert RewardModel(folder).grade([]) == []


def test_what_grading_took_is_booked_once_and_under_its_phase(folder):
    both = WeightedSum([RewardModel(folder), LengthWindow(), RewardModel(folder)], [1.0, 1.0, 1.0])
    both.grade([(QUESTION, said("12"))])
    network, expected = build(NetworkConfig(path=folder, head=ScoreHead(3))), Ledger()
    batch = from_lists([[0] * 7], [[True] * 7], 0)  # 1+2=12 and the end
    with torch.no_grad(), expected.phase(Phase.GRADING):
        network.scores(batch, last_tokens(batch), ledger=expected)
    ledger = Ledger()
    with ledger.phase(Phase.GRADING):
        ledger.book(both.take_spent())
        ledger.book(both.take_spent())
    assert ledger.spent[Phase.GRADING].flops == 2 * expected.spent[Phase.GRADING].flops > 0
    assert ledger.spent[Phase.GRADING].positions == 14


def test_a_rollout_books_its_graders(folder):
    module = grpo(grader=WeightedSum([DigitCount(), RewardModel(folder, lowest=-1.0)], [1.0, 0.1]))
    trainer(max_steps=1).fit(module, datamodule=prompt_data())
    assert module.ledger.spent[Phase.GRADING].flops > 0
    assert module.ledger.spent[Phase.GRADING].positions > 0
