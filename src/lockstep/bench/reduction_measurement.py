"""What a benchmark of the reduction has measured."""

from dataclasses import dataclass

from lockstep.bench.spread import paired_ratios

KINDS = ("ordered", "mpi", "none")
RATIOS = (("ordered", "mpi"), ("ordered", "none"))


@dataclass(frozen=True)
class Measurement:
    """One network on one number of ranks.

    Parameters
    ----------
    network : str
        Its widths.
    num_parameters, global_batch_size, num_ranks, num_steps : int
        What was measured.
    is_crowded : bool
        Whether some ranks shared fewer cores than they were.
    step_s : dict of str to list of float
        Seconds of a step, by kind and round.
    ways : dict of str to list of str
        How gradients were added up, by kind and round.
    """

    network: str
    num_parameters: int
    global_batch_size: int
    num_ranks: int
    num_steps: int
    is_crowded: bool
    step_s: dict[str, list[float]]
    ways: dict[str, list[str]]

    def ratios(self, kind: str, other: str) -> list[float]:
        """Return how many times as long as the other kind a kind takes, by round."""
        return paired_ratios(self.step_s[kind], self.step_s[other])
