"""Ten steps of each optimizer against independent implementations, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import MLP, Workspace
from lockstep.optim.gradients import add_l2, clip_norm
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters
from lockstep.optim.schedules import Schedule

NUM_STEPS = 10
NUM_SAMPLES = 24
WIDTHS = (6, 8, 7, 4)
LEARNING_RATE = 0.05
# These have their oracles in tests/unit/optim/test_layer_wise.py.
NOT_IN_PYTORCH = {"lars", "lamb"}


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((NUM_SAMPLES, WIDTHS[0]))
    y = np.arange(NUM_SAMPLES) % WIDTHS[-1]
    return SimpleNamespace(x=x, y=y)


def initial_layers(network):
    parameters = np.empty(network.num_parameters)
    initialize("glorot_normal", network, parameters, seed=3)
    return parameters


def train(network, samples, optimizer, options, l2=0.0, clip=0.0, schedule=None):
    """Lockstep's own steps, without ranks: four virtual ranks' means are one mean."""
    parameters = initial_layers(network)
    layers = network.layers(parameters)
    workspace = Workspace(network, 1, NUM_SAMPLES, np.float64)
    workspace.inputs[0], workspace.labels[0] = samples.x, samples.y
    rule = OPTIMIZERS[optimizer](parameters, network.weight_slices, options)
    whole = slice(0, parameters.size)
    gradient = np.empty_like(parameters)
    targets = [layer[np.newaxis] for layer in network.layers(gradient)]
    losses = []
    for step in range(NUM_STEPS):
        workspace.evaluate(layers)
        losses.append(workspace.losses.mean())
        for _ in workspace.backward(layers, targets, 1 / NUM_SAMPLES):
            pass
        if clip:
            clip_norm(gradient, clip)
        if l2:
            add_l2(gradient, whole, parameters, network.weight_slices, l2)
        learning_rate = schedule(step) if schedule else LEARNING_RATE
        rule.make_update(gradient, whole, learning_rate, step)
        rule.apply(parameters, gradient, learning_rate)
    return layers, losses


class StartedClassifier(MLPClassifier):
    """scikit-learn's classifier from given weights."""

    def _init_coef(self, fan_in, fan_out, dtype):
        layer = self.start[len(self.started)]
        self.started.append(layer)
        assert layer.shape == (fan_in + 1, fan_out)
        return layer[:-1].astype(dtype), layer[-1].astype(dtype)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam"])
def test_scikit_learns_classifier_takes_the_same_steps(samples, optimizer, activation, l2):
    network = MLP(WIDTHS, activation, "cross_entropy")
    # It adds epsilon before the bias correction, so make it vanish on both sides.
    options = Hyperparameters(epsilon=1e-200)
    oracle = StartedClassifier(
        hidden_layer_sizes=WIDTHS[1:-1],
        activation={"sigmoid": "logistic"}.get(activation, activation),
        solver="adam" if optimizer == "adam" else "sgd",
        alpha=l2 * NUM_SAMPLES,  # its penalty is divided by the number of samples
        batch_size=NUM_SAMPLES,
        learning_rate_init=LEARNING_RATE,
        momentum=0.0 if optimizer == "sgd" else options.momentum,
        nesterovs_momentum=optimizer == "nesterov",
        epsilon=options.epsilon,
        shuffle=False,
    )
    oracle.start, oracle.started = network.layers(initial_layers(network)), []
    for _ in range(NUM_STEPS):
        oracle.partial_fit(samples.x, samples.y, classes=np.arange(WIDTHS[-1]))

    layers, losses = train(network, samples, optimizer, options, l2)
    for layer, weight, bias in zip(layers, oracle.coefs_, oracle.intercepts_, strict=True):
        np.testing.assert_allclose(layer[:-1], weight, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(layer[-1], bias, rtol=1e-9, atol=1e-12)
    if not l2:
        np.testing.assert_allclose(losses, oracle.loss_curve_, rtol=1e-9)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed, nor needed")


def torch_optimizer(torch, name, weights, biases, options, l2):
    decay = options.weight_decay if name == "adamw" else l2
    groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
    if name in {"adam", "adamw"}:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        return kind(
            groups, lr=LEARNING_RATE, betas=(options.beta1, options.beta2), eps=options.epsilon
        )
    momentum = 0.0 if name == "sgd" else options.momentum
    return torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=momentum, nesterov=name == "nesterov")


def torch_loss(torch, name, z, target):
    if name == "cross_entropy":
        return torch.nn.functional.cross_entropy(z, target)
    one_hot = torch.nn.functional.one_hot(target, z.shape[1])
    return ((torch.sigmoid(z) - one_hot) ** 2).sum() / 2 / len(z)


