"""A stand-in for PBS: `qsub` validates a script's directives and runs it, `qstat -f` tells of it.

`qdel` ends it.

No PBS server is packaged, so this shows that scripts say what PBS documents, and what Lockstep
makes of the answers; not what a real server does. All nodes of a job are this host. State lies in
the folder PBS_STAND_IN.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["PBS_STAND_IN"])
TIME = re.compile(r"\d+:[0-5]\d:[0-5]\d")
CHUNK = re.compile(r"\d+(:(ncpus|mpiprocs|ompthreads)=[1-9]\d*|:mem=\d+(kb|mb|gb))*")
VALID = {
    # Later versions let dots pass, and six more characters.
    "-N": re.compile(r"[A-Za-z0-9_+-]{1,230}"),
    "-q": re.compile(r"workq|long"),
    "-A": re.compile(r"\S+"),
    "-j": re.compile(r"oe|eo|n"),
    "-o": re.compile(r".+"),
    "-r": re.compile(r"y|n"),
    "-v": re.compile(r"\w+(=[^,]*)?(,\w+(=[^,]*)?)*"),
    "-W": re.compile(r"depend=afterany:\d+\.server"),
}
RESOURCES = {
    "select": re.compile(rf"{CHUNK.pattern}(\+{CHUNK.pattern})*"),
    "place": re.compile(r"(free|pack|scatter|vscatter)(:(excl|shared|exclhost))?"),
    "walltime": TIME,
}
QUEUE_S, GRACE_S = 0.5, 10


def fail(message, code=1):
    print(message, file=sys.stderr)
    sys.exit(code)


def checked(words):
    """Return the options of directives or a command line, by name."""
    options = {}
    if len(words) % 2:
        fail("qsub: usage: qsub [-N name] [-l resource_list] ... [script]")
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == "-l":
            resource, _, text = value.partition("=")
            if resource not in RESOURCES:
                fail(f"qsub: Unknown resource: {resource}")
            if not RESOURCES[resource].fullmatch(text):
                fail(f"qsub: Illegal attribute or resource value: {value}")
            options[resource] = text
        elif name not in VALID:
            fail(f"qsub: invalid option -- '{name.lstrip('-')}'")
        elif name == "-q" and not VALID[name].fullmatch(value):
            fail("qsub: Unknown queue")
        elif not VALID[name].fullmatch(value):
            fail(f"qsub: illegal {name} value")
        else:
            options[name] = value
    return options


def directives(script):
    """Return the words of the directives, which end at the first command."""
    words = []
    for line in script.read_text().splitlines():
        if line.startswith("#PBS "):
            words += shlex.split(line.removeprefix("#PBS "))
        elif line and not line.startswith("#"):
            break
    return words


def qsub(*words):
    script = Path(words[-1])
    options = checked(directives(script)) | checked(words[:-1])
    number = f"{len(list(STATE.glob('*.json'))) + 1}.server"
    (STATE / f"{number}.sh").write_text(script.read_text())
    save(number, {"number": number, "options": options, "folder": str(Path.cwd()), "state": "Q"})
    subprocess.Popen(
        [sys.executable, __file__, "run", number], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(number)


def qstat(flag, number):
    if flag != "-f" or not (STATE / f"{number}.json").exists() or load(number)["state"] == "F":
        fail(f"qstat: Unknown Job Id {number}", 153)
    job = load(number)
    print(f"Job Id: {number}\n    Job_Name = {name_of(job)}\n    job_state = {job['state']}")
    if job["state"] == "R":
        start = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(job["start_s"]))
        print(f"    stime = {start}\n    exec_host = here/0*2")
    else:
        print("    comment = Not Running: waiting for nodes")
    print(f"    Resource_List.walltime = {job['options']['walltime']}")
    print("    Variable_List = PBS_O_HOME=/home/user,\n\tPBS_O_QUEUE=workq")


def qdel(number):
    if not (STATE / f"{number}.json").exists() or load(number)["state"] == "F":
        fail(f"qdel: Unknown Job Id {number}", 153)
    deletion_of(number).touch()


def deletion_of(number):
    """Return the file that tells of the wish to delete a job."""
    return STATE / f"{number}.deleted"


def run(number):
    job = load(number)
    options = job["options"]
    before = options.get("-W", "").removeprefix("depend=afterany:")
    while before and load(before)["state"] != "F":
        time.sleep(0.1)
    time.sleep(QUEUE_S)
    save(number, job | {"state": "R", "start_s": time.time()})
    chunks = re.findall(r"(\d+)((?::\w+=\w+)*)", options["select"])
    nodes = [("localhost", dict(re.findall(r"(\w+)=(\w+)", rest))) for n, rest in chunks
             for _ in range(int(n))]  # fmt: skip
    nodefile = STATE / f"{number}.nodes"
    nodefile.write_text("".join(f"{name}\n" * int(has.get("mpiprocs", 1)) for name, has in nodes))
    given = dict(pair.partition("=")[::2] for pair in options.get("-v", "").split(",") if pair)
    environment = {
        **os.environ,
        **given,
        "PBS_JOBID": number,
        "PBS_JOBNAME": name_of(job),
        "PBS_O_WORKDIR": job["folder"],
        "PBS_NODEFILE": str(nodefile),
        "OMP_NUM_THREADS": nodes[0][1].get("ompthreads", "1"),
    }
    output = Path(job["folder"], options.get("-o", "."))
    if output.is_dir():
        output /= f"{name_of(job)}.o{number.partition('.')[0]}"
    with output.open("w") as stream:
        process = subprocess.Popen(
            ["bash", STATE / f"{number}.sh"], env=environment, cwd="/", stdout=stream,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait(process, options["walltime"], deletion_of(number))
    save(number, load(number) | {"state": "F", "exit_code": process.returncode})


def wait(process, walltime, deletion):
    """Return when the job has ended, which it is told to when its time is up or it is deleted."""
    hours, minutes, seconds = map(int, walltime.split(":"))
    end = time.monotonic() + 3600 * hours + 60 * minutes + seconds
    while process.poll() is None and time.monotonic() < end and not deletion.exists():
        time.sleep(0.1)
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def name_of(job):
    return job["options"].get("-N", "STDIN")


def save(number, job):
    temporary = STATE / f".{number}"
    temporary.write_text(json.dumps(job))
    temporary.replace(STATE / f"{number}.json")


def load(number):
    return json.loads((STATE / f"{number}.json").read_text())


{"qsub": qsub, "qstat": qstat, "qdel": qdel, "run": run}[sys.argv[1]](*sys.argv[2:])
