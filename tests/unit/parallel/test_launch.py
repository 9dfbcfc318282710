"""What the environment promises, and what is done when the promise is broken."""

import pytest

from lockstep.errors import SharedError, UserError
from lockstep.parallel.launch import launched_as
from lockstep.parallel.single import SingleProcess
from lockstep.parallel.verdict import together


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}, (1, 3)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        # A batch script is no rank, and neither is what it starts without srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),
    ],
)
def test_the_launchers_promise_is_read_from_the_environment(environment, expected):
    assert launched_as(environment) == expected


class ThreeRanks(SingleProcess):
    """A world whose other ranks have given their verdicts already."""

    def __init__(self, *others):
        self.others = list(others)

    def gather_texts(self, text):
        return [text, *self.others]


def complain():
    raise UserError("no such file")


def test_together_returns_the_result_when_all_is_well():
    assert together(ThreeRanks("", ""), lambda: 42) == 42


def test_together_tells_a_common_mistake_once():
    with pytest.raises(SharedError, match=r"^no such file$"):
        together(ThreeRanks("no such file", "no such file"), complain)


def test_together_names_the_odd_ranks():
    with pytest.raises(SharedError, match=r"^Rank 1, 2: disk gone$"):
        together(ThreeRanks("disk gone", "disk gone"), lambda: 42)
    with pytest.raises(SharedError) as error:
        together(ThreeRanks("", "disk gone"), complain)
    assert str(error.value) == "Rank 2: disk gone\nRank 0: no such file"
