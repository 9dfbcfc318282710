"""Groups of ranks that work side by side."""

import json
from pathlib import Path

import pytest

from lockstep.parallel.single import SingleProcess

PROGRAM = Path(__file__).parent / "programs" / "groups.py"
ALONE = [[0], [1], [2], [3], [4]]
# By the number of ranks and the size of the groups: who is together.
TOGETHER = {
    2: [ALONE[:2], [[0, 1]], []],
    3: [ALONE[:3], [[0, 1]], [[0, 1, 2]], []],
    5: [ALONE, [[0, 1], [2, 3]], [[0, 1, 2]], [[0, 1, 2, 3]], [[0, 1, 2, 3, 4]], []],
}


@pytest.mark.parametrize("num_ranks", TOGETHER)
def test_neighbours_form_groups_and_what_is_left_over_none(program, num_ranks):
    done = program.on_ranks(num_ranks, PROGRAM)
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    # After all sizes comes the first one once more.
    for groups, told in zip([*TOGETHER[num_ranks], TOGETHER[num_ranks][0]], found, strict=True):
        for rank, own in enumerate(told):
            members = next((group for group in groups if rank in group), [])
            assert own["members"] == members
            assert own["rank"] == (members.index(rank) if members else None)


def test_a_process_alone_is_a_group_of_one():
    alone = SingleProcess()
    assert alone.group(1) is alone
    assert alone.group(2) is None
