"""What became of a run's jobs: a line for each submission and each start, in the run folder."""

import time
from typing import Any

from lockstep.storage.run_folder import RunFolder, append_json_line, read_json_lines


class History:
    """The jobs of a run.

    Parameters
    ----------
    folder : RunFolder
        The run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.jobs

    def submitted(self, scheduler: str, job: str, *, by_user: bool) -> None:
        """Take note of a submission, by a user or by the job before."""
        self._append({"event": "submitted", "scheduler": scheduler, "job": job, "by_user": by_user})

    def started(self, scheduler: str, job: str, step: int) -> None:
        """Take note of a start: how many steps had been saved then."""
        self._append({"event": "started", "scheduler": scheduler, "job": job, "step": step})

    def time_is_up(self, step: int) -> None:
        """Take note that the training has stopped by itself, for the job would have ended."""
        self._append({"event": "time is up", "step": step})

    def job(self) -> dict[str, Any] | None:
        """Return the newest line that tells of a job by `scheduler` and `job`."""
        lines = [line for line in self._lines() if "job" in line]
        return lines[-1] if lines else None

    @property
    def was_time_up(self) -> bool:
        """Whether that was the last thing that has happened."""
        lines = self._lines()
        return bool(lines) and lines[-1]["event"] == "time is up"

    def stands_still(self, step: int, job: str) -> bool:
        """Return whether the last restart began at this step, too, and so has led nowhere.

        Parameters
        ----------
        step : int
            Where the job would begin, or begin again.
        job : str
            Which one. The first start of one that a user has submitted is no restart.
        """
        begun: list[int] = []
        own: set[str] = set()
        for line in [*self._lines(), {"event": "now", "job": job}]:
            if line["event"] == "submitted" and not line["by_user"]:
                own.add(line["job"])
            elif line["event"] in {"started", "now"} and line["job"] not in own:
                begun.clear()
                own = {line["job"]}
            if line["event"] == "started":
                begun.append(line["step"])
        return len(begun) > 1 and begun[-1] == step

    def _lines(self) -> list[dict[str, Any]]:
        return read_json_lines(self._path) if self._path.exists() else []

    def _append(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(exist_ok=True)
        append_json_line(self._path, {**line, "time": time.time()})
