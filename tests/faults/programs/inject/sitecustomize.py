"""A fault in one rank in one step, in whatever way the ranks are started.

Every Python with this folder on its PYTHONPATH imports it. LOCKSTEP_FAULT names the rank, the
step, what happens there, and a file that tells when, separated by commas; several faults by
semicolons.
"""

import os
import signal
import threading
import time
from pathlib import Path

from lockstep.parallel.launch import launched_as


def endless(_):
    while True:
        pass


def slow(injection):
    # Ten steps that take a while, but not so long that anybody should worry.
    injection.steps.update(range(min(injection.steps), min(injection.steps) + 10))
    time.sleep(0.3)


def pause(_):
    """Have this process stopped for a while, as schedulers do."""
    number = os.getpid()
    if os.fork() == 0:
        time.sleep(1.5)
        os.kill(number, signal.SIGCONT)
        os._exit(0)
    os.kill(number, signal.SIGSTOP)


def fail(_):
    raise RuntimeError("the step broke")


def hang_in_evaluation(_):
    from lockstep.train.evaluation import Evaluation  # noqa: PLC0415 - only in this case

    Evaluation.score = lambda *_: threading.Event().wait()


FAULTS = {
    "hang in evaluation": hang_in_evaluation,
    "exception": fail,
    "SIGKILL": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGSTOP": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda _: os._exit(3),
    "sleep": lambda _: threading.Event().wait(),
    "endless loop": endless,
    "slow": slow,
    "pause": pause,
}


class Injection:
    """Counts the steps of the training and does in one of them what was asked for."""

    def __init__(self, step, fault, marker):
        self.steps, self.fault, self.marker = {step}, fault, Path(marker)
        self.num_begun = 0
        self.training = []
        self.make, self.fill = Batches.__init__, Batches.fill

    def install(self):
        injection = self

        def make(batches, dataset, split, *arguments, **options):
            injection.make(batches, dataset, split, *arguments, **options)
            if split == "train":
                injection.training.append(batches)

        def fill(batches, *arguments, **options):
            if batches in injection.training:
                injection.begin_step()
            return injection.fill(batches, *arguments, **options)

        Batches.__init__, Batches.fill = make, fill

    def begin_step(self):
        self.num_begun += 1
        if self.num_begun in self.steps:
            self.marker.touch()
            FAULTS[self.fault](self)


for entry in filter(None, os.environ.get("LOCKSTEP_FAULT", "").split(";")):
    rank, step, fault, marker = entry.split(",")
    # A run that is restarted or resumed has no second accident.
    if launched_as() != (0, 1) and launched_as()[0] == int(rank) and not Path(marker).exists():
        from lockstep.data.batches import Batches

        Injection(int(step), fault, marker).install()
