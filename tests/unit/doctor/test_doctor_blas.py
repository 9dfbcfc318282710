"""Judging kernels by rates that were made up."""

from lockstep.doctor.blas import Measured, examine, judge

SHAPES = ("10x784x64", "128x784x128", "256x1024x1024")


def measured(command, kernel, *rates):
    return Measured(command, kernel, dict(zip(SHAPES, rates, strict=True)))


SKYLAKE = measured("", "SkylakeX", 100, 200, 220)
HASWELL = measured("export OPENBLAS_CORETYPE=Haswell", "Haswell", 50, 110, 114)


def test_the_mean_over_shapes_is_geometric():
    # Twice, half, and 8 times as fast: the cube root of 8.
    other = measured("x", "X", 200, 100, 1760)
    assert abs(other.times_as_fast(SKYLAKE) - 2) < 1e-12


def test_the_fastest_kernels_are_left_alone():
    found = judge([SKYLAKE, HASWELL], {})
    assert (found.severity, found.remedy) == ("ok", "")
    header, *rows = found.text.splitlines()[1:]
    assert header.split() == list(SHAPES)
    assert rows[0].split() == ["SkylakeX", "(in", "use)", "100.0", "200.0", "220.0"]
    assert judge([SKYLAKE], {}).severity == "ok"


def test_a_slow_pin_is_named_with_what_unsets_it():
    pinned = measured("", "Haswell", 50, 110, 114)
    unset = measured("unset OPENBLAS_CORETYPE", "SkylakeX", 100, 220, 228)
    found = judge([pinned, unset], {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1"})
    assert found.severity == "warning"
    assert found.remedy.startswith("OPENBLAS_CORETYPE=Haswell is set")
    assert "`unset OPENBLAS_CORETYPE` makes it 2 times as fast" in found.remedy
    assert "round differently" in found.remedy


def test_the_librarys_own_choice_is_advised_unless_another_is_noticeably_faster():
    pinned = measured("", "Prescott", 10, 10, 10)
    unset = measured("unset OPENBLAS_CORETYPE", "SkylakeX", 97, 97, 97)
    forced = measured("export OPENBLAS_CORETYPE=Haswell", "Haswell", 100, 100, 100)
    pins = {"OPENBLAS_CORETYPE": "Prescott"}
    assert "`unset OPENBLAS_CORETYPE`" in judge([pinned, unset, forced], pins).remedy
    forced = measured("export OPENBLAS_CORETYPE=Haswell", "Haswell", 110, 110, 110)
    assert "`export OPENBLAS_CORETYPE=Haswell`" in judge([pinned, unset, forced], pins).remedy


def test_faster_kernels_that_the_library_has_not_chosen_are_named():
    found = judge([measured("", "Nehalem", 20, 20, 20), HASWELL], {})
    assert found.severity == "warning"
    assert found.remedy.startswith("`export OPENBLAS_CORETYPE=Haswell` makes it 4.3 times as fast")


def test_kernels_that_are_faster_for_some_shapes_only_are_noted():
    other = measured("export OPENBLAS_CORETYPE=Haswell", "Haswell", 50, 220, 230)
    found = judge([SKYLAKE, other], {})
    assert found.severity == "note"
    assert "1.1 times as fast for 128x784x128 alone" in found.remedy


def test_real_kernels_deliver_something():
    library, products = examine()
    assert library.severity == "ok"
    assert "in use" in products.figures
    for rates in products.figures.values():
        (by_shape,) = rates.values()
        assert list(by_shape) == list(SHAPES)
        assert all(rate > 0 for rate in by_shape.values())
