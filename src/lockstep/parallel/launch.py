"""Starting ranks, and knowing whether somebody else has started this process as one."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lockstep.errors import SharedError, UserError
from lockstep.parallel.crowding import STARTED_HERE
from lockstep.parallel.tree import block

# (rank, size) as launchers tell them. A process that srun starts has SLURM_STEP_NUM_TASKS; a
# batch script itself, which is no rank, only has SLURM_NTASKS.
_LAUNCHER_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "PMIX_SIZE"),
    ("MPI_RANKID", "MPI_NRANKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# A launcher that works tells its version within this time.
_VERSION_S = 10
_TERMINAL_WIDTH = "LOCKSTEP_TERMINAL_WIDTH"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LAUNCHERS = ("mpiexec", "srun")
# In a batch job, a launcher may use other hosts than this one without being told to.
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")


def launched_as(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the rank and the world size that the launcher of this process promises.

    Read from the environment, before any MPI library is loaded; (0, 1) when nobody promises
    anything.
    """
    for rank, size in _LAUNCHER_VARIABLES:
        if rank in environment and environment.get(size, "").isdigit():
            return int(environment[rank]), int(environment[size])
    return 0, 1


def refuse_ranks() -> None:
    """Refuse to do the same thing in several processes at once.

    Raises
    ------
    SharedError
        When a launcher has started more than one rank.
    """
    if launched_as()[1] > 1:
        raise SharedError("This command runs in one process: start it without mpiexec or srun.")


def rank_counts_of(text: str | None, world_size: int) -> list[int]:
    """Read the numbers of ranks that a command is to try.

    Parameters
    ----------
    text : str or None
        The option --ranks, such as "1,2,4". Without it 1 to 4, or what the launcher has started.
    world_size : int
        What the launcher has started.

    Raises
    ------
    UserError
        When the text holds something else.
    """
    if text is None:
        usual = [1, 2, 3, 4]
        return (
            usual if world_size == 1 else sorted({*usual, world_size} & set(range(world_size + 1)))
        )
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"--ranks {text}: numbers of ranks, please, such as 1,2,4.")
    return counts


