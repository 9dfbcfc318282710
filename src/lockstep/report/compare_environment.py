"""What two runs were trained with: settings that define them, and environments that may matter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lockstep.report.compare_bits import FirstDifference
from lockstep.report.compare_runs import FieldDifference, Run, differing
from lockstep.report.labels import shorten

Fields = list[FieldDifference]

# Settings that change no bits of the steps that both runs take. The data themselves have a digest.
_HARMLESS_SETTINGS = {
    "data", "stage", "patience", "checkpoint_every_steps", "checkpoint_every_minutes",
    "keep_checkpoints", "replica_check_every", "trace",
}  # fmt: skip
# The learning rate of these doesn't depend on the number of epochs; that of any other does.
_ENDLESS_SCHEDULES = {"constant", "step"}
# Harmless for the ordered sum only.
_OF_THE_SUM = {"ranks", "hosts", "MPI library", "way of summing"}
_FLAGS_WIDTH = 100
# Of a session, on which its learning rate may depend.
_EPOCHS = "epochs asked for"


def compare_settings(a: Run, b: Run) -> tuple[Fields, Fields]:
    """Return the settings that differ: those that define the result, and the harmless ones."""
    harmless = set(_HARMLESS_SETTINGS)
    if _have_endless_schedules(a, b):
        harmless.add("epochs")
    datasets = [run.facts.get("dataset") or {} for run in (a, b)]
    contents = [{"data set": dataset.get("content_sha256")} for dataset in datasets]
    return _split([*differing(*contents), *differing(a.settings, b.settings)], harmless)


def compare_environments(a: Run, b: Run, before: float) -> tuple[Fields, Fields]:
    """Return what differs: what bits may depend on, the likeliest first, and the harmless.

    Sessions that began later than `before`, the step of the first difference, are left out.
    """
    sessions = [run.sessions(before) for run in (a, b)]
    critical, harmless = (
        list(differing(*(_history(told, fields) for told in sessions)))
        for fields in (_critical_fields, _harmless_fields)
    )
    if _have_endless_schedules(a, b):
        critical = [field for field in critical if field.name != _EPOCHS]
    critical += _compare_flags(a, b)
    if _is_left_to_mpi(a, b):
        harmless, of_the_sum = _split(harmless, _OF_THE_SUM)
        critical += of_the_sum
    return critical, harmless


def likely_causes(a: Run, b: Run, environment: Fields, first: FirstDifference) -> Fields:
    """Return what may have caused a difference: sums left to MPI, the environment, a resumption."""
    causes = environment
    if first.kind == "data order":
        # It comes from the random numbers alone.
        causes = [field for field in causes if field.name in {"NumPy", "Lockstep"}]
    elif _is_left_to_mpi(a, b):
        order = FieldDifference("reduction", "mpi: any two starts may add up in another order")
        causes = [order, *causes]
    elif first.kind == "parameters" and first.step == first.same_until + 1:
        # The optimizer computes without BLAS.
        causes = [field for field in causes if "BLAS" not in field.name]
    return causes or [
        FieldDifference("resumption", f"of {run.name} after step {session['step']}")
        for run in (a, b)
        for session in run.sessions(first.step)[1:]
        if session["step"] >= first.same_until
    ]


def _split(fields: Fields, names: set[str]) -> tuple[Fields, Fields]:
    """Return the fields of other names, and those of the given ones."""
    others = [field for field in fields if field.name not in names]
    return others, [field for field in fields if field.name in names]


def _is_left_to_mpi(a: Run, b: Run) -> bool:
    """Tell whether the MPI library chose the order of the sums."""
    return "mpi" in {a.settings.get("reduction"), b.settings.get("reduction")}


def _have_endless_schedules(a: Run, b: Run) -> bool:
    return all(run.settings.get("schedule") in _ENDLESS_SCHEDULES for run in (a, b))


def _critical_fields(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return what bits may depend on, the likeliest causes first."""
    blas, machine, versions = (session.get(key) or {} for key in ("blas", "machine", "versions"))
    return {
        _EPOCHS: session.get("epochs"),
        "BLAS kernel": _counted(session.get("kernels")),
        "BLAS threads": blas.get("threads"),
        "BLAS variables": _pinned(blas, of_threads=False),
        "NumPy": versions.get("numpy"),
        "Lockstep": versions.get("lockstep"),
        "system": machine.get("system"),
        "processor": machine.get("processor"),
    }


def _harmless_fields(session: Mapping[str, Any]) -> dict[str, Any]:
    versions = session.get("versions") or {}
    return {
        "ranks": session.get("world_size"),
        "hosts": _counted(session.get("hosts")),
        "MPI library": versions.get("mpi"),
        "way of summing": session.get("reduction"),
        "thread variables": _pinned(session.get("blas") or {}, of_threads=True),
        "Python": versions.get("python"),
        "h5py": versions.get("h5py"),
        "mpi4py": versions.get("mpi4py"),
    }


def _counted(ranks: Mapping[str, int] | None) -> str | None:
    """Return the names that ranks are counted under, with the counts where there are several."""
    if not ranks or len(ranks) == 1:
        return "".join(ranks or ()) or None
    return ", ".join(f"{name} ({count})" for name, count in sorted(ranks.items()))


def _pinned(blas: Mapping[str, Any], *, of_threads: bool) -> str | None:
    """Return the variables that set the number of threads, or those that pin kernels."""
    if "pinned" not in blas:
        return None
    # What OPENBLAS_CORETYPE has led to, the kernel tells.
    chosen = [
        f"{name}={value}"
        for name, value in sorted(blas["pinned"].items())
        if name.endswith("_NUM_THREADS") == of_threads and name != "OPENBLAS_CORETYPE"
    ]
    return " ".join(chosen) or "none"


def _history(
    sessions: Sequence[Mapping[str, Any]], fields: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, str]:
    """Return each field's text: its value, and with the steps what resumptions have changed."""
    texts: dict[str, str] = {}
    newest: dict[str, Any] = {}
    for session in sessions:
        for name, value in fields(session).items():
            if value is not None and value != newest.get(name):
                known = f"{texts[name]}, after step {session['step']} " if name in texts else ""
                texts[name], newest[name] = f"{known}{value}", value
    return texts


def _compare_flags(a: Run, b: Run) -> Iterator[FieldDifference]:
    """Compare what the processors of the first sessions can do: code is chosen by it."""
    texts = [(run.facts.get("machine") or {}).get("cpu_flags") or "" for run in (a, b)]
    one, other = (set(text.split()) for text in texts)
    if one and other and one != other:
        own = [
            shorten(" ".join(sorted(flags)), _FLAGS_WIDTH) for flags in (one - other, other - one)
        ]
        yield FieldDifference("CPU flags of one only", " | ".join(flags or "none" for flags in own))
