"""What a benchmark of augmentation has measured."""

from dataclasses import dataclass

from lockstep.bench.spread import paired_ratios

# Without any.
PLAIN = "none"


@dataclass(frozen=True)
class AugmentationMeasurement:
    """One network.

    Parameters
    ----------
    network : str
        Its widths.
    num_parameters, global_batch_size, num_steps : int
        What was measured.
    step_s : dict of str to list of float
        Seconds of a step, by kind of augmentation and round.
    """

    network: str
    num_parameters: int
    global_batch_size: int
    num_steps: int
    step_s: dict[str, list[float]]

    def costs(self, kind: str) -> list[float]:
        """Return by how much of a plain step a kind makes it longer, by round."""
        ratios = paired_ratios(self.step_s[kind], self.step_s[PLAIN])
        return [ratio - 1.0 for ratio in ratios]
