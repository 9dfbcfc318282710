import gzip
import io
import subprocess
import sys

import numpy as np
import pytest

from lockstep.data.sources import table
from lockstep.errors import UserError


@pytest.fixture
def load(tmp_path, request_for):
    def load(text, name="data.csv", **options):
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(content)
        return table.load(request_for(tmp_path / name, **options))

    return load


def content(source):
    part = source.parts["all"]
    return part.rows.fetch(np.arange(len(part.labels))), part.labels.tolist()


def test_header_and_text_labels(load):
    source = load("length,width,kind\n5.5,1,rose\n4.25,2,aster\n3,4,rose\n")
    x, y = content(source)
    np.testing.assert_array_equal(x, [[5.5, 1], [4.25, 2], [3, 4]])
    assert x.dtype == source.dtype == np.float32
    assert source.class_names == ("aster", "rose")
    assert y == [1, 0, 1]
    assert (source.feature_shape, source.scale, source.image_form) == ((2,), 1, "none")


@pytest.mark.parametrize(
    ("text", "num_rows"),
    [
        ("1,2,a\n3,4,b\n", 2),
        ("p,q,a\n3,4,b\n", 1),
        ("1,q,a\n3,4,b\n", 1),
        ("1,2,class\n3,4,0\n5,6,1\n", 2),
        ("1,2,class\n3,4,x\n5,6,y\n", 3),
    ],
)
def test_a_header_is_detected(load, text, num_rows):
    assert len(load(text).parts["all"].labels) == num_rows


def test_a_header_can_be_said(load):
    assert len(load("1,2,a\n3,4,b\n", header=True).parts["all"].labels) == 1
    with pytest.raises(UserError, match=r"data\.csv, line 1, column 0: 'p' is no number"):
        load("p,q,a\n3,4,b\n", header=False)


@pytest.mark.parametrize(
    ("label_column", "features"),
    [
        (None, [[1, 2], [4, 5]]),
        ("-1", [[1, 2], [4, 5]]),
        ("2", [[1, 2], [4, 5]]),
        ("c", [[1, 2], [4, 5]]),
        ("0", [[2, 3], [5, 6]]),
        ("-3", [[2, 3], [5, 6]]),
        ("b", [[1, 3], [4, 6]]),
    ],
)
def test_the_label_column(load, label_column, features):
    source = load("a,b,c\n1,2,3\n4,5,6\n", label_column=label_column)
    np.testing.assert_array_equal(content(source)[0], features)


def test_a_label_position_is_no_cell_of_the_first_row(load):
    x, y = content(load("0,1,2\n0,3,4\n", label_column="1"))
    np.testing.assert_array_equal(x, [[0, 2], [0, 4]])
    assert y == [0, 1]


@pytest.mark.parametrize("label_column", ["d", "3", "-4"])
def test_an_unknown_label_column(load, label_column):
    with pytest.raises(UserError, match=rf"data\.csv has no column '{label_column}'.*\(a, b, c\)"):
        load("a,b,c\n1,2,3\n", label_column=label_column)


def test_a_label_column_named_twice(load):
    with pytest.raises(UserError, match="several columns named 'b'"):
        load("a,b,b\n1,2,3\n", label_column="b")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_are_detected(load, delimiter):
    x, _ = content(load("a,b,c\n1,2,x\n3,4,y\n".replace(",", delimiter)))
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])


def test_another_delimiter_can_be_said(load):
    x, _ = content(load("1|2|x\n3|4|y\n", delimiter="|"))
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    with pytest.raises(UserError, match=r"data\.csv has one column only.*--delimiter"):
        load("1|2|x\n3|4|y\n")


def test_decimal_commas_are_said(load):
    with pytest.raises(UserError, match=r"line 1, column 0: '1,5' is no number \(decimals take"):
        load("1,5;2,3;a\n2,5;1,3;b\n", header=False)


def test_quotes_bom_blanks_and_empty_lines(load):
    text = '\ufeff"first, of all","the ""label"""\r\n"1","a,\nb"\r\n\r\n 2 , c \r\n'
    source = load(text)
    x, y = content(source)
    np.testing.assert_array_equal(x, [[1], [2]])
    assert source.class_names == ("a,\nb", "c")
    assert y == [0, 1]


def test_compressed(load):
    source = load(gzip.compress(b"1,2,a\n3,4,b\n"), name="flowers.csv.gz")
    assert source.name == "flowers"
    assert content(source)[1] == [0, 1]


def test_numeric_labels_are_sorted_by_value(load):
    source = load("1,10\n2,9\n3,-1\n4,9\n")
    assert source.class_names == ("-1", "9", "10")
    assert content(source)[1] == [2, 1, 0, 1]


