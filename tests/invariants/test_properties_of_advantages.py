"""Properties of advantages and returns on random rewards, some equal, some not graded."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from property_cases import holds
from torch import Tensor
from torch.nn.functional import pad

from lit_posttrain.objectives.advantages import BatchWhitened, GroupAdvantage, LeaveOneOut, effective_samples
from lit_posttrain.objectives.part_advantages import PartwiseAdvantage
from lit_posttrain.objectives.returns import GAE, StepReturns

WITHIN_GROUPS = [
    GroupAdvantage("group"),
    GroupAdvantage("batch"),
    GroupAdvantage("none"),
    LeaveOneOut(),
    BatchWhitened("group"),
    PartwiseAdvantage({"a": 1.0, "b": 0.5}),
    PartwiseAdvantage({"a": 1.0, "b": -2.0}, deviation="batch", then="batch"),
]
EVERY = [*WITHIN_GROUPS, BatchWhitened("batch")]
SEEDS = st.integers(0, 2**31)
RETURNS = [
    GAE(),
    GAE(discount=0.9, trace=0.5),
    GAE(adaptive=0.5, value_trace=1.0),
    StepReturns(),
    StepReturns(0.5),
]


@dataclass
class Graded:
    """Reward parts (P, G, 2), multiples of 1/8 up to 2, exact in every type; NaN where not graded (P, G)."""

    parts: Tensor
    graded: Tensor


@st.composite
def rewards(draw: st.DrawFn) -> Graded:
    """Some groups are equal in one part or in both, some have one graded completion, some none."""
    groups, size = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    parts = torch.randint(-16, 17, (groups, size, 2), generator=generator) / 8
    level = torch.rand(groups, 1, 2, generator=generator) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    parts = torch.where(level, parts[:, :1], parts)
    graded = torch.rand(groups, size, generator=generator) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    return Graded(parts.masked_fill(~graded[..., None], torch.nan).to(dtype), graded)


def tolerance(values: Tensor) -> float:
    """1e-5 in float32 and finer; half a unit of the last place of each of the group's values else."""
    coarse = {torch.bfloat16: 2e-2, torch.float16: 4e-3}.get(values.dtype, 1e-5)
    return coarse * max(1.0, float(values.abs().max())) * values.shape[-1]


@holds(rewards())
def test_advantages_of_a_group_sum_to_zero(case):
    for part in WITHIN_GROUPS:
        got = part(case.parts, case.graded)
        assert float(got.double().sum(dim=1).abs().max()) <= tolerance(got)
    whole = BatchWhitened()(case.parts, case.graded)
    assert abs(float(whole.double().sum())) <= tolerance(whole) * len(whole)


@holds(rewards())
def test_equal_groups_and_ungraded_completions_get_exactly_zero(case):
    """And a group whose graded completions are one: it has nothing to be compared with."""
    for part in WITHIN_GROUPS:
        got = part(case.parts, case.graded)
        assert got.dtype == case.parts.dtype
        assert got.isfinite().all()
        for row, (values, graded) in enumerate(zip(case.parts, case.graded, strict=True)):
            assert (got[row, ~graded] == 0).all()
            if len({tuple(v) for v in values[graded].tolist()}) < 2:
                assert (got[row] == 0).all()
                assert not part.informative(case.parts, case.graded)[row]
    assert (BatchWhitened()(case.parts, case.graded)[~case.graded] == 0).all()


@holds(rewards())
def test_groups_that_are_not_informative_have_no_advantage(case):
    """And in one that is some advantage differs from 0, unless weighted parts cancel."""
    for part in EVERY:
        got, informative = part(case.parts, case.graded), part.informative(case.parts, case.graded)
        assert not got[~informative].any()
        if part in WITHIN_GROUPS and not isinstance(part, PartwiseAdvantage):
            assert got[informative].any(dim=1).all()


@holds(rewards(), st.integers(-8, 8), st.integers(-8, 8))
def test_a_constant_changes_nothing(case, first, second):
    """Whole numbers, so that r + c is exact in every type."""
    for part in EVERY:
        plain = part(case.parts, case.graded)
        moved = part(case.parts + torch.tensor([first, second], dtype=case.parts.dtype), case.graded)
        assert torch.allclose(plain.double(), moved.double(), atol=tolerance(plain))
        assert torch.equal(plain == 0, moved == 0) or isinstance(part, BatchWhitened | PartwiseAdvantage)


@holds(rewards(), st.sampled_from([0.0, 50.0, float("inf"), float("nan")]))
def test_what_stands_in_place_of_an_ungraded_reward_does_not_matter(case, filler):
    other = torch.where(case.graded[..., None], case.parts, filler)
    for part in EVERY:
        assert torch.equal(part(other, case.graded), part(case.parts, case.graded))
        assert torch.equal(part.informative(other, case.graded), part.informative(case.parts, case.graded))


@holds(rewards(), SEEDS)
def test_advantages_move_with_their_completions(case, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(case.graded), generator=generator)
    columns = torch.randperm(case.graded.shape[1], generator=generator)
    for part in EVERY:
        got = part(case.parts[rows][:, columns], case.graded[rows][:, columns])
        plain = part(case.parts, case.graded)
        assert torch.allclose(got.double(), plain[rows][:, columns].double(), atol=tolerance(plain))


@holds(rewards(), st.sampled_from([0.25, 4.0]))
def test_a_deviation_takes_the_scale_away(case, factor):
    """But for the two that keep the unit of the reward."""
    if case.parts.dtype not in (torch.float32, torch.float64):
        return
    for part in EVERY:
        plain, wider = part(case.parts, case.graded), part(case.parts * factor, case.graded)
        keeps = isinstance(part, LeaveOneOut) or part == GroupAdvantage("none")
        assert torch.allclose(wider, plain * factor if keeps else plain, atol=1e-4, rtol=1e-4)


@holds(rewards())
def test_effective_samples_lie_between_one_and_all(case):
    got = LeaveOneOut()(case.parts, case.graded).float().flatten()
    live, count = int((got != 0).sum()), float(effective_samples(got))
    assert count == 0 if live == 0 else 1 - 1e-5 <= count <= live + 1e-4


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask (B, T), up to ±1e3, with holes and empty rows."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    mask = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.6, 1.0]))
    size = draw(st.sampled_from([1.0, 1e3]))
    drawn = [size * (2 * torch.rand(shape, generator=generator) - 1) for _ in range(2)]
    return drawn[0], drawn[1], mask


@holds(trajectories(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 5.0, float("nan")]))
def test_returns_know_nothing_outside_the_mask(case, left, right, content):
    """Padding on either side, what it is filled with, and what stands in holes."""
    filled = [t.masked_fill(~case[2], content) for t in case[:2]]
    wide = [pad(t, (left, right), value=content) for t in filled]
    mask = pad(case[2], (left, right), value=False)
    for part in RETURNS:
        for plain, other in zip(part(*case), part(*wide, mask), strict=True):
            assert plain.isfinite().all()
            assert (plain[~case[2]] == 0).all()
            assert torch.equal(pad(plain, (left, right)), other)


@holds(trajectories())
def test_returns_take_each_row_for_itself_and_pass_over_holes(case):
    for part in RETURNS:
        whole = part(*case)
        for row in range(len(case[2])):
            keep = case[2][row]
            dense = [t[row, keep][None] for t in case]
            for together, alone in zip(whole, part(*dense), strict=True):
                assert torch.equal(together[row, keep], alone[0])
