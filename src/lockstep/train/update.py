"""The update of one step: the ranks share the making of it, and all of them apply it."""

import json
from dataclasses import replace

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.nn.mlp import MLP
from lockstep.optim.gradients import add_l1, add_l2, clip_norm, is_finite
from lockstep.optim.norms import limit_column_norms
from lockstep.optim.optimizers import Optimizer
from lockstep.optim.schedules import Schedule
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.train.clock import Clock
from lockstep.train.gradient import Notes
from lockstep.train.trace import layer_digests


class Update:
    """Takes the steps of a replica; collective, in its constructor too.

    Each rank adds up its own part of the gradient, makes that part of the update and keeps that
    part of the optimizer's state; then the parts are gathered. Where the whole gradient is wanted
    first, to be clipped, traced or left out, every rank makes all of the update. The bits are the
    same.

    An update that is not finite is not applied. The optimizer's state is only spared by it where
    such steps are to be skipped: then all of the gradient is looked at before anything is done.

    Parameters
    ----------
    config : Config
        Resolved.
    network : MLP
        Tells the layers.
    parameters : ndarray (num_parameters,)
        The replica, updated in place.
    optimizer : Optimizer
        Makes and applies the update.
    schedule : Schedule
        Of the learning rate.
    reduction : Reduction
        Of vectors that end with the notes.
    communicator : Communicator
        The ranks.

    Attributes
    ----------
    gradient_digests : list of str
        Of the last step's gradient, by layer, where a trace is asked for.

    References
    ----------
    S. Rajbhandari, J. Rasley, O. Ruwase, Y. He, "ZeRO: Memory Optimizations Toward Training
    Trillion Parameter Models", SC20 (2020), stage 1.
    """

    def __init__(
        self,
        config: Config,
        network: MLP,
        parameters: Array,
        optimizer: Optimizer,
        schedule: Schedule,
        reduction: Reduction,
        communicator: Communicator,
    ) -> None:
        self.gradient_digests: list[str] = []
        self._config = config
        self._network = network
        self._parameters = parameters
        self._trained = parameters[: network.num_trainable]
        self._optimizer = optimizer
        self._schedule = schedule
        self._reduction = reduction
        self._communicator = communicator
        self._is_skipping = config.training.on_nonfinite == "skip"
        wants_whole = config.optimization.clip_norm or config.training.trace or self._is_skipping
        # A rank that is lost would take its part of the optimizer's state along.
        self._is_shared = not (wants_whole or communicator.can_lose_ranks)
        size = network.num_trainable
        own = reduction.own if self._is_shared else [slice(0, size)]
        # Statistics and notes at the end of the vector are not the optimizer's.
        self._parts = [slice(min(part.start, size), min(part.stop, size)) for part in own]
        bounds = json.dumps([(part.start, part.stop) for part in self._parts])
        self._parts_by_rank = [
            [slice(*part) for part in json.loads(text)]
            for text in communicator.gather_texts(bounds)
        ]
        self._all_make_all = all(parts == [slice(0, size)] for parts in self._parts_by_rank)

    def __call__(self, step: int, clock: Clock) -> Notes:
        """Take the step, counted from 0, and return the notes of all virtual ranks; collective."""
        clock.enter("reduce")
        learning_rate = self._schedule(step)
        gradient = self._reduction.reduce_scatter() if self._is_shared else self._whole_gradient()
        clock.enter("update")
        self._add_penalty(gradient)
        if self._config.training.trace:
            self.gradient_digests = layer_digests(self._network, gradient)
        if self._all_make_all:
            notes = self._notes_of(gradient)
            if notes.is_finite:
                self._optimizer.step(self._trained, gradient, learning_rate, step)
                self._limit_norms()
                self._move_statistics(gradient)
            return notes
        for part in self._parts:
            self._optimizer.make_update(gradient, part, learning_rate, step)
        clock.enter("reduce")
        update = self._reduction.all_gather()
        clock.enter("update")
        notes = Notes.of_sum(update)
        if notes.is_finite:
            self._optimizer.apply(self._trained, update, learning_rate)
            self._limit_norms()
            self._move_statistics(update)
        return notes

    def _limit_norms(self) -> None:
        """Scale down the weights into each hidden unit that are longer than is allowed."""
        limit, widths = self._config.optimization.max_norm, self._network.widths
        if not limit:
            return
        hidden = self._network.weight_slices[:-1]
        for weights, width in zip(hidden, widths[1:-1], strict=True):
            limit_column_norms(self._trained[weights].reshape(-1, width), limit)

    def _move_statistics(self, vector: Array) -> None:
        """Move the running statistics of batch normalization towards those of the step.

        running <- momentum running + (1 - momentum) statistics (Ioffe and Szegedy 2015, section
        3.1).
        """
        if not self._network.num_statistics:
            return
        own = slice(self._network.num_trainable, self._network.num_parameters)
        running, change = self._parameters[own], vector[own] - self._parameters[own]
        running += (1.0 - self._config.network.normalization_momentum) * change

    def _notes_of(self, gradient: Array) -> Notes:
        notes = Notes.of_sum(gradient)
        if notes.is_finite and self._is_skipping:
            return replace(notes, is_finite=is_finite(gradient[: self._network.num_parameters]))
        return notes

    def _whole_gradient(self) -> Array:
        """Return the mean gradient, clipped where asked for, in memory of this rank's own."""
        self._reduction.reduce_scatter()
        gradient = self._reduction.all_gather().copy()
        limit = self._config.optimization.clip_norm
        if limit:
            clip_norm(gradient[: self._network.num_trainable], limit)
        return gradient

    def _add_penalty(self, gradient: Array) -> None:
        l1, l2 = self._config.optimization.l1, self._config.optimization.l2
        weights = self._network.weight_slices
        for part in self._parts:
            if l1:
                add_l1(gradient, part, self._trained, weights, l1)
            if l2:
                add_l2(gradient, part, self._trained, weights, l2)

    def collect_state(self) -> None:
        """Complete the root's optimizer state by the parts that other ranks have; collective."""
        root_makes_all = self._parts_by_rank[0] == [slice(0, self._network.num_trainable)]
        if root_makes_all or self._optimizer.keeps_whole_state:
            return
        for values in self._optimizer.state.values():
            own = [values[part] for part in self._parts]
            gathered = self._communicator.gather_to_root(np.concatenate([values[:0], *own]))
            # Elsewhere than on the root, nothing is gathered.
            for parts, received in zip(self._parts_by_rank, gathered, strict=False):
                start = 0
                for part in parts:
                    stop = start + part.stop - part.start
                    values[part] = received[start:stop]
                    start = stop
