import numpy as np

from lockstep.streams import Purpose, philox

EXPECTED = [12259600460633315831, 4680478346402939020, 8642576747242118607]


def test_the_address_is_the_philox_counter_and_key():
    generator = philox(7, Purpose.SAMPLE_ORDER, index=3, virtual_rank=5)
    state = generator.state["state"]
    assert state["key"].tolist() == [7, Purpose.SAMPLE_ORDER]
    assert state["counter"].tolist() == [0, 0, 3, 5]


def test_raw_output_never_changes():
    # Sample orders follow from these numbers; other ones would break every resumed run.
    found = philox(1, Purpose.SAMPLE_ORDER, 2, 3).random_raw(3)
    assert found.tolist() == EXPECTED


def test_streams_of_different_addresses_differ():
    addresses = [(s, p, i, v) for s in (0, 1) for p in (1, 2) for i in (0, 1) for v in (0, 1)]
    firsts = {philox(s, Purpose(p), i, v).random_raw() for s, p, i, v in addresses}
    assert len(firsts) == len(addresses)


def test_streams_do_not_overlap_within_reach():
    one = philox(0, Purpose.SAMPLE_ORDER, 0, 0).random_raw(100_000)
    two = philox(0, Purpose.SAMPLE_ORDER, 1, 0).random_raw(100_000)
    assert not np.isin(one, two).any()


def test_the_parts_of_a_stream_do_not_overlap():
    generator = philox(7, Purpose.BLOCK_ORDER, index=3, virtual_rank=5, part=2)
    assert generator.state["state"]["counter"].tolist() == [0, 2, 3, 5]
    one, two = (philox(0, Purpose.SAMPLE_ORDER, part=part).random_raw(100_000) for part in (0, 1))
    assert not np.isin(one, two).any()
