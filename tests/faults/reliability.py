# ruff: noqa: E501 - the lines of a page
"""Make the table of `results/reliability.md` from ledgers of the fault tests.

python tests/faults/reliability.py LEDGER... >results/reliability.md
"""

import json
import os
import platform
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import lockstep
from lockstep.train.fingerprint import machine

HEAD = """# Faults injected, and what became of them

Lockstep {version} on {processor}, {cores} cores, {system}, Python {python}. Made from the test suite's own records:

```
LOCKSTEP_LEDGER=ledger LOCKSTEP_SOAK_FAULTS=3 pytest tests/faults/test_watchdog.py tests/faults/test_survivors.py tests/faults/test_restarts.py tests/faults/test_failures.py
LOCKSTEP_LEDGER=ledger LOCKSTEP_SOAK_FUZZ=1 pytest tests/faults/test_fuzz.py
python tests/faults/reliability.py ledger >results/reliability.md
```

in one environment with MPICH's wheel, and without LOCKSTEP_SOAK_FAULTS in one with Open MPI's. Seconds are from the fault to the end of the last process
where the fault leaves a mark, and otherwise those of the whole job, its start included; the machine had other work too.
With `stall_timeout_s = 3`, a rank that hangs is noticed after three seconds.
"""
FAULTS = """
| fault | MPI | times | ranks | seconds, median (longest) | exit codes | messages | resumed or finished with the same bits |
|---|---|---|---|---|---|---|---|"""
FUZZ = """
## Mutated input

Each is read in a child process. "Wrong" is any exception that isn't Lockstep's own.

| input | cases | accepted | refused | wrong | crashed | hung | seconds |
|---|---|---|---|---|---|---|---|"""


def entries(paths):
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def row(fault, library, lines):
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    time = f"{median(seconds):.1f} ({max(seconds):.1f})" if seconds else ""
    bits = [line["same_bits"] for line in lines if "same_bits" in line]
    cells = [
        fault,
        library,
        len(lines),
        counts(line["ranks"] for line in lines),
        time,
        counts(line["exit_code"] for line in lines),
        counts(line["messages"] for line in lines),
        f"{sum(bits)} of {len(bits)}" if bits else "",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def counts(values):
    """Tell values, and how often each came where there are several."""
    found = sorted(Counter(values).items())
    if len(found) == 1:
        return str(found[0][0])
    return ", ".join(f"{value} ({number}x)" for value, number in found)


def main():
    by_fault, fuzz = defaultdict(list), []
    for entry in entries(sys.argv[1:]):
        if "cases" in entry:
            fuzz.append(entry)
        else:
            by_fault[entry["fault"], entry["library"]].append(entry)
    facts = machine()
    print(HEAD.format(
        version=lockstep.__version__, processor=facts["processor"], cores=os.cpu_count(),
        system=facts["system"], python=platform.python_version(),
    ).rstrip())  # fmt: skip
    print(FAULTS)
    for (fault, library), lines in sorted(by_fault.items()):
        print(row(fault, library, lines))
    if fuzz:
        print(FUZZ)
        for entry in fuzz:
            numbers = [
                entry[name] for name in ("cases", "accepted", "refused", "wrong", "crashed", "hung")
            ]
            cells = [
                entry["fault"],
                *(f"{number:,}" for number in numbers),
                f"{entry['seconds']:.0f}",
            ]
            print(f"| {' | '.join(cells)} |")


main()
