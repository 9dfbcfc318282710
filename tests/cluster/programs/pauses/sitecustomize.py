"""A pause of LOCKSTEP_PAUSE_S seconds in every step, in ranks whose PYTHONPATH has this folder."""

import os
import time

if "LOCKSTEP_PAUSE_S" in os.environ:
    from lockstep.data.batches import Batches

    fill = Batches.fill

    def fill_slowly(batches, *arguments, **options):
        time.sleep(float(os.environ["LOCKSTEP_PAUSE_S"]))
        return fill(batches, *arguments, **options)

    Batches.fill = fill_slowly