@pytest.mark.parametrize("loss", ["cross_entropy", "quadratic"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in NOT_IN_PYTORCH])
def test_pytorch_takes_the_same_steps(torch, samples, optimizer, activation, loss):
    compare_with_pytorch(torch, samples, optimizer, activation, loss, clip=0.0, tolerance=1e-9)


def test_pytorch_clips_alike(torch, samples):
    # It adds 1e-6 to the norm that it divides by, hence the tolerance.
    compare_with_pytorch(torch, samples, "sgd", "tanh", "quadratic", clip=0.1, tolerance=1e-5)


def compare_with_pytorch(torch, samples, optimizer, activation, loss, clip, tolerance):
    functional = torch.nn.functional
    activate = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": functional.leaky_relu,
        "gelu": lambda z: functional.gelu(z, approximate="tanh"),
    }[activation]
    network = MLP(WIDTHS, activation, loss)
    options, l2 = Hyperparameters(weight_decay=0.2), 0.01
    start = network.layers(initial_layers(network))
    weights = [torch.tensor(layer[:-1].copy(), requires_grad=True) for layer in start]
    biases = [torch.tensor(layer[-1].copy(), requires_grad=True) for layer in start]
    l2 = 0.0 if optimizer == "adamw" else l2
    oracle = torch_optimizer(torch, optimizer, weights, biases, options, l2)
    x, y = torch.tensor(samples.x), torch.tensor(samples.y)
    expected = []
    for _ in range(NUM_STEPS):
        a = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            a = activate(a @ weight + bias)
        value = torch_loss(torch, loss, a @ weights[-1] + biases[-1], y)
        expected.append(value.item())
        oracle.zero_grad()
        value.backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_([*weights, *biases], clip) > clip
        oracle.step()

    layers, losses = train(network, samples, optimizer, options, l2, clip)
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        np.testing.assert_allclose(
            layer[:-1], weight.detach().numpy(), rtol=tolerance, atol=tolerance
        )
        np.testing.assert_allclose(layer[-1], bias.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_pytorch_normalizes_alike(torch, samples, normalization):
    functional = torch.nn.functional
    network = MLP(WIDTHS, "tanh", "cross_entropy", normalization)
    parameters = initial_layers(network)
    for layer in network.layers(parameters)[:-1]:
        layer[-2:] += np.random.default_rng(1).standard_normal(layer[-2:].shape)
    layers = network.layers(parameters)
    workspace = Workspace(network, 1, NUM_SAMPLES, np.float64)
    workspace.inputs[0], workspace.labels[0] = samples.x, samples.y
    gradients = [np.empty((1, *layer.shape)) for layer in layers]
    workspace.evaluate(layers)
    for _ in workspace.backward(layers, gradients, 1 / NUM_SAMPLES):
        pass
    statistics = np.empty((1, network.num_statistics))
    workspace.write_statistics(np.ones((1, 1)), statistics)

    theirs = [torch.tensor(layer.copy(), requires_grad=True) for layer in layers]
    a = torch.tensor(samples.x)
    # A momentum of 1 leaves the batch's own statistics.
    running = [(torch.zeros(width).double(), torch.ones(width).double()) for width in WIDTHS[1:-1]]
    for layer, (mean, variance) in zip(theirs[:-1], running, strict=True):
        z = a @ layer[:-2]
        if normalization == "batch":
            z = functional.batch_norm(z, mean, variance, layer[-1], layer[-2], True, 1.0)
        else:
            z = functional.layer_norm(z, z.shape[1:], layer[-1], layer[-2])
        a = torch.tanh(z)
    value = functional.cross_entropy(a @ theirs[-1][:-1] + theirs[-1][-1], torch.tensor(samples.y))
    value.backward()
    assert workspace.losses.mean() == pytest.approx(value.item(), rel=1e-12)
    for own, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(own[0], other.grad.numpy(), rtol=1e-9, atol=1e-12)
    for own, other in zip(network.statistics(statistics[0]), running, strict=False):
        np.testing.assert_allclose(own, [each.numpy() for each in other], rtol=1e-12)


def test_pytorch_has_the_same_one_cycle(torch):
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=1001)
    expected = []
    for _ in range(1000):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    own = Schedule("one_cycle", 0.5, 1000)
    # It counts to the last step, Lockstep to one beyond it.
    np.testing.assert_allclose([own(step) for step in range(1000)], expected, rtol=0.02, atol=2e-4)
