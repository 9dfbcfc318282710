"""What is asked of a scheduler: options, and a site's file."""

import pytest

from lockstep.cluster.request import JobRequest, job_request
from lockstep.cluster.schedulers import SCHEDULERS
from lockstep.cluster.script import job_script
from lockstep.errors import UserError

WORDS = {"name": "run", "script": "results/a run/job/script.sh", "job_folder": "results/a run/job",
         "programs": "/opt/venv/bin", "threads_per_rank": 1, "requeue": "until-done"}  # fmt: skip


def script(request, scheduler="slurm", **words):
    command = ["lockstep", "train", "--resume=results/a run"]
    return job_script(request, SCHEDULERS[scheduler], WORDS | words, command)


def test_options_win_over_the_sites_file_and_that_over_the_defaults(tmp_path):
    site = tmp_path / "site.toml"
    site.write_text('partition = "batch"\nnodes = 4\nmodule = ["mpich", "python"]\n')
    given = {"nodes": 2, "time": "2-00:00:00", "partition": None, "module": ()}
    request = job_request(given, site)
    assert request == JobRequest(
        nodes=2, partition="batch", module=("mpich", "python"), time="2-00:00:00"
    )
    assert job_request({}, tmp_path / "none.toml") == JobRequest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin = 'x'", "partitoin: no such field; did you mean partition"),
        ("nodes = 'two'", "nodes: Expected int, got str"),
        ("nodes = 0", "nodes: Expected int >= 1"),
        ("scheduler = 'lsf'", "scheduler: Invalid enum value 'lsf', possible are slurm and pbs."),
        ("module = 'mpich'", "module: Expected array, got str."),
        ("time = 'soon'", "time: 'soon' is no"),
        ("option = ['a\\nb']".replace("'", '"'), "option: one line"),
        ("nodes = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_sites_file_is_named(tmp_path, text, message):
    site = tmp_path / "site.toml"
    site.write_text(text)
    with pytest.raises(UserError) as caught:
        job_request({}, site)
    assert message in str(caught.value)
    assert str(site) in str(caught.value)


def test_a_script_of_slurm_has_what_was_asked_for():
    request = JobRequest(
        nodes=2, ranks_per_node=16, time="1-00:30:00", partition="batch", account="me",
        memory_per_node_mb=4000, module=("mpich/4",), setup=("ulimit -l unlimited",),
        option=("--constraint=ib",),
    )  # fmt: skip
    lines = script(request, threads_per_rank=2).splitlines()
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=16",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --time=24:30:00",
        "#SBATCH --partition=batch",
        "#SBATCH --account=me",
        "#SBATCH --mem=4000M",
        "#SBATCH --constraint=ib",
        "#SBATCH --output='results/a run/job/log-%j.txt'",
        "module load mpich/4",
        "ulimit -l unlimited",
        "exec lockstep train '--resume=results/a run' \\",
        '    -n "$SLURM_NTASKS" --launcher srun --restarts 2 --requeue until-done',
    ):
        assert line in lines
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    # Slurm reads no directive after the first command.
    assert max(directives) < first_command


def test_what_was_not_asked_for_is_left_to_the_site():
    text = script(JobRequest())
    assert not any(word in text for word in ("--partition", "--account", "--mem", "module"))


def test_a_site_may_have_templates_of_its_own(tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("#!/bin/sh\n{{ nodes }} {{ launcher }} {{ walltime }}\n")
    assert script(JobRequest(template=str(own))) == "#!/bin/sh\n1 srun 01:00:00\n"
    own.write_text("{{ scheduler }}")
    assert script(JobRequest(template=str(own)), "pbs") == "pbs"
    own.write_text("{{ nodes")
    with pytest.raises(UserError, match=r"own.jinja won't do: unexpected end of .*[^.]\.$"):
        script(JobRequest(template=str(own)))
    own.write_text("{{ nodse }}")
    with pytest.raises(UserError, match=r"own.jinja won't do: 'nodse' is undefined"):
        script(JobRequest(template=str(own)))
    with pytest.raises(UserError, match="Can't read the template"):
        script(JobRequest(template=str(tmp_path / "none")))
    own.write_text("{{ nodes / name }}")
    with pytest.raises(UserError, match=r"own.jinja won't do: unsupported operand"):
        script(JobRequest(template=str(own)))
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="Can't read the template"):
        script(JobRequest(template=str(own)))


def test_a_percent_sign_is_none_of_slurms_own():
    text = script(JobRequest(), job_folder="results/10%j/job")
    assert "#SBATCH --output=results/10%%j/job/log-%j.txt\n" in text
