"""The import rules: downwards only, and mpi4py in one file."""

import ast
from pathlib import Path

import lockstep

SOURCE = Path(lockstep.__file__).parent
# From the top. A room may import what stands below its own line, never beside or above it.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"bench", "doctor", "cluster", "search"},
    {"options"},
    {"train"},
    {"report"},
    {"nn", "optim", "data", "parallel", "storage"},
    {"config"},
    {"errors", "files", "streams", "arrays", "resources"},
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# The trainer and the pages both stand on the rooms in the middle, but not on each other, and
# only the trainer needs the configuration.
FORBIDDEN = {("train", "report"), *((room, "config") for room in LAYERS[5] | {"report"})}
# The doctor looks at the machine, not at trainings.
FORBIDDEN |= {("doctor", room) for room in ("report", "nn", "optim", "storage", "config")}


def imports():
    """Yield (file, room, imported module) for every import in the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from ((path, room, name) for name in names)
            elif isinstance(node, ast.Import):
                yield from ((path, room, alias.name) for alias in node.names)


def test_rooms_import_downwards_only():
    wrong = []
    for path, room, module in imports():
        package, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if package != "lockstep" or other in {"", "__version__", room} or room == "__init__":
            continue
        if LAYER_OF[other] <= LAYER_OF[room] or (room, other) in FORBIDDEN:
            wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong


def test_the_doctor_needs_nothing_of_a_training_but_its_fingerprint():
    names = {name for _, room, name in imports() if room == "doctor"}
    assert {name for name in names if name.startswith("lockstep.train")} == {
        "lockstep.train.fingerprint"
    }


def test_only_one_module_imports_mpi4py():
    importers = {path.relative_to(SOURCE).as_posix() for path, _, name in imports()
                 if name.split(".")[0] == "mpi4py"}  # fmt: skip
    assert importers == {"parallel/mpi.py"}


def test_networks_and_optimizers_need_numpy_alone():
    outside = {
        name.split(".")[0]
        for _, room, name in imports()
        if room in {"nn", "optim"} and name.split(".")[0] in {"h5py", "scipy", "sklearn", "torch"}
    }
    assert not outside


def test_learning_frameworks_are_for_the_peers_of_the_benchmarks_only():
    frameworks = {"torch", "jax", "tensorflow", "autograd", "keras"}
    importers = {path.parent for path, _, name in imports() if name.split(".")[0] in frameworks}
    assert importers <= {SOURCE / "bench" / "peers"}
