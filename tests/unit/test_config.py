import tomllib
from dataclasses import asdict

import pytest

from lockstep.config import FIELDS, Config, load_config, to_toml
from lockstep.errors import UserError
from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.initializers import INITIALIZERS
from lockstep.nn.losses import LOSSES
from lockstep.optim.optimizers import OPTIMIZERS


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(config_file):
    path = config_file("[training]\nepochs = 3\nseed = 4\n[network]\nhidden_widths = [8]\n")
    config = load_config(path, {"epochs": "5", "learning_rate": "0.5"})
    assert config.training.epochs == 5
    assert config.training.seed == 4
    assert config.network.hidden_widths == (8,)
    assert config.optimization.learning_rate == 0.5
    assert config.training.global_batch_size == Config().training.global_batch_size


def test_a_written_configuration_reads_back_as_it_was(config_file):
    options = {"hidden_widths": "64,32", "dtype": "float64", "clip_norm": "1", "data": "x y.h5"}
    config = load_config(None, options)
    assert load_config(config_file(to_toml(config)), {}) == config
    assert set(tomllib.loads(to_toml(config))) == set(asdict(config))


def test_lists_on_the_command_line():
    assert load_config(None, {"hidden_widths": "3"}).network.hidden_widths == (3,)
    assert load_config(None, {"hidden_widths": ""}).network.hidden_widths == ()


def test_all_that_is_wrong_is_told_at_once_with_the_near_misses(config_file):
    path = config_file(
        "epochs = 3\n[trainin]\nx = 1\n"
        '[training]\nepoch = 3\nlearning_rate = 1\nseed = "x"\npatience = -1\n'
        '[optimization]\noptimizer = "adm"\nlearning_rate = inf\nl2 = nan\n'
        "[network]\nhidden_widths = [4, 0]\n"
    )
    with pytest.raises(UserError) as error:
        load_config(path, {"epochs": "ten", "--learning-rat": "1"})
    told = str(error.value).splitlines()
    assert told[0] == "The configuration has 12 problems:"
    for line, words in zip(
        told[1:],
        [
            "epochs belongs under [training]",
            "[trainin]: no such section; did you mean training?",
            "[training] epoch: no such field; did you mean epochs?",
            "[training] learning_rate: belongs under [optimization]",
            "[training] seed: 'x' won't do (whole number)",
            "[training] patience: -1 won't do",
            "'adm' is none of sgd, momentum, nesterov, adam, adamw, lars, lamb; did you mean adam",
            "learning_rate: inf won't do",
            "l2: nan won't do",
            "hidden_widths: [4, 0] won't do",
            "--epochs: 'ten' won't do (whole number)",
            "--learning-rat: no such option; did you mean --learning-rate",
        ],
        strict=True,
    ):
        assert words in line
    assert all(str(path) in line for line in told[1:11])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training\n", "not valid TOML"),
        ("training = 3\n", r"\[training\] should be a section"),
        (f"a = {'[' * 5000}{']' * 5000}", "nested too deeply"),
        ("x" * 2**16 + "\n", "it is larger than 65536 bytes"),
        (f"[training]\nepochs = {'9' * 5000}", "not valid TOML"),
        (f"[training]\nepochs = 0x{'f' * 5000}", r"epochs: a huge value won't do"),
        (f"[training]\nepochs{'.a' * 5000} = 1", r"epochs: a huge value won't do"),
        (f"[training]\n{'x' * 1000} = 1", r"x{80}\.\.\.: no such field"),
        ("[training]\nvirtual_ranks = 1000001", "virtual_ranks: 1000001 won't do"),
        (f"[network]\nhidden_widths = [{'1,' * 1001}]", r"hidden_widths: .*\.\.\. won't do"),
    ],
)
def test_a_file_that_is_no_configuration(config_file, text, message):
    with pytest.raises(UserError, match=message):
        load_config(config_file(text), {})


def test_not_more_problems_are_told_than_can_be_read(config_file):
    path = config_file("[training]\n" + "\n".join(f"k{i} = 1" for i in range(100)))
    with pytest.raises(UserError) as error:
        load_config(path, {})
    told = str(error.value).splitlines()
    assert told[0] == "The configuration has 100 problems:"
    assert len(told) == 22
    assert told[-1] == "  and 80 more"


@pytest.mark.parametrize("name", [info.name for info in FIELDS.values() if info.kind is not str])
def test_no_number_is_without_a_limit(name):
    for value in ("1" + "0" * 400, "-1" + "0" * 400, "nan", "inf"):
        if FIELDS[name].type_name in {"whole number", "number", "whole numbers"}:
            with pytest.raises(UserError, match="won't do"):
                load_config(None, {name: value})


def test_a_folder_and_text_that_is_not_utf_8(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        load_config(tmp_path, {})
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not valid TOML"):
        load_config(path, {})


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="There is no configuration file"):
        load_config(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("activation", ACTIVATIONS),
        ("loss", LOSSES),
        ("initializer", INITIALIZERS),
        ("optimizer", OPTIMIZERS),
    ],
)
def test_the_words_allowed_are_those_that_there_is_code_for(field, table):
    assert FIELDS[field].choices == tuple(table)


def test_field_names_are_unique_across_sections():
    names = [name for section in asdict(Config()).values() for name in section]
    assert len(names) == len(set(names)) == len(FIELDS)
    assert all(info.description for info in FIELDS.values())
