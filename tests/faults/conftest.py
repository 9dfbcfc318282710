"""The ledger of faults: what was injected, how long it took to end, and how it ended."""

import json
import os
from pathlib import Path

import pytest

from lockstep.parallel.launch import library_family, library_version


class Ledger:
    """Appends a line of JSON for each fault to the file that LOCKSTEP_LEDGER names, if any.

    `tests/faults/reliability.py` makes a table of them.
    """

    def __init__(self):
        self._path = os.environ.get("LOCKSTEP_LEDGER")

    def record(self, **facts):
        if self._path:
            facts["library"] = library_family(library_version())
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")


@pytest.fixture(scope="session")
def ledger():
    return Ledger()
