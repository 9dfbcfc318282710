"""Too little memory, by hosts and groups of ranks: who is told of, and how."""

import json

import pytest

from lockstep.bench.made_up import made_up_dataset
from lockstep.config import Config, Network, Training
from lockstep.errors import SharedError, UserError
from lockstep.parallel.single import SingleProcess
from lockstep.train import room
from lockstep.train.footprint import Footprint
from lockstep.train.room import Demand, check_room, check_room_here, shortage_text
from lockstep.train.run import resolve

GB = 10**9
CONFIG = Config(network=Network(hidden_widths=(30,)), training=Training(virtual_ranks=4))


@pytest.fixture(scope="module")
def info():
    with made_up_dataset(10) as dataset:
        return dataset.info


def demand(rooms, **parts):
    parts = {name: round(size * GB) for name, size in (parts or {"parameters": 3}).items()}
    return Demand(Footprint(parts), {name: round(size * GB) for name, size in rooms.items()})


def test_ranks_of_a_host_share_its_memory(info):
    demands = [demand({"node1": 9}), demand({"node1": 8}), demand({"node2": 4})]
    assert shortage_text(CONFIG, info, demands) == ""
    demands[1] = demand({"node1": 5.9})
    # The least that any of them has found counts; the other host has room.
    assert shortage_text(CONFIG, info, demands).startswith(
        "Not enough memory: ranks 0-1 would take about 6.0 GB together, and 5.9 GB are available "
        "on node1.\n  Rank 0 takes about 3.0 GB: parameters 3.0 GB.\n"
    )


def test_all_hosts_that_are_short_are_named(info):
    demands = [demand({"node1": 2}), demand({"node2": 9}), demand({"node3": 0.5})]
    text = shortage_text(CONFIG, info, demands)
    assert "rank 0 would take about 3.0 GB, and 2.0 GB are available on node1; rank 2 " in text
    assert "500.0 MB are available on node3" in text
    assert "node2" not in text
    assert "fewer ranks" not in text


def test_of_rooms_that_the_same_ranks_share_the_tightest_is_named(info):
    job = {"node1": 2, "job": 1, "step": 1.5}
    text = shortage_text(CONFIG, info, [demand(job), demand(job)])
    assert "ranks 0-1 would take about 6.0 GB together, and 1.0 GB are available on job." in text
    assert "node1" not in text
    # Containers with limits of their own on one host: each for itself, and all of them together.
    own = [{"node1": 5, "container 1": 2}, {"node1": 5, "container 2": 9}]
    text = shortage_text(CONFIG, info, [demand(rooms) for rooms in own])
    assert "rank 0 would take about 3.0 GB, and 2.0 GB are available on container 1" in text
    assert "ranks 0-1 would take about 6.0 GB together, and 5.0 GB are available on node1" in text
    assert "container 2" not in text
    assert "start fewer ranks on a host" in text


def test_the_largest_rank_tells_what_takes_how_much(info):
    demands = [
        demand({"node1": 9}, parameters=1, samples=0.5),
        demand({"node1": 9}, samples=2, parameters=7, gradients=0.01, labels=0.02),
    ]
    text = shortage_text(CONFIG, info, demands)
    assert "Rank 1 takes about 9.0 GB: parameters 7.0 GB, samples 2.0 GB, others 30.0 MB." in text
    assert "784-30-10 has 23,860 parameters of float32, global_batch_size is 64" in text
    assert "virtual_ranks 4, memory_budget_mb 1024" in text


def test_a_system_that_tells_nothing_is_not_asked_for_more(info):
    assert shortage_text(CONFIG, info, [demand({}, parameters=10**9)]) == ""


def test_what_this_process_finds_is_what_counts(info, monkeypatch):
    config = resolve(CONFIG, 1)
    check_room(config, info, SingleProcess())
    check_room_here(config, info, 4)
    monkeypatch.setattr(room, "memory_rooms", lambda: {"node1": 100_000})
    with pytest.raises(
        SharedError, match=r"rank 0 would take about 1\.\d MB, and 0\.1 MB are .* node1"
    ):
        check_room(config, info, SingleProcess())
    with pytest.raises(UserError, match=r"ranks 0-3 would take about \d\.\d MB together"):
        check_room_here(config, info, 4)


def test_each_rank_tells_the_others(info, monkeypatch):
    class Two(SingleProcess):
        """Another rank on another host, which has found nothing."""

        world_size = 2

        def gather_texts(self, text):
            is_host = not text.startswith("[")
            return [
                text,
                "elsewhere" if is_host else json.dumps([0, {"samples": 7 * GB}, {"b": 5}]),
            ]

    monkeypatch.setattr(room, "memory_rooms", lambda: {"node1": 10**12})
    with pytest.raises(SharedError, match=r"rank 1 would take about 7.0 GB, and 0.0 MB .* on b\."):
        check_room(resolve(CONFIG, 2), info, Two())
