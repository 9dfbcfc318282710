"""Numbers gone bad: they are noticed, located, and left out where that is asked for."""

import numpy as np
import pytest

from lockstep.config import load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.nn.mlp import MLP, Workspace
from lockstep.optim.gradients import is_finite
from lockstep.parallel.single import LocalReduction, SingleProcess
from lockstep.train.gradient import NOTES_SHAPE, Backpropagation, Notes
from lockstep.train.nonfinite import DivergedError, find_bad_layers, find_origin
from lockstep.train.observers import Observer
from lockstep.train.steps import Part
from lockstep.train.trainer import Trainer

OPTIONS = {"virtual_ranks": "2", "epochs": "2", "hidden_widths": "6", "optimizer": "adam"}
STEPS_PER_EPOCH, NUM_ROWS = 23, 1437


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], True),
        # Their squares are infinite in float32, but they are not.
        ([3e38, 3e38], True),
        ([0.0, np.inf], False),
        ([-np.inf, np.inf], False),
        ([np.nan, 0.0], False),
    ],
)
def test_a_vector_is_finite_if_all_of_it_is(values, expected):
    assert is_finite(np.array(values, np.float32)) is expected


@pytest.mark.parametrize(
    ("first", "loss", "expected"),
    [(0.0, 2.5, True), (np.nan, 2.5, False), (np.inf, 2.5, False), (0.0, np.nan, False)],
)
def test_the_notes_tell_of_the_loss_and_of_the_backward_pass(first, loss, expected):
    vector = np.array([first, 1.0, 1.0, loss, 0.0, 2.0], np.float32)
    notes = Notes.of_sum(vector)
    assert (notes.is_finite, notes.save, notes.stop) == (expected, False, True)


def gelu_pass():
    """Return a pass over two virtual ranks; the second one's GELU overflows going back.

    z = 2e13 there, of which the cube is infinite in float32: the derivative is inf * 0.
    """
    network = MLP((2, 3, 2), "gelu", "cross_entropy")
    parameters = np.full(network.num_parameters, 0.5, np.float32)
    workspace = Workspace(network, 2, 1, np.float32)
    workspace.inputs[:] = [[[1.0, 0.0]], [[4e13, 0.0]]]
    workspace.labels[:] = 1
    return network, Backpropagation(network, parameters, workspace)


