"""The parts of a step."""

from lockstep.data.shards import Sharding
from lockstep.train.steps import Part, Steps


def test_a_step_of_one_part_is_that_part():
    steps = Steps(Sharding(10, 4, 2), 1)
    assert steps.per_epoch == 3
    assert list(steps.parts(epoch=2, step=1)) == [Part(4, 1, is_first=True, is_last=True)]
    assert [steps.num_samples(step) for step in range(3)] == [4, 4, 2]


def test_parts_cover_the_epoch_and_the_last_step_may_have_fewer():
    # 23 rows in parts of 4 are six parts, the last one of 3 samples; four of them are a step.
    steps = Steps(Sharding(23, 4, 2), 4)
    assert steps.per_epoch == 2
    assert [steps.num_samples(step) for step in range(2)] == [16, 7]
    assert list(steps.parts(epoch=1, step=1)) == [
        Part(4, 4, is_first=True, is_last=False),
        Part(5, 5, is_first=False, is_last=True),
    ]
    numbers = [
        part.number for epoch in (1, 2) for step in (0, 1) for part in steps.parts(epoch, step)
    ]
    assert numbers == list(range(12))
