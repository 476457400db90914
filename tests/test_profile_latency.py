"""The profiler on a tiny engine: whole tables, honest errors, clear complaints."""

import dataclasses

import pytest
import torch

from ltd.errors import InputError
from ltd.files import read_json
from ltd.measurement.phase_timer import PhaseTimer, RandomSchedule
from ltd.measurement.profile_tables import relative_errors
from ltd.measurement.timing import Stopwatch, spread, typical
from ltd.measurement.visits import ORDINARY_TREES, between, check_room, prefix_axis, room_needed
from ltd.option_checks import check_latency
from ltd.profile_latency import LatencyOptions, profile_latency
from ltd.replay.latency import TABLES, LatencyProfile
from ltd.tracking import StageRun
from saved_engine import save_engine
from tiny_engine import VOCAB, tiny_drafter, tiny_head, tiny_target


def small_options(folder, target, draft):
    return LatencyOptions(
        target=str(target),
        draft=draft,
        output=folder / "profile.json",
        beam=3,
        max_depth=3,
        sizes=(1, 2, 4, 8),
        context_lengths=(24, 48, 96),
        repetitions=2,
        policy_network=(8,),
    )


@pytest.fixture(scope="module")
def profile_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    options = small_options(folder, *save_engine(folder))
    profile_latency(options, StageRun())
    return options.output


def test_every_table_is_measured_at_every_point(profile_path):
    profile = LatencyProfile.load(profile_path)
    assert set(profile.tables) == set(TABLES)
    assert profile.tables["verify"].axis == [1, 2, 4, 8]
    assert profile.tables["draft_step"].axis == [2, 3]
    assert profile.tables["draft_prefix"].axis[0] == 1
    for table in profile.tables.values():
        assert table.samples >= 2
        assert all(value > 0 for row in table.ms for value in row)
    assert profile.threads == torch.get_num_threads() and profile.device
    assert profile.cycle_seconds(3, 8, 60, 2, 3, 1) > profile.autoregressive_step(60)


def test_errors_and_the_share_of_matrix_products_are_recorded(profile_path):
    value = read_json(profile_path)
    assert set(value["interpolation_error"]) == {"verify_sizes", "contexts", "cycles"}
    # One held-out size at three contexts; four sizes, the prefix rows and a plain step at a held-out context.
    assert value["interpolation_error"]["verify_sizes"]["points"] == 3
    rows = len(prefix_axis(3))
    assert value["interpolation_error"]["contexts"]["points"] == 4 + rows + 1
    assert value["interpolation_error"]["cycles"]["points"] > 10
    assert 0 < value["matrix_product_share"] < 1


def test_relative_errors_of_known_numbers():
    error = relative_errors([1.1, 1.8, 4.0], [1.0, 2.0, 4.0])
    assert error["points"] == 3
    assert error["bias"] == pytest.approx(-0.1 / 7) and error["median"] == pytest.approx(0.1)
    assert error["largest"] == pytest.approx(0.1)


def test_held_out_points_lie_between_measured_ones():
    assert between((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 60)) == (5, 10, 20, 40)
    assert between((64, 192, 384)) == (128,)
    assert between((1, 2)) == ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sizes": (4, 2, 1)}, "latency.sizes"),
        ({"sizes": (2, 4)}, "from 1"),
        ({"sizes": (1, 1000)}, "at most 21"),
        ({"context_lengths": (64,)}, "latency.context_lengths"),
        ({"max_depth": 0}, "tree.max_depth"),
        ({"repetitions": 0}, "latency.repetitions"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, change, complaint):
    options = dataclasses.replace(small_options(tmp_path, "target", tmp_path), **change)
    with pytest.raises(InputError, match=complaint):
        check_latency(options)


def test_contexts_beyond_the_target_are_refused():
    with pytest.raises(InputError, match=r"latency\.context_lengths: 96 .* allows 36"):
        check_room((24, 48, 96), (1, 2, 4, 8), 3, 100)
    check_room((24, 36), (1, 2, 4, 8), 3, 100)


def test_room_is_that_of_the_rows_of_all_visits():
    """60 visits, 12 rounds of 1, 2, 4, 8 and 13 rows, and four ordinary trees before each."""
    assert room_needed(range(1, 61), 12) == 12 * 28 + 60 * 4


