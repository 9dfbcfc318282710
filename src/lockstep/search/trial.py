"""One trial of a search: a training that can be left and gone on with at any time."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lockstep.config import Config
from lockstep.data.dataset_file import DatasetInfo
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_root
from lockstep.search.standings import Standing, standing_of
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder
from lockstep.train.nonfinite import DivergedError
from lockstep.train.requests import Requests
from lockstep.train.run import resume_training, run_training


@dataclass(frozen=True)
class Trial:
    """An ordinary run, but that its test split is not looked at.

    Parameters
    ----------
    number : int
        Among the trials.
    options : dict of str to str
        What sets it apart from the others.
    config : Config
        All of it.
    info : DatasetInfo
        What it trains on.
    steps_per_epoch : int
        Of its training.
    results : Path
        Where the trials' run folders are.
    """

    number: int
    options: dict[str, str]
    config: Config
    info: DatasetInfo
    steps_per_epoch: int
    results: Path

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"trial-{self.number:04d}"

    @property
    def folder(self) -> RunFolder:
        """Its run folder, which may not be there yet."""
        return RunFolder(self.results / self.name)

    @property
    def _diverged(self) -> Path:
        return self.folder.path / "diverged.txt"

    def standing(self, epochs: int) -> Standing:
        """Return how it stood after so many epochs, or at its end if that comes before."""
        has_diverged = self._diverged.exists()
        return standing_of(
            self.number, self.folder, self._within(epochs), has_diverged=has_diverged
        )

    def _within(self, epochs: int) -> int:
        return min(epochs, self.config.training.epochs)

    def train(self, communicator: Communicator, epochs: int) -> None:
        """Train up to an epoch, or its end, from wherever it is; collective.

        It is stopped there with the learning rate that it has, and goes on later, so it is the
        same training as one that was never stopped. One that diverges has come to its end.
        """
        state = self._prepare(communicator, epochs)
        if state == "done":
            return
        requests = Requests(stop_after=self._last_step(epochs), tests=False)
        try:
            if state == "begun":
                resume_training(self.folder.path, {}, communicator, requests, quiet=True)
            else:
                run_training(
                    self.config, communicator, self.results, self.name, requests, quiet=True
                )
        except DivergedError as error:
            message = f"{error}\n"
            on_root(communicator, lambda: self._diverged.write_text(message, encoding="utf-8"))

    def _last_step(self, epochs: int) -> int:
        return self._within(epochs) * self.steps_per_epoch

    def _prepare(self, communicator: Communicator, epochs: int) -> str:
        """Return whether it is "new", "begun" or "done", on all ranks; collective."""

        def look() -> str:
            if self._diverged.exists():
                return "done"
            if self.folder.config.is_file():
                return "done" if self._has_come_to(epochs) else "begun"
            # Whoever made the folder was killed before anything was in it.
            shutil.rmtree(self.folder.path, ignore_errors=True)
            return "new"

        return communicator.gather_texts(on_root(communicator, look) or "")[0]

    def _has_come_to(self, epochs: int) -> bool:
        """Whether its checkpoint and its scores are both from there, or later."""
        saved_step = CheckpointStore(self.folder.checkpoints).newest_step()
        is_scored = self.standing(epochs).epochs == self._within(epochs)
        return saved_step >= self._last_step(epochs) and is_scored
