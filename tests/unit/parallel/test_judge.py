"""The judge of the ranks, with made-up times."""

import pytest

from lockstep.parallel.judge import Beat, Judge

NAMES = ("Rank 0", "Rank 1", "Rank 2")


def beat(
    step=5, phase="compute", *, is_step=True, is_waiting=False, cpu_s=0.0, moved_bytes=0, group=0
):
    return Beat(step, phase, is_step, is_waiting, cpu_s, moved_bytes, group)


WAITING = beat(phase="reduce", is_waiting=True)


def judge_of(*beats, timeout_s=60.0):
    """Return a judge that has heard of every rank once, at time 0."""
    judge = Judge(NAMES[: len(beats)], 0.0)
    judge.timeout_s = timeout_s
    for rank, told in enumerate(beats):
        judge.take(rank, told, 0.0)
    return judge


def hear(judge, seconds, *beats):
    """Have all ranks but those of None beat every second, and return the first verdict."""
    for now_s in seconds:
        for rank, told in enumerate(beats):
            if told is not None:
                judge.take(rank, told, float(now_s))
        text = judge.missing(now_s) or judge.stuck(now_s)
        if text:
            return now_s, text
    return None


def test_ranks_that_get_on_are_left_alone():
    judge = judge_of(beat(), WAITING)
    for now_s in range(1, 500):
        assert hear(judge, [now_s], beat(step=now_s), beat(step=now_s)) is None


def test_a_silent_rank_is_named_after_the_timeout():
    judge = judge_of(WAITING, beat(step=5, phase="data"), WAITING)
    now_s, text = hear(judge, range(1, 100), WAITING, None, WAITING)
    assert now_s == 61
    assert text.startswith("Rank 1 has not been heard of for 60 s, lost in step 6, phase data: ")


def test_several_silent_ranks_are_named_together():
    judge = judge_of(WAITING, beat(step=5), beat(step=5))
    _, text = hear(judge, range(1, 100), WAITING, None, None)
    assert text.startswith("Rank 1, Rank 2 have not been heard of for 60 s, lost in step 6")
    assert text.endswith(": they are stopped or out of reach, or their hosts are lost.")


def test_ranks_that_were_lost_together_are_named_together():
    judge = judge_of(WAITING, beat(step=5), beat(step=5))
    judge.take(1, beat(step=6), 1.0)
    judge.take(2, beat(step=6), 11.0)
    now_s, text = hear(judge, range(1, 100), WAITING, None, None)
    assert now_s == 72
    assert text.startswith("Rank 1, Rank 2 have not been heard of for 60 s")


def test_a_rank_that_is_only_late_is_not_waited_for_and_not_named():
    judge = judge_of(WAITING, beat(step=5), beat(step=5))
    judge.take(2, beat(step=5), 30.0)
    now_s, text = hear(judge, range(1, 100), WAITING, None, None)
    assert now_s == 61
    assert text.startswith("Rank 1 has not been heard of for 60 s")


def test_a_rank_that_stands_still_is_told_from_those_that_wait_for_it():
    stuck = beat(phase="data")
    judge = judge_of(WAITING, WAITING, stuck)
    now_s, text = hear(judge, range(1, 100), WAITING, WAITING, stuck)
    assert now_s == 61
    assert text == (
        "Rank 2 has made no progress for 60 s, in step 6, phase data, and the others wait for it."
    )


def test_when_all_wait_for_each_other_nobody_is_accused():
    judge = judge_of(WAITING, WAITING)
    now_s, text = hear(judge, range(1, 100), WAITING, WAITING)
    assert now_s == 61
    assert text == "No rank has made progress for 60 s, in step 6, phase reduce."


def test_being_busy_is_no_progress_once_it_is_known_how_long_a_step_takes():
    # Quick steps, of which no single one was seen to begin and to end.
    start = beat(0, "start-up", is_step=False)
    judge = judge_of(start, start)
    verdicts = [hear(judge, [t], WAITING, beat(cpu_s=float(t))) for t in range(1, 100)]
    assert next(told for told in verdicts if told)[0] == 62


@pytest.mark.parametrize(
    "work", [{"cpu_s": 0.2}, {"moved_bytes": 4096}, {"cpu_s": 1.0, "moved_bytes": 1}]
)
@pytest.mark.parametrize("place", [{"phase": "reading", "is_step": False}, {"step": 0}])
def test_a_rank_at_work_outside_of_steps_or_in_the_first_one_gets_on(work, place):
    judge = judge_of(beat(**place, is_waiting=True), beat(**place))
    for t in range(1, 1000):
        busy = beat(**place, **{name: value * t for name, value in work.items()})
        assert hear(judge, [t], beat(**place, is_waiting=True), busy) is None


def test_heartbeats_that_come_in_bunches_are_no_work():
    start = {"phase": "start-up", "is_step": False, "step": 0}
    judge = judge_of(beat(**start, is_waiting=True), beat(**start))
    for now_s in range(1, 61):
        # The watchdog's own little work, seen at the same moment.
        for part in (0.0, 0.001):
            judge.take(1, beat(**start, cpu_s=now_s / 1000 + part), float(now_s))
        judge.take(0, beat(**start, is_waiting=True), float(now_s))
    assert judge.stuck(60.5) is not None