def test_visits_and_answers_stay_within_the_room(monkeypatch):
    """At a context that leaves exactly the room needed no cache grows beyond it; visits come close."""
    target = tiny_target()
    drafter, sizes = tiny_drafter(tiny_head(target), 3, 5), (*range(1, 11), 12, 14)
    context = target.max_context - room_needed(sizes, 5)
    text = torch.randint(1, VOCAB, (context + 1,))
    held_out = between(sizes)
    timer = PhaseTimer(target, drafter, text, sizes, (context,), (8,), seed=0, held_out_sizes=held_out)
    held, visit = [], timer._visit

    def watched(*arguments):
        visit(*arguments)
        held.append((drafter.length + drafter.pending, target.length))

    monkeypatch.setattr(timer, "_visit", watched)
    timer.run(4)
    most = max(map(max, held))
    room = target.max_context - context
    assert context + room / 2 < most <= target.max_context and held_out == (11,)
    assert len(held) == 6 * (ORDINARY_TREES + 1) * timer.turns


def test_every_size_has_its_turn_after_ordinary_cycles():
    target = tiny_target()
    sizes = tuple(range(1, 13))
    drafter = tiny_drafter(tiny_head(target), 3, 5)
    timer = PhaseTimer(target, drafter, torch.arange(1, 40) % 14, sizes, (32,), (8,), seed=0)
    turns = [turn for _ in range(60) for turn in timer._turns()]
    assert sorted(turn.counted[1] for turn in turns) == sorted(sizes * 60)
    assert {turn.counted[0] for turn in turns} == {1, 2, 3, 4, 5}
    before = [shape for turn in turns for shape in turn.before]
    assert len(before) == ORDINARY_TREES * len(turns)
    assert {size for _, size in before} == set(range(1, 7))
    # Four depths are not needed for six nodes.
    assert {depth for depth, _ in before} == {1, 2, 3}
    assert {turn.plain_steps for turn in turns} >= {0, 1, 2}
    assert 0.08 < sum(turn.plain_steps > 0 for turn in turns) / len(turns) < 0.25


def test_ordinary_trees_are_the_same_whatever_is_held_out():
    target = tiny_target()
    arguments = (
        target,
        tiny_drafter(tiny_head(target), 3, 5),
        torch.arange(1, 40) % 14,
        (1, 2, 8, 12),
        (32,),
        (8,),
    )
    timer = PhaseTimer(*arguments, seed=0, held_out_sizes=(5, 10))
    turns = [turn for _ in range(60) for turn in timer._turns()]
    assert {size for turn in turns for _, size in turn.before} == {1, 2}
    assert {turn.counted[1] for turn in turns} == {1, 2, 5, 8, 10, 12}


def test_few_sizes_leave_no_point_of_another_phase_out():
    target = tiny_target()
    timer = PhaseTimer(
        target, tiny_drafter(tiny_head(target), 3, 4), torch.arange(1, 40) % 14, (1, 2), (16,), (8,), seed=0
    )
    timer.visit(16)
    assert {rows for phase, rows, _ in timer.watch.samples() if phase == "draft_prefix"} == set(timer.rows)


def test_every_repetition_has_a_plain_step_to_time():
    """With few sizes none may be drawn: the table would have a cell without a sample."""
    target = tiny_target()
    timer = PhaseTimer(
        target, tiny_drafter(tiny_head(target), 3, 3), torch.arange(1, 40) % 14, (1, 2), (32,), (8,), seed=0
    )
    assert all(any(turn.plain_steps for turn in timer._turns()) for _ in range(50))


def test_stopwatch_keeps_keys_apart_and_forgets_the_warm_up():
    watch = Stopwatch(torch.device("cpu"))
    assert watch.time(("a", 1), lambda: 7) == 7
    watch.clear()
    for value in (1.0, 2.0, 30.0):
        watch.add(("b", 1), value)
    assert list(watch.samples()) == [("b", 1)] and spread(watch.samples()["b", 1]) == 14.5


def test_a_pause_of_the_machine_counts_as_three_times_the_usual():
    """The median is 3: what takes longer than 9 counts as 9."""
    assert typical([1, 2, 3, 4, 5]) == 3
    assert typical([1, 2, 3, 4, 1000]) == typical([1, 2, 3, 4, 9]) == 3.8


def test_schedule_plays_its_cycles_in_turn():
    class State:
        depth = 1

    schedule = RandomSchedule([(1, 5), (2, 7)])
    first = (schedule.continue_drafting(State), schedule.choose_size(State))
    schedule.accepted(0)
    second = (schedule.continue_drafting(State), schedule.choose_size(State))
    assert (first, second) == ((False, 5), (True, 7))