def test_an_overflow_in_the_backward_pass_is_noticed_though_the_loss_is_finite():
    network, backpropagate = gelu_pass()
    reduction = LocalReduction(2, [*network.layer_shapes, NOTES_SHAPE], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        backpropagate(reduction, 2, None, Part(0, 0))
        notes = Notes.of_sum(reduction.reduce_scatter())
        assert np.isfinite(notes.loss)
        assert not notes.is_finite
        stages = backpropagate.stages(reduction, 2, None, Part(0, 0))
        origin = find_origin(SingleProcess(), range(2), stages)
    assert (
        origin == "the gradient of layer 1 of virtual rank 1 (rank 0); the samples there are finite"
    )


class Ranks(SingleProcess):
    """The second of two ranks, whose first one has sent its rows."""

    rank, world_size = 1, 2

    def __init__(self, received):
        self.received = np.array(received)

    def gather_rows(self, rows):
        return np.concatenate([self.received, rows])


def test_the_first_bad_stage_of_the_lowest_bad_virtual_rank_is_the_origin():
    good, bad = np.zeros((2, 3)), np.array([[0, 0, 0], [0, np.inf, 0]])
    all_bad = np.full((2, 3), np.nan)
    stages = [("the samples", good), ("a", bad), ("b", all_bad)]

    def origin(*received):
        return find_origin(Ranks(received), range(2, 4), stages)

    # Virtual ranks 2 and 3 are bad from stages 2 and 1 on.
    assert origin([-1, 0], [-1, 0]) == (
        "b of virtual rank 2 (rank 1, and 1 more); the samples there are finite"
    )
    assert origin([-1, 0], [0, 0]) == "the samples of virtual rank 1 (rank 0, and 2 more)"
    finite = [("the samples", good)]
    assert find_origin(SingleProcess(), range(2), finite) == (
        "the sum over the virtual ranks, each of which is finite"
    )


def test_bad_parameters_are_told_by_layer_and_rank():
    network = MLP((2, 3, 2), "relu", "cross_entropy")
    parameters = np.zeros(network.num_parameters, np.float32)
    assert not find_bad_layers(SingleProcess(), network, parameters)
    parameters[-1] = np.nan
    assert find_bad_layers(SingleProcess(), network, parameters) == "the parameters of layer 2"
    assert find_bad_layers(Ranks([[False, False]]), network, parameters) == (
        "the parameters of layer 2 on rank 1"
    )
    assert find_bad_layers(Ranks([[True, False]]), network, parameters) == (
        "the parameters of layer 1, 2"
    )


class Watch(Observer):
    """Keeps the state after each step, and the epochs."""

    def __init__(self):
        self.trainer = None
        self.states = []
        self.loss_sums = []
        self.epochs = []
        self.num_saves = 0

    def checkpoint(self, snapshot):
        if not self.states:
            self.keep(snapshot.parameters, snapshot.optimizer_state)
        self.num_saves += 1
        self.optimizer_state = snapshot.optimizer_state

    def keep(self, parameters, optimizer_state):
        slots = sorted(optimizer_state)
        self.states.append(
            b"".join([parameters.tobytes(), *(optimizer_state[s].tobytes() for s in slots)])
        )

    def step_done(self):
        self.keep(self.trainer.parameters, self.optimizer_state)
        self.loss_sums.append(self.trainer.progress.loss_sum)

    def epoch_done(self, result):
        self.epochs.append(result)


def train(monkeypatch, digits_file, spoil, **options):
    """Train in one process and spoil gradients: `spoil` gets the step and those of a layer."""
    backward = Workspace.backward
    steps = iter(range(-1, 10_000))

    def spoiled(workspace, layers, gradients, factor, used=None):
        step = next(steps)
        for layer in backward(workspace, layers, gradients, factor, used):
            spoil(step, layer, gradients[layer])
            yield layer

    config = load_config(None, OPTIONS | {"data": str(digits_file)} | options)
    watch = Watch()
    with DatasetFile.open(digits_file) as dataset, np.errstate(all="ignore"):
        watch.trainer = Trainer(config, dataset, SingleProcess(), watch)
        monkeypatch.setattr(Workspace, "backward", spoiled)
        try:
            # One process makes no rehearsal.
            next(steps)
            watch.is_done = watch.trainer.train()
        finally:
            monkeypatch.undo()
    return watch


def nan_in_step(*bad_steps, layer=1):
    """Spoil one number, neither the first of the gradient nor any that others depend on."""

    def spoil(step, of_layer, gradients):
        if step in bad_steps and of_layer == layer:
            gradients[1, 2, 3] = np.nan

    return spoil


def test_a_skipped_step_leaves_every_bit_as_it_is(monkeypatch, digits_file):
    watch = train(monkeypatch, digits_file, nan_in_step(0, 5, 30), on_nonfinite="skip")
    assert watch.is_done
    unchanged = [step for step in range(46) if watch.states[step] == watch.states[step + 1]]
    assert unchanged == [0, 5, 30]
    assert watch.trainer.progress.num_skipped_steps == 3
    assert [epoch.num_skipped_steps for epoch in watch.epochs] == [2, 3]
    assert watch.trainer.progress.step == 46


def test_a_step_whose_variances_are_infinite_is_skipped_though_its_gradient_is_finite(
    monkeypatch, digits_file
):
    write, steps = Workspace.write_statistics, iter(range(46))

    def spoiled(workspace, weights, out):
        write(workspace, weights, out)
        if next(steps) == 5:
            out[1, -1] = np.inf

    monkeypatch.setattr(Workspace, "write_statistics", spoiled)
    options = {"on_nonfinite": "skip", "normalization": "batch"}
    watch = train(monkeypatch, digits_file, nan_in_step(), **options)
    assert watch.states[5] == watch.states[6]
    assert watch.trainer.progress.num_skipped_steps == 1
    assert watch.is_done


def test_a_skipped_step_is_no_part_of_the_mean_loss(monkeypatch, digits_file):
    watch = train(monkeypatch, digits_file, nan_in_step(4, 22), on_nonfinite="skip")
    assert watch.loss_sums[4] == watch.loss_sums[3] > 0
    # 22 steps have 64 samples, the last one has 29.
    assert NUM_ROWS == 22 * 64 + 29
    assert watch.epochs[0].train_loss == watch.loss_sums[22] / (NUM_ROWS - 64 - 29)
    assert watch.epochs[1].train_loss == watch.loss_sums[45] / NUM_ROWS


def test_steps_go_on_by_the_schedule_whether_skipped_or_not(monkeypatch, digits_file):
    options = {"optimizer": "sgd", "schedule": "cosine", "learning_rate": "0.1"}
    good = train(monkeypatch, digits_file, nan_in_step(), on_nonfinite="stop", **options)
    skipped = train(monkeypatch, digits_file, nan_in_step(0), on_nonfinite="skip", **options)
    assert [epoch.lr for epoch in skipped.epochs] == [epoch.lr for epoch in good.epochs]
    # Without bad numbers, it makes no difference what would be done about them.
    careful = train(monkeypatch, digits_file, nan_in_step(), on_nonfinite="skip", **options)
    assert careful.states == good.states
    assert skipped.states != good.states


def test_an_epoch_without_a_good_step_ends_the_training(monkeypatch, digits_file):
    all_of_the_second = nan_in_step(*range(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH))
    with pytest.raises(DivergedError, match=r"step 46 \(epoch 2, every step skipped\)"):
        train(monkeypatch, digits_file, all_of_the_second, on_nonfinite="skip")
    but_one = nan_in_step(*range(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH - 1))
    watch = train(monkeypatch, digits_file, but_one, on_nonfinite="skip")
    assert watch.trainer.progress.num_skipped_steps == 22


@pytest.mark.parametrize("layer", [0, 1])
def test_what_no_step_looks_at_is_noticed_in_the_next_one(monkeypatch, digits_file, layer):
    with pytest.raises(DivergedError) as caught:
        train(monkeypatch, digits_file, nan_in_step(6, layer=layer))
    message = str(caught.value)
    assert "at step 8 (epoch 1): the loss is nan, and what is infinite or not a number" in message
    assert f"begins in the parameters of layer {layer + 1} of virtual rank 0" in message
    assert "The checkpoint of step 0 is from before." in message


def test_bad_parameters_are_never_saved(monkeypatch, digits_file):
    with pytest.raises(DivergedError, match="at step 46: the parameters of layer 2 are infinite"):
        # Nothing comes after the last step that would show it, but for the evaluation.
        train(monkeypatch, digits_file, nan_in_step(45))