def test_one_number_spelled_in_two_ways(load):
    with pytest.raises(UserError, match=r"data\.csv: the labels '1' and '1.0' are the same"):
        load("1,1\n2,1.0\n")


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["0", "255"], np.uint8),
        (["0", "256"], np.uint16),
        (["-1", "127"], np.int8),
        (["1.0", "2e2"], np.uint8),
        (["-40000", "1"], np.int32),
        (["0", str(2**53)], np.uint64),
        (["0", str(2**54)], np.float32),
        (["0.1", "1"], np.float32),
    ],
)
def test_the_type_of_features(load, cells, dtype):
    source = load("".join(f"{cell},a\n" for cell in cells))
    x, _ = content(source)
    assert x.dtype == source.dtype == dtype
    np.testing.assert_array_equal(x.ravel(), np.array(cells, dtype=np.float64).astype(dtype))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,x\n1,,x\n", "line 3, column b: the value is missing"),
        ("a,b,c\n1,2,x\n1,NA,x\n", "line 3, column b: the value is missing"),
        ("a,b,c\n1,nan,x\n", "line 2, column b: the value is missing"),
        ("1,,x\n1,2,x\n", "line 1, column 1: the value is missing"),
        ("1,2,x\n1,two,x\n", "line 2, column 1: 'two' is no number"),
        ("1,2,x\ninf,2,x\n", "line 2, column 0: 'inf' isn't finite"),
        ("1,2,x\n1,-1e39,x\n", "line 2, column 1: '-1e39' is too large for float32"),
        ("a,b,c\n1,2,\n", "line 2, column c: the label is missing"),
        ("a,b,c\n1,2,x\n\n1,2\n", "line 4: 2 cells instead of 3"),
        ("a,b,c\n1,2,x\n1,2,3,x\n", "line 3: 4 cells instead of 3"),
        ('a,b,c\n1,"2"3,x\n', "line 2: .* expected after"),
        ('a,b,c\n1,"2\n', "line 3: unexpected end of data|line 2: unexpected end of data"),
        ("a,b,c\n", "has no rows"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a\n1\n", "has one column only"),
        (b"a,b,c\n1,2,\xff\n", "the text isn't UTF-8"),
        (b"\x1f\x8b\x08 broken", "Can't read"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_column(load, text, message):
    with pytest.raises(UserError, match=rf"data\.csv.*({message})|({message}).*data\.csv"):
        load(text)


def test_a_line_may_be_long(load):
    x, _ = content(load(",".join(["12345"] * 30_000) + ",a\n" + "1," * 30_000 + "b\n"))
    assert x.shape == (2, 30_000)


def test_many_blocks_in_any_order(load, monkeypatch):
    monkeypatch.setattr(table, "_BLOCK_CELLS", 6)
    values = np.random.default_rng(0).integers(-300, 300, (101, 2))
    values[:50] = abs(values[:50]) % 250
    text = "".join(f"{a},{b},{a % 2}\n" for a, b in values)
    part = load(text).parts["all"]
    numbers = np.random.default_rng(1).permutation(101)
    np.testing.assert_array_equal(part.rows.fetch(numbers), values[numbers])
    with pytest.raises(UserError, match="line 102, column 1: 'x' is no number"):
        load(f"{text}1,x,0\n")


def test_integers_and_fractions_in_different_blocks(load, monkeypatch):
    monkeypatch.setattr(table, "_BLOCK_CELLS", 2)
    x, _ = content(load("1,1,a\n0.5,2,a\n70000,3,b\n4,4,b\n"))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 1], [0.5, 2], [70000, 3], [4, 4]])


MEASURE = """
import resource, sys
from pathlib import Path
from lockstep.data.convert import ConvertOptions, convert
import lockstep.data.sources.table

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
convert(sys.argv[1], Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss counts kilobytes")
def test_memory_does_not_grow_with_the_table(tmp_path):
    # As float64 the larger table takes 48 MB, as text and Python objects several times that.
    def extra_mb(num_rows):
        path = tmp_path / f"{num_rows}.csv"
        block = io.StringIO()
        np.savetxt(block, np.random.default_rng(0).random((1000, 60)), fmt="%.3f", delimiter=",")
        lines = block.getvalue().splitlines()
        text = "\n".join(f"{line},{row % 2}" for row, line in enumerate(lines)) + "\n"
        path.write_text(text * (num_rows // 1000))
        arguments = [sys.executable, "-c", MEASURE, path, tmp_path / f"{num_rows}.h5"]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        return int(done.stdout) / 1024

    small, large = extra_mb(10_000), extra_mb(50_000)
    assert large < small + 12
    assert large < 80
