"""What a comparison of step times has measured."""

from dataclasses import dataclass
from statistics import median

from lockstep.bench.contestants import LOCKSTEP, PRODUCTS
from lockstep.bench.spread import paired_ratios

_PYTORCH = "PyTorch"


@dataclass(frozen=True)
class StepMeasurement:
    """One network, trained by all.

    Parameters
    ----------
    network, activation : str
        Its widths, and what its hidden layers do.
    num_parameters, global_batch_size : int
        What was measured.
    num_flops : int
        Multiplications and additions in the matrix products of a step.
    num_steps : dict of str to int
        Steps of a round, by contestant.
    step_s : dict of str to list of float
        Seconds of a step, by contestant and round; `PRODUCTS` has those of the products alone.
    num_cores : dict of str to float
        Seconds of processor time per second, by contestant.
    absent : dict of str to str
        Why a peer took no part.
    """

    network: str
    activation: str
    num_parameters: int
    global_batch_size: int
    num_flops: int
    num_steps: dict[str, int]
    step_s: dict[str, list[float]]
    num_cores: dict[str, float]
    absent: dict[str, str]

    def ratios(self, contestant: str) -> list[float]:
        """Return how many times as long as Lockstep a contestant takes, by round."""
        return paired_ratios(self.step_s[contestant], self.step_s[LOCKSTEP])

    def fractions(self, contestant: str) -> list[float]:
        """Return how much of its time the products alone would have taken, by round."""
        return paired_ratios(self.step_s[PRODUCTS], self.step_s[contestant])

    def samples_per_s(self, contestant: str) -> float:
        """Return the samples that are trained on in a second, of the median round."""
        return self.global_batch_size / median(self.step_s[contestant])

    def flops_per_s(self, contestant: str) -> float:
        """Return multiplications and additions in a second, of the median round."""
        return self.num_flops / median(self.step_s[contestant])

    @property
    def better_pytorch(self) -> str | None:
        """The faster mode of PyTorch by the medians; None where there is none."""
        modes = [name for name in self.step_s if name.startswith(_PYTORCH)]
        return min(modes, key=lambda name: median(self.step_s[name]), default=None)
