from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LIBRARY = {"MPI_Allreduce of the whole vector", "MPI_Iallreduce layer by layer"}
MESSAGES = {
    f"own memory, {way} between ranks"
    for way in ("all-to-all", "all-to-all layer by layer", "direct", "halving and doubling")
}
WINDOW = {
    "shared memory",
    *(f"shared memory, {way} between nodes" for way in ("all-to-all", "direct")),
}


@pytest.mark.parametrize(
    ("num_ranks", "ways"),
    [
        (1, set()),
        (2, LIBRARY | MESSAGES | {"shared memory"}),
        (3, LIBRARY | MESSAGES - {"own memory, halving and doubling between ranks"} | WINDOW),
        (4, LIBRARY | MESSAGES | WINDOW | {"shared memory, halving and doubling between nodes"}),
        (5, LIBRARY | MESSAGES - {"own memory, halving and doubling between ranks"} | WINDOW),
    ],
)
def test_every_way_to_add_keeps_the_order_of_the_tree_wherever_the_ranks_lie(
    program, num_ranks, ways
):
    done = program.on_ranks(num_ranks, PROGRAMS / "reduce.py")
    assert done.returncode == 0, done.stderr
    # An exit code of 0 alone proves nothing under every mpiexec.
    *told, end = done.stdout.splitlines()
    assert end == "all ranks are done"
    assert set(told) >= ways
