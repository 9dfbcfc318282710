from lockstep.bench.notes import notes_on_absent, notes_on_cores, ranks_cell


def test_the_mark_of_crowded_ranks_is_explained_where_it_is_used():
    assert ranks_cell(4, is_crowded=True) == "4*"
    assert ranks_cell(4, is_crowded=False) == "4"
    (note,) = notes_on_cores([False, True, True])
    assert note.startswith("*: more ranks than cores")
    assert notes_on_cores([False, False]) == []


def test_each_reason_to_take_no_part_is_told_once():
    reasons = [{"a": "it is away", "b": "too slow"}, {"a": "it is away"}, {"a": "it is broken"}]
    assert notes_on_absent(reasons) == [
        "Without a: it is away.",
        "Without b: too slow.",
        "Without a: it is broken.",
    ]
    assert notes_on_absent([{}, {}]) == []
