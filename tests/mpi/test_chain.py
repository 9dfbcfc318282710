"""A run that is stopped and resumed over and over leaves the bits of one that never was."""

import json
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
# More ranks than cores is fine.
LARGEST = 6

CHAINS = {
    "ranks share the update": (200, {
        "epochs": "4", "virtual_ranks": "7", "global_batch_size": "16", "hidden_widths": "19",
        "checkpoint_every_steps": "7", "trace": "false",
    }),
    "every rank makes the whole update": (30, {
        "epochs": "3", "virtual_ranks": "6", "global_batch_size": "50", "hidden_widths": "33,9",
        "clip_norm": "0.5", "l2": "0.001", "optimizer": "nesterov", "learning_rate": "0.02",
        "dtype": "float64", "trace": "true",
    }),
    "all regularization": (40, {
        "epochs": "3", "virtual_ranks": "6", "global_batch_size": "48", "hidden_widths": "33,9",
        "normalization": "batch", "dropout": "0.3", "input_dropout": "0.1", "averaging": "last",
        "averaging_epochs": "1.5", "accumulation": "3", "label_smoothing": "0.1", "max_norm": "2",
        "l1": "0.0001", "shift": "1", "rotation": "10", "zoom": "0.1", "shear": "10",
        "elastic_strength": "5", "noise": "0.05", "erasing": "0.2", "checkpoint_every_steps": "7",
    }),
    # All ranks have all of the optimizer's state.
    "layers with rates of their own": (30, {
        "epochs": "3", "virtual_ranks": "6", "global_batch_size": "48", "hidden_widths": "33,9",
        "normalization": "layer", "optimizer": "lars", "learning_rate": "5",
        "learning_rate_scaling": "sqrt", "warmup_epochs": "0.7", "averaging": "exponential",
    }),
    "stopped early by the validation score": (30, {
        "epochs": "60", "virtual_ranks": "8", "global_batch_size": "37", "patience": "2",
        "optimizer": "adam", "learning_rate": "0.01", "schedule": "constant",
    }),
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_sessions_on_changing_ranks_leaves_no_trace(program, digits_file, name):
    num_sessions, options = CHAINS[name]
    program.timeout_s = 290
    done = program.on_ranks(
        LARGEST, PROGRAMS / "chain.py", "results", num_sessions, 1,
        json.dumps({"data": str(digits_file), **options}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert len(found["num_ranks"]) == num_sessions
    assert set(found["num_ranks"]) == set(range(1, LARGEST + 1))
    assert found["chain"] == found["whole"]
    traces = [program.folder / "results" / run / "trace.jsonl" for run in ("whole", "chain")]
    if options.get("trace") == "true":
        whole, chain = (trace.read_text().splitlines() for trace in traces)
        assert len(whole) == found["whole"]["summary"]["num_steps"]
        assert chain == whole
