from lockstep.doctor.findings import Finding, are_usable, content, summary


def test_a_finding_is_told_as_a_paragraph_a_table_and_a_remedy():
    finding = Finding("warning", "BLAS", "Slow:\n  a   b\n  1   2", "Do this.")
    assert str(finding).splitlines() == [
        "  \x1b[33mwarning  \x1b[0mSlow:",
        "             a   b",
        "             1   2",
        "           -> Do this.",
    ]


def test_long_texts_are_wrapped_but_commands_keep_their_hyphens():
    remedy = "words " * 14 + "mpiexec --map-by core --bind-to core"
    lines = str(Finding("note", "Ranks", "text", remedy)).splitlines()
    assert all(len(line) <= 100 for line in lines[1:])
    assert any("--map-by" in line for line in lines)
    assert lines[2].startswith(" " * 14)


def test_only_what_is_broken_makes_a_machine_unusable():
    fine = [Finding(severity, "x", "y") for severity in ("ok", "note", "warning")]
    assert are_usable(fine)
    broken = [*fine, Finding("broken", "x", "y", figures={"seconds": 1.5})]
    assert not are_usable(broken)
    assert summary(broken) == "4 findings: 1 broken, 1 to mend, 1 to note."
    assert summary(fine[:1]) == "1 finding: all is fine."
    told = content(broken)
    assert told["usable"] is False
    assert told["findings"][3] == {
        "severity": "broken", "topic": "x", "text": "y", "remedy": "", "figures": {"seconds": 1.5},
    }  # fmt: skip
