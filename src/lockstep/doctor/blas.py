"""The BLAS library: its kernels, what pins them, and whether others would be faster."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from lockstep.doctor.findings import Finding
from lockstep.train import fingerprint

_TOPIC = "BLAS"
_CORE_TYPE, _L2_SIZE = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"
_PINS = (_CORE_TYPE, _L2_SIZE)
# OpenBLAS's kernels for x86 that may be the fastest anywhere, and the CPU flags that they need.
_AVX2, _AVX512 = {"avx2", "fma"}, {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_KERNELS = {
    "Haswell": _AVX2,
    "Zen": _AVX2,
    "SkylakeX": _AVX512,
    "Cooperlake": _AVX512 | {"avx512_bf16"},
    "SapphireRapids": _AVX512 | {"avx512_bf16", "amx_tile"},
}
_NUM_ROUNDS = 4
# Less than this is not worth a word, and may be noise.
_NOTICEABLE = 1.05
_LIMIT_S = 10
_NOTE_ON_BITS = "Other kernels round differently: don't change them while a run goes on."
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measured:
    """A choice of kernels and what they deliver.

    Parameters
    ----------
    command : str
        What a user has to say to the shell for it; empty for things as they are.
    kernel : str
        The name that the library gives them.
    rates : dict of str to float
        GFLOP/s of one thread by shape, rows x inner length x columns.
    """

    command: str
    kernel: str
    rates: dict[str, float]

    @property
    def label(self) -> str:
        """What to call it in a table."""
        how = {"": " (in use)", "unset": " (no variable set)", "export": ""}
        return self.kernel + how[self.command.split(" ")[0]]

    def ratio(self, other: "Measured", shape: str) -> float:
        """Return how many times as fast it is for a shape."""
        return self.rates[shape] / other.rates[shape]

    def times_as_fast(self, other: "Measured") -> float:
        """Return the geometric mean of the ratios of the rates."""
        return geometric_mean([self.ratio(other, shape) for shape in self.rates])


def examine() -> Iterator[Finding]:
    """Yield what is found about the BLAS library of NumPy, in this process's environment."""
    own = fingerprint.blas()
    yield _library(own)
    measured = _measure(own)
    if measured:
        yield judge(measured, own["pinned"])
    else:
        yield Finding(
            "broken",
            _TOPIC,
            "Matrix products in another process failed.",
            f"Try `{sys.executable} -m lockstep.doctor.rates`, which tells why.",
        )


def _library(own: Mapping[str, object]) -> Finding:
    pinned = own["pinned"]
    pins = [f"{name}={value}" for name, value in pinned.items()] if isinstance(pinned, dict) else []
    text = (
        f"{own['library']} {own['version']} with kernels for {own['kernel']}; "
        f"{'set are ' + ', '.join(pins) if pins else 'no variable pins kernels or threads'}."
    )
    return Finding("ok", _TOPIC, text, figures=dict(own))


def judge(measured: Sequence[Measured], pinned: Mapping[str, str]) -> Finding:
    """Return whether other kernels would be noticeably faster.

    Parameters
    ----------
    measured : sequence of Measured
        Things as they are first.
    pinned : mapping of str to str
        The variables that are set.
    """
    current, *others = measured
    text = "\n".join(["Matrix products of one thread, in GFLOP/s:", *_table(measured)])
    figures = {one.command or "in use": {one.kernel: one.rates} for one in measured}
    fastest = max(measured, key=lambda one: one.times_as_fast(current))
    if fastest.times_as_fast(current) > _NOTICEABLE:
        # The library's own choice is the better advice if it is as good.
        unset = (one for one in others if one.command.startswith("unset"))
        best = next(one for one in (*unset, fastest) if fastest.times_as_fast(one) <= _NOTICEABLE)
        factor = best.times_as_fast(current)
        remedy = f"`{best.command}` makes it {factor:.2g} times as fast. {_NOTE_ON_BITS}"
        return Finding("warning", _TOPIC, text, _blame(pinned) + remedy, figures)
    for other in others:
        faster = [shape for shape in other.rates if other.ratio(current, shape) > _NOTICEABLE]
        if faster:
            factor = max(other.ratio(current, shape) for shape in faster)
            remedy = (
                f"`{other.command}` is up to {factor:.2g} times as fast for {' and '.join(faster)} "
                f"alone; with such layers, try it. {_NOTE_ON_BITS}"
            )
            return Finding("note", _TOPIC, text, remedy, figures)
    return Finding("ok", _TOPIC, text, figures=figures)


def _blame(pinned: Mapping[str, str]) -> str:
    pins = [f"{name}={pinned[name]}" for name in _PINS if name in pinned]
    if not pins:
        return ""
    return f"{' and '.join(pins)} {'are' if len(pins) > 1 else 'is'} set, which slows it down: "


def _table(measured: Sequence[Measured]) -> Iterator[str]:
    width = max(len(one.label) for one in measured)
    yield " " * width + "".join(f"{shape:>16}" for shape in measured[0].rates)
    for one in measured:
        yield f"{one.label:{width}}" + "".join(f"{rate:16.1f}" for rate in one.rates.values())


def _measure(own: Mapping[str, object]) -> list[Measured]:
    """Measure all choices in turns, so that what disturbs a round disturbs all of them alike."""
    best: dict[str, Measured] = {}
    choices = _choices(own)
    for _ in range(_NUM_ROUNDS):
        for command, (wanted, environment) in list(choices.items()):
            found = _run(command, wanted, environment)
            if found is None or _is_known(found, best):
                # The library hasn't got these, or has chosen them itself in another line.
                del choices[command]
                continue
            before = best.get(command, found).rates
            rates = {shape: max(rate, before[shape]) for shape, rate in found.rates.items()}
            best[command] = Measured(command, found.kernel, rates)
    return list(best.values()) if "" in best else []


def _choices(own: Mapping[str, object]) -> dict[str, tuple[str, dict[str, str]]]:
    """Return kernel name ("" for any) and environment of each choice, by the user's command."""
    as_it_is = {**os.environ, **_ONE_THREAD}
    unpinned = {name: value for name, value in as_it_is.items() if name not in _PINS}
    choices = {"": ("", as_it_is)}
    if unpinned != as_it_is:
        choices[f"unset {' '.join(name for name in _PINS if name in as_it_is)}"] = ("", unpinned)
    if own["library"] == "openblas":
        flags = set(fingerprint.machine()["cpu_flags"].split())
        for kernel, needed in _KERNELS.items():
            if needed <= flags:
                environment = {**as_it_is, _CORE_TYPE: kernel}
                choices[f"export {_CORE_TYPE}={kernel}"] = (kernel, environment)
    return choices


def _is_known(found: Measured, best: Mapping[str, Measured]) -> bool:
    """Tell whether other commands lead to the same kernels already, and this one isn't needed."""
    return found.command.startswith("export") and any(
        one.kernel == found.kernel for command, one in best.items() if command != found.command
    )


def _run(command: str, wanted: str, environment: dict[str, str]) -> Measured | None:
    """Measure in another process; None if it fails or loads other kernels than wanted."""
    program = [sys.executable, "-m", "lockstep.doctor.rates", wanted]
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            program, env=environment, capture_output=True, text=True, check=True, timeout=_LIMIT_S
        )
    except subprocess.SubprocessError:
        return None
    told = json.loads(done.stdout)
    return Measured(command, told["kernel"], told["rates"]) if told["rates"] else None
