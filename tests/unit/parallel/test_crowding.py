"""Ranks and cores: what crowds whom, and the option that mends it."""

import os

import pytest

from lockstep.parallel.binding import Binding, cores_text, gather_bindings, own_binding, ranges
from lockstep.parallel.crowding import STARTED_HERE, find_crowding
from lockstep.parallel.single import SingleProcess

HYDRA = {"PMI_RANK": "0", "MPI_LOCALNRANKS": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "0"}
SLURM = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "0"}
MPICH = "MPICH Version: 5.0.2"


def bound_to(*masks, num_cores=4, host="alpha"):
    return [Binding(host, tuple(mask), tuple(range(num_cores))) for mask in masks]


def crowding(bindings, threads=1, environment=HYDRA, library=MPICH):
    return find_crowding(bindings, threads, library, environment)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "3"), ([0, 1], "0-1"), ([8, 0, 2, 1], "0-2, 8"), ([1, 3, 5, 6], "1, 3, 5-6")],
)
def test_numbers_are_written_as_ranges(numbers, text):
    assert ranges(numbers) == text


def test_a_process_tells_the_cores_that_it_has_and_those_that_it_might_have():
    before = os.sched_getaffinity(0)
    one = min(before)
    try:
        os.sched_setaffinity(0, {one})
        binding = own_binding()
        # To look is not to change.
        assert os.sched_getaffinity(0) == {one}
    finally:
        os.sched_setaffinity(0, before)
    assert binding.cores == (one,)
    assert before <= set(binding.possible_cores)
    assert cores_text(binding.cores) == f"core {one}"
    assert gather_bindings(SingleProcess()) == [own_binding()]


@pytest.mark.parametrize(
    ("masks", "threads"),
    [
        ([range(4)] * 4, 1),
        ([range(4)] * 2, 2),
        ([{0}, {1}, {2}, {3}], 1),
        # The ranks of different hosts have nothing to share.
        ([{0, 1}, {2, 3}], 2),
    ],
)
def test_ranks_with_cores_enough_are_left_alone(masks, threads):
    assert crowding(bound_to(*masks), threads) is None


def test_ranks_of_several_hosts_have_cores_of_the_same_numbers():
    assert crowding(bound_to({0}) + bound_to({0}, host="beta")) is None


@pytest.mark.parametrize(
    ("environment", "library", "option"),
    [
        (HYDRA, MPICH, "`mpiexec -bind-to core`"),
        (HYDRA, "Intel(R) MPI Library 2021.13", "`mpiexec -genv I_MPI_PIN_DOMAIN=1`"),
        (OPEN_MPI, "Open MPI v5.0.11", "`mpiexec --map-by core --bind-to core`"),
        (SLURM, MPICH, "`srun --cpu-bind=cores --cpus-per-task=1`"),
        ({"PMI_RANK": "0"}, MPICH, "your launcher's options"),
        # Hydra and Lockstep both: the user has only seen the latter.
        ({**HYDRA, STARTED_HERE: "2"}, MPICH, "taskset"),
    ],
)
def test_ranks_bound_to_the_same_core_are_told_the_option_of_their_launcher(
    environment, library, option
):
    found = crowding(bound_to({2}, {2}), environment=environment, library=library)
    assert found.is_mendable
    assert found.text == "Ranks 0-1 can only use core 2 of alpha, which has 4 cores."
    assert option in found.remedy


def test_threads_need_cores_too():
    found = crowding(bound_to({0}, {1}), 2)
    assert found.is_mendable
    assert "2 BLAS threads" in found.text
    assert "`mpiexec -bind-to core:2`" in found.remedy
    found = crowding(bound_to({0}, {1}), 2, OPEN_MPI, "Open MPI v5.0.11")
    assert "--map-by slot:PE=2 --bind-to core" in found.remedy
    # No binding gives 4 ranks of 4 threads cores of their own.
    found = crowding(bound_to(*[range(8)] * 4, num_cores=8), 4)
    assert found.is_mendable
    assert found.text == "alpha has 8 cores for 4 ranks of 4 BLAS threads."
    assert "--threads-per-rank 2" in found.remedy
    found = crowding(bound_to(*[range(8)] * 4, num_cores=8), 4, SLURM)
    assert "srun --cpus-per-task=4" in found.remedy


def test_more_ranks_than_cores_are_only_noted():
    found = crowding(bound_to(*[range(4)] * 6))
    assert not found.is_mendable
    assert found.text == "alpha has 4 cores for 6 ranks."
    assert "4 ranks" in found.remedy
    # As evenly bound as may be.
    assert not crowding(bound_to({0}, {1}, {0}, {1}, num_cores=2)).is_mendable


def test_the_worst_place_is_told_of():
    # Three ranks on core 0, one on core 1, and two with a core each on another host.
    bindings = bound_to({0}, {0}, {0}, {1}, num_cores=2) + bound_to({0}, {1}, host="beta")
    found = crowding(bindings)
    assert found.text == "Ranks 0-2 can only use core 0 of alpha, which has 2 cores."
    # More ranks than cores: each a core of its own there can't be.
    assert "`mpiexec -bind-to none`" in found.remedy


def test_a_container_with_few_cores_can_not_be_mended_by_options():
    bindings = [Binding("pod", (5,), (5,))] * 2
    assert not crowding(bindings).is_mendable
