"""What one rank finds wrong, all ranks learn, and one message names the odd ones."""

import pytest

from lockstep.errors import SharedError, UserError
from lockstep.parallel.verdict import rank_names, together


class Ranks:
    """Three ranks, of which this process is the first; the others' answers are given."""

    rank, world_size = 0, 3

    def __init__(self, hosts, others):
        self.hosts, self.others = hosts, others

    def meet(self):
        pass

    def gather_texts(self, text):
        return self.hosts if text == "this host" else [text, *self.others]


@pytest.fixture(autouse=True)
def own_host(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "this host")


def fail():
    raise UserError("x.h5 can't be read")


def test_ranks_are_named_with_their_hosts_where_there_are_several():
    assert rank_names(Ranks(["a", "a", "a"], [])) == ["0", "1", "2"]
    assert rank_names(Ranks(["a", "a", "b"], [])) == ["0 (a)", "1 (a)", "2 (b)"]


@pytest.mark.parametrize(
    ("hosts", "message"),
    [(["a", "a", "b"], "Rank 0 (a), 2 (b): x.h5"), (["a", "a", "a"], "Rank 0, 2: x.h5")],
)
def test_the_odd_ranks_are_named(hosts, message):
    with pytest.raises(SharedError) as error:
        together(Ranks(hosts, ["", "x.h5 can't be read"]), fail)
    assert str(error.value).startswith(message)


def test_different_complaints_are_told_one_by_one():
    with pytest.raises(SharedError) as error:
        together(Ranks(["a", "a", "a"], ["", "disk gone"]), fail)
    assert str(error.value) == "Rank 2: disk gone\nRank 0: x.h5 can't be read"


def test_what_all_find_is_told_once():
    with pytest.raises(SharedError) as error:
        together(Ranks(["a", "b", "c"], ["x.h5 can't be read"] * 2), fail)
    assert str(error.value) == "x.h5 can't be read"


def test_nothing_wrong_gives_the_result():
    assert together(Ranks(["a", "b", "c"], ["", ""]), lambda: 7) == 7