def test_waiting_busily_is_no_work():
    waiting = {"phase": "start-up", "is_step": False, "is_waiting": True, "step": 0}
    idle = beat(0, "start-up", is_step=False, cpu_s=0.0)
    judge = judge_of(beat(**waiting), idle)
    verdicts = [hear(judge, [t], beat(**waiting, cpu_s=float(t)), idle) for t in range(1, 100)]
    now_s, text = next(told for told in verdicts if told)
    assert now_s == 61
    assert text.startswith("Rank 1 has made no progress for 60 s, in phase start-up, ")


def test_slow_steps_raise_the_limit():
    judge = judge_of(beat(step=1), beat(step=1))
    for step in range(2, 5):
        # 50 s each, so standing still is noticed after 150 s.
        for t in range(50):
            now_s = (step - 2) * 50 + t
            assert hear(judge, [now_s], beat(step=step), WAITING) is None
    assert judge.limit_s == 150
    start_s = judge.pulses[0].progress_s
    now_s, _ = hear(judge, range(int(start_s) + 1, 1000), beat(step=4), WAITING)
    assert now_s == start_s + 151


@pytest.mark.parametrize("first", [0, 500])
def test_steps_longer_than_the_timeout_are_waited_for(first):
    """A new run, and one that goes on: no step has been seen yet, and each takes 90 s."""
    start = beat(first, "start-up", is_step=False)
    judge = judge_of(start, start)
    for now_s in range(1, 1000):
        step = first + now_s // 90
        own = [beat(step, cpu_s=float(now_s)), beat(step, "reduce", is_waiting=True)]
        assert hear(judge, [now_s], *own) is None
    assert judge.limit_s == 270
    stuck = [beat(step), beat(step, "reduce", is_waiting=True)]
    now_s, _ = hear(judge, range(1000, 2000), *stuck)
    assert now_s == 990 + 271


def test_whoever_does_not_train_may_do_what_he_likes():
    idle = beat(0, "", is_step=False)
    judge = judge_of(idle, idle)
    assert hear(judge, range(1, 1000, 10), idle, idle) is None
    assert hear(judge, range(1000, 1100), idle, None) is not None


def test_a_slow_disk_is_given_more_time():
    saving = beat(phase="saving", is_step=False)
    judge = judge_of(saving, WAITING)
    now_s, text = hear(judge, range(1, 1000), saving, WAITING)
    assert now_s == 601
    assert text.startswith("Rank 0 has made no progress for 600 s, in phase saving after step 5, ")


def test_a_timeout_of_zero_is_none():
    judge = judge_of(WAITING, beat(), timeout_s=0.0)
    assert hear(judge, range(1, 10_000, 100), WAITING, None) is None


def test_a_rank_that_has_left_is_told_of_only_when_the_others_wait_for_it():
    judge = judge_of(WAITING, beat(), WAITING)
    judge.leave(1, 0.0)
    assert hear(judge, range(1, 50), WAITING, None, beat(phase="report", is_step=False)) is None
    now_s, text = hear(judge, range(50, 100), WAITING, None, WAITING)
    assert now_s == 53
    assert text.startswith("Rank 1 has ended, while the others wait for it")


def test_all_may_leave():
    judge = judge_of(WAITING, WAITING)
    judge.leave(0, 0.0)
    judge.leave(1, 0.0)
    assert hear(judge, range(1, 1000, 10), None, None) is None


def test_time_in_which_the_judge_was_stopped_itself_does_not_count():
    judge = judge_of(WAITING, beat())
    hear(judge, range(1, 31), WAITING, beat())
    judge.shift(3600.0)
    now_s, _ = hear(judge, range(3631, 3700), WAITING, beat())
    assert now_s == 3661


def test_the_dead_are_told_of_with_their_step():
    judge = judge_of(WAITING, beat(step=5, phase="data"))
    assert judge.has_died(1).startswith("Rank 1 has died in step 6, phase data: ")
    judge.take(0, beat(step=9, phase="reduce", is_waiting=True), 1.0)
    assert judge.has_died(1).startswith("Rank 1 has died in step 10: ")
    judge.ignore(1)
    assert hear(judge, range(1, 50), WAITING, None) is None


def test_many_names_are_shortened():
    judge = Judge([f"Rank {rank}" for rank in range(20)], 0.0)
    judge.timeout_s = 10.0
    text = judge.missing(11.0)
    assert text.startswith("Rank 0, Rank 1, Rank 2, Rank 3, Rank 4, Rank 5, Rank 6, Rank 7 and 12")


def test_groups_are_judged_each_by_itself():
    stuck = beat(phase="data", group=1)
    waiting = beat(phase="reduce", is_waiting=True, group=1)
    judge = judge_of(beat(), stuck, waiting)
    for now_s in range(1, 61):
        assert hear(judge, [now_s], beat(step=100 + now_s), stuck, waiting) is None
    told = hear(judge, [61], beat(step=161), stuck, waiting)
    assert told == (
        61,
        "Rank 1 has made no progress for 60 s, in step 6, phase data, and the others wait for it.",
    )


def test_a_group_that_has_done_its_part_may_wait_for_another():
    idle = beat(phase="", is_step=False, is_waiting=True, group=1)
    judge = judge_of(beat(), idle)
    for now_s in range(1, 200):
        assert hear(judge, [now_s], beat(step=now_s), idle) is None


def test_where_a_rank_was_lost_is_told_by_its_own_group():
    judge = judge_of(beat(step=90), beat(step=5, group=1), beat(step=6, group=1))
    assert judge.has_died(1).startswith("Rank 1 has died in step 7: ")
