"""What a comparison of numbers of ranks has measured."""

from dataclasses import dataclass
from statistics import median

from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.spread import paired_ratios

# The same global batch on all numbers of ranks; and a global batch for each rank. On one rank,
# both are the same.
STRONG, WEAK, BOTH = "strong", "weak", "both"
DDP = "PyTorch-DDP"
# Where the time of a step goes.
PHASES = ("compute", "reduce", "update", "data", "wait", "other")


@dataclass(frozen=True)
class ScalingMeasurement:
    """One network on one number of ranks.

    Parameters
    ----------
    network, activation : str
        Its widths, and what its hidden layers do.
    num_parameters : int
        Of the network.
    scaling : str
        `STRONG`, `WEAK`, or `BOTH` on one rank.
    num_ranks, global_batch_size, one_rank_batch_size : int
        What was measured, and the global batch size on one rank.
    is_crowded : bool
        Whether some ranks shared fewer cores than they were.
    num_steps : dict of str to int
        Steps of a round, by contestant.
    step_s, one_rank_step_s : dict of str to list of float
        Seconds of a step on these ranks and on one, by contestant and round.
    phase_s : dict of str to list of list of float
        Seconds of Lockstep's step, by phase, round and rank.
    absent : dict of str to str
        Why a peer took no part.
    """

    network: str
    activation: str
    num_parameters: int
    scaling: str
    num_ranks: int
    global_batch_size: int
    one_rank_batch_size: int
    is_crowded: bool
    num_steps: dict[str, int]
    step_s: dict[str, list[float]]
    one_rank_step_s: dict[str, list[float]]
    phase_s: dict[str, list[list[float]]]
    absent: dict[str, str]

    def speed_ups(self, contestant: str) -> list[float]:
        """Return how many times as many samples a second as on one rank there are, by round."""
        work = self.global_batch_size / self.one_rank_batch_size
        ratios = paired_ratios(self.one_rank_step_s[contestant], self.step_s[contestant])
        return [work * ratio for ratio in ratios]

    def ratios(self, contestant: str) -> list[float]:
        """Return how many times as long as Lockstep a contestant takes, by round."""
        return paired_ratios(self.step_s[contestant], self.step_s[LOCKSTEP])

    def phase_by_rank(self, phase: str) -> list[float]:
        """Return the seconds of a phase in a step, by rank: the median of the rounds."""
        return [median(rounds) for rounds in zip(*self.phase_s[phase], strict=True)]