@dataclass(frozen=True)
class Launch:
    """How to start ranks.

    Parameters
    ----------
    num_ranks : int
        How many.
    hosts : mapping of str to int
        The number of ranks by host; without any, they all run here.
    options : tuple of str
        More options for the launcher.
    launcher : str
        Its name, "mpiexec" or "srun".
    """

    num_ranks: int
    hosts: Mapping[str, int] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    launcher: str = "mpiexec"

    @classmethod
    def of_options(
        cls, num_ranks: int, hosts: str, options: str, launcher: str = "mpiexec"
    ) -> "Launch":
        """Return the launch that the command line asks for.

        Raises
        ------
        UserError
            When there are fewer ranks than hosts, hosts for srun, or options that no shell could
            read.
        """
        try:
            words = tuple(shlex.split(options))
        except ValueError as error:
            raise UserError(f"--launcher-options {options}: {error}.") from error
        names = [name.strip() for name in hosts.split(",") if name.strip()]
        if len(names) > num_ranks:
            raise UserError(
                f"--hosts names {len(names)} hosts, but there are {num_ranks} ranks (-n)."
            )
        counts = {name: len(block(i, len(names), num_ranks)) for i, name in enumerate(names)}
        if counts and launcher == "srun":
            raise UserError("--hosts is for mpiexec: srun takes the nodes of the job.")
        return cls(num_ranks, counts, words, launcher)

    @property
    def is_here(self) -> bool:
        """Whether all ranks are sure to run on this host."""
        is_plain = self.launcher == "mpiexec" and not (self.hosts or self.options)
        return is_plain and not any(name in os.environ for name in _JOB_VARIABLES)

    def on_hosts(self, hosts: Mapping[str, int]) -> "Launch":
        """Return the same launch on some hosts."""
        return replace(self, num_ranks=sum(hosts.values()), hosts=hosts)

    def command(
        self,
        arguments: list[str],
        variables: Mapping[str, str] | None = None,
        program: tuple[str, ...] = (sys.executable, "-m", "lockstep"),
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command that starts ranks of `lockstep ARGUMENTS...`, and its environment.

        mpiexec is to bind the ranks to no cores: on a quiet machine it gains nothing (step times
        of 2 ranks on 2 cores: 0.98 to 1.01 times as much), and of two trainings side by side, both
        would be bound to the same first cores. What srun does is the site's choice.

        Parameters
        ----------
        arguments : list of str
            The command line of each rank, without the program's name.
        variables : mapping of str to str, optional
            More for the ranks' environment.
        program : tuple of str
            Another program than Lockstep.

        Raises
        ------
        UserError
            When mpi4py finds no MPI library, or there is no launcher that belongs to it.
        """
        library = library_version()
        is_srun = self.launcher == "srun"
        start = _srun(library) if is_srun else [str(find_mpiexec(library))]
        own = {} if is_srun else {STARTED_HERE: str(self.num_ranks)}
        own |= variables or {}
        # One BLAS thread per rank, before NumPy loads; what the user has set is respected, on other
        # hosts too.
        if "OMP_NUM_THREADS" not in os.environ:
            own |= dict.fromkeys(_THREAD_VARIABLES, "1")
        own |= {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
        if sys.stdout.isatty():
            # The ranks only see a pipe, so tell them how wide the terminal at its end is.
            own[_TERMINAL_WIDTH] = str(shutil.get_terminal_size().columns)
        where: list[str] = []
        if library_family(library) == "Open MPI" and not is_srun:
            where, settings = self._open_mpi(own)
            own = settings | own
        elif not is_srun:
            where = self._placement("-hosts")
        count = ["-n", str(self.num_ranks)]
        command = [*start, *self.options, *where, *count, *program, *arguments]
        return command, {**os.environ, **own}

    def _open_mpi(self, own: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return Open MPI's options and the settings that the user's own take precedence over."""
        # It counts physical cores, and would refuse more ranks than those; and so it binds none.
        # Without "slot", all ranks would run on the first host.
        settings = {"PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe"}
        if os.geteuid() == 0:
            # In a container there is no other user.
            settings["OMPI_ALLOW_RUN_AS_ROOT"] = settings["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        where = self._placement("--host")
        if not self.is_here:
            # Only on this host do ranks see the environment.
            where += [word for name in own for word in ("-x", name)]
        return where, {name: os.environ.get(name, value) for name, value in settings.items()}

    def _placement(self, option: str) -> list[str]:
        hosts = ",".join(f"{host}:{count}" for host, count in self.hosts.items())
        return [option, hosts] if hosts else []


def start_ranks(launch: Launch, arguments: list[str]) -> None:
    """Replace this process by ranks of `lockstep ARGUMENTS...`; see `Launch.command`."""
    command, environment = launch.command(arguments)
    os.execve(command[0], command, environment)  # noqa: S606 - found beside the MPI library


def terminal_width() -> int | None:
    """Return the width of the terminal behind the launcher, if `start_ranks` has seen one."""
    width = os.environ.get(_TERMINAL_WIDTH, "")
    return int(width) if width.isdigit() else None


def library_version() -> str:
    """Return what the MPI library tells of itself.

    Raises
    ------
    UserError
        When mpi4py can't load one.
    """
    # In another process, since loading MPI here would make this one a rank.
    code = (
        "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; "
        "print(MPI.Get_library_version())"
    )
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        reason = found.stderr.strip().splitlines()
        raise UserError(
            f"No MPI library can be loaded ({reason[-1] if reason else 'it crashed'}), so no "
            "ranks can be started. Load your site's MPI module, or install one: "
            "pip install mpich. In one process, Lockstep needs none."
        )
    return found.stdout


def _srun(library: str) -> list[str]:
    """Return srun with what lets the ranks of an MPI library find each other.

    Raises
    ------
    UserError
        When there is no srun.
    """
    srun = shutil.which("srun")
    if srun is None:
        raise UserError(
            "There is no srun on the PATH: --launcher srun is for jobs of Slurm. Without it, "
            "Lockstep takes the mpiexec of the MPI library."
        )
    plugin = "pmix" if library_family(library) == "Open MPI" else "pmi2"
    # Ranks that are lost are the watchdogs' business: if Slurm killed the others at the first exit
    # that is not 0, they could not finish what they are at, and their exit code would be another.
    # And all are to see the environment, whatever the job had of it.
    return [srun, f"--mpi={plugin}", "--kill-on-bad-exit=0", "--export=ALL"]


def find_mpiexec(library: str) -> Path:
    """Return the first mpiexec of the library's family, this environment's own first.

    Raises
    ------
    UserError
        When there is none.
    """
    family = library_family(library)
    search_path = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", "")])
    for folder in search_path.split(os.pathsep):
        mpiexec = shutil.which("mpiexec", path=folder)
        if mpiexec and mpiexec_family(mpiexec) == family:
            return Path(mpiexec)
    raise UserError(
        f"mpi4py uses {library_name(library)}, but there is no mpiexec of {family} on the PATH. "
        "Start the ranks with your site's own launcher: mpiexec -n 4 lockstep train ..."
    )


def library_family(library: str) -> str:
    """Return the family of an MPI library, all of which share their launcher."""
    return "Open MPI" if "Open MPI" in library else "MPICH"


def library_name(library: str) -> str:
    """Return name and version of an MPI library without what else it tells of itself."""
    first_line = library.partition("\n")[0].strip("\0")
    return " ".join(first_line.partition(",")[0].split())


def mpiexec_family(mpiexec: str) -> str:
    """Return the family of the MPI libraries that a launcher belongs to; "" if it doesn't work."""
    try:
        told = subprocess.run(  # noqa: S603 - asks for its version only
            [mpiexec, "--version"], capture_output=True, text=True, check=True, timeout=_VERSION_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    # MPICH, Intel MPI and MVAPICH share the Hydra launcher and one binary interface.
    return "Open MPI" if "Open MPI" in told or "OpenRTE" in told or "prte" in told else "MPICH"
