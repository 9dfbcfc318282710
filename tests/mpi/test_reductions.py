from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_every_reduction_adds_in_the_order_of_the_tree(program, num_ranks):
    done = program.on_ranks(num_ranks, PROGRAMS / "reduce.py")
    assert done.returncode == 0, done.stderr
    # An exit code of 0 alone proves nothing under every mpiexec.
    assert done.stdout == "all ranks are done\n"
