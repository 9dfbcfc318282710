import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lockstep.errors import UserError
from lockstep.report.report import report, unreadable_files
from lockstep.storage.run_folder import read_arrays, write_arrays

ALL_PLOTS = [
    "learning_curves",
    "correct_by_epoch",
    "confusion_matrix",
    "per_class_scores",
    "mistakes",
    "first_layer_weights",
    "time_per_phase",
]


class Page(HTMLParser):
    """Collects the tags, attributes and visible texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.references = []
        self.anchors = []
        self.ids = []
        self.texts = []
        self.open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        references = [value for key, value in attrs if key in {"src", "href", "srcset"}]
        self.anchors += [value[1:] for value in references if value.startswith("#")]
        self.references += [value for value in references if not value.startswith("#")]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in {"meta", "img", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def draw(folder):
    paths = report(folder)
    return [path.stem for path in paths[:-1]], Page(folder.report.read_text(encoding="utf-8"))


def test_a_finished_run_has_all_plots_and_figures(make_run):
    folder = make_run()
    plots, page = draw(folder)
    assert plots == ALL_PLOTS
    assert sorted(path.stem for path in folder.plots.iterdir()) == sorted(ALL_PLOTS)
    assert "Left out" not in page.text
    assert "5e" * 32 in page.text
    assert "Ranks × virtual ranks 2 × 8 on 2 hosts" in page.text  # noqa: RUF001
    assert re.search(r"Test accuracy \d\d\.\d\d% \d{2,3} errors of 10,000", page.text)
    assert "Best epoch 5 of 5" in page.text
    assert "OPENBLAS NUM THREADS 1" in page.text
    assert 'comment = "<b>&"' in page.text
    assert page.open == []


def test_the_time_of_each_phase_is_told_in_numbers_too(make_run):
    # 5 epochs of 2 s and 500 steps.
    folder = make_run()
    _, page = draw(folder)
    assert "phase seconds share milliseconds per step compute 6.000 60.0% 2.400 " in page.text
    assert " reduce 1.500 15.0% 0.600 " in page.text
    assert " other 0.500 5.0% 0.200 together 10.000 100.0% 4.000 " in page.text


def test_the_page_needs_no_other_file(make_run):
    folder = make_run()
    _, page = draw(folder)
    assert len(page.references) == len(ALL_PLOTS)
    for reference in page.references:
        kind, content = reference.split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.verify()
    text = re.sub('data:image/png;base64,[^"]*', "", folder.report.read_text(encoding="utf-8"))
    assert not re.search("https?:|url\\(|@import", text)
    assert not {"script", "link", "iframe"} & set(page.tags)


@pytest.mark.parametrize("num_classes", [2, 100])
def test_few_and_many_classes(make_run, num_classes):
    folder = make_run(num_classes=num_classes)
    plots, page = draw(folder)
    assert plots == ALL_PLOTS
    for name in plots:
        with Image.open(folder.plots / f"{name}.png") as image:
            image.load()
            assert 400 < image.width < 4000
            assert 200 < image.height < 4000
    assert page.texts.count("class 1") >= 1


def test_a_thousand_classes_have_a_table_only(make_run, change_json):
    folder = make_run(num_classes=2)
    line = {"class": "x", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    change_json(folder.summary, per_class=[line] * 1000, confusion_matrix=[[0] * 1000] * 1000)
    plots, page = draw(folder)
    assert "confusion_matrix" not in plots
    assert "1000 classes are too many" in page.text


def test_strings_of_the_folder_are_escaped(make_run, change_json):
    evil = "<script>alert(1)</script>"
    folder = make_run(num_classes=2, names=[evil, '"><img src=x>'], feature_shape=(4,))
    change_json(folder.run, run=evil, network=evil, **{evil: {evil: [evil]}})
    folder.config.write_text(f"</pre>{evil}")
    _, page = draw(folder)
    assert "script" not in page.tags
    assert "x" not in page.references
    assert page.text.count(evil) >= 8


def test_a_run_that_has_only_begun(make_run):
    folder = make_run()
    for path in (folder.metrics, folder.summary, folder.figures):
        path.unlink()
    plots, page = draw(folder)
    assert plots == []
    assert page.text.count("Left out") == len(ALL_PLOTS)
    assert "This run has no summary.json (yet)." in page.text
    assert "Test accuracy – no test results" in page.text  # noqa: RUF001


def test_a_run_stopped_half_way_has_its_curves(make_run):
    folder = make_run()
    folder.summary.unlink()
    folder.figures.unlink()
    plots, page = draw(folder)
    assert plots == ["learning_curves", "correct_by_epoch", "time_per_phase"]
    assert "The run has no test results yet." in page.text
    assert "Wall time 10 s in the epochs so far" in page.text
    assert "Best epoch 5 of 5, 92.59% in validation" in page.text


def test_only_the_configuration(make_run):
    folder = make_run()
    for path in (folder.run, folder.metrics, folder.summary, folder.figures):
        path.unlink()
    plots, page = draw(folder)
    assert plots == []
    assert "Ranks × virtual ranks – × –" in page.text  # noqa: RUF001


def test_damaged_files_are_named(make_run):
    folder = make_run()
    folder.run.write_text("{")
    folder.figures.write_bytes(b"nothing")
    lines = folder.metrics.read_text().splitlines()
    folder.metrics.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n")
    plots, page = draw(folder)
    assert plots == ["confusion_matrix", "per_class_scores"]
    messages = unreadable_files(folder)
    assert len(messages) == 3
    for path, message in zip((folder.run, folder.metrics, folder.figures), messages, strict=True):
        assert path.name in page.text
        assert path.name in message
    assert messages[1].endswith(
        "The report leaves out learning curves, correct by epoch, time per phase."
    )
    assert page.text.count("Left out: metrics.jsonl is damaged.") == 3
    assert str(folder.path) not in page.text


def test_a_line_cut_off_in_the_middle_of_writing_is_no_damage(make_run):
    folder = make_run()
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 6, "st')
    plots, page = draw(folder)
    assert plots == ALL_PLOTS
    assert "Best epoch 5 of 5" in page.text
    assert unreadable_files(folder) == []


@pytest.mark.parametrize("line", ["7", "[1, 2]", "null", '{"step": 1}', '"epoch"'])
def test_lines_that_are_no_epochs_are_damage(make_run, line):
    folder = make_run()
    folder.metrics.write_text(line + "\n")
    assert "learning_curves" not in draw(folder)[0]
    [message] = unreadable_files(folder)
    assert message.startswith("metrics.jsonl is damaged")


def test_a_missing_file_is_no_damage(make_run):
    folder = make_run()
    folder.summary.unlink()
    assert unreadable_files(folder) == []


def test_the_contents_lead_to_every_section(make_run):
    _, page = draw(make_run())
    assert page.anchors == [*ALL_PLOTS, "epochs", "environment", "configuration"]
    assert page.ids == page.anchors


def test_the_contents_leave_out_what_is_not_there(make_run):
    folder = make_run()
    folder.metrics.unlink()
    folder.config.unlink()
    _, page = draw(folder)
    assert page.anchors == page.ids == [*ALL_PLOTS, "environment"]


def test_one_epoch(make_run):
    plots, page = draw(make_run(num_epochs=1))
    assert "learning_curves" not in plots
    assert "time_per_phase" in plots
    assert page.text.count("A curve needs two epochs; this run has 1 so far.") == 2


def test_without_a_validation_split(make_run, change_json):
    folder = make_run(val_total=0)
    change_json(folder.summary, best_epoch=None, best_val_accuracy=None)
    plots, page = draw(folder)
    assert "learning_curves" in plots
    assert "correct_by_epoch" not in plots
    assert "The data set has no validation split." in page.text


def test_without_a_test_split(make_run, change_json):
    folder = make_run()
    keys = ("test_accuracy", "test_loss", "test_correct", "test_total", "macro_f1")
    change_json(folder.summary, **dict.fromkeys(keys), confusion_matrix=None, per_class=None)
    arrays = read_arrays(folder.figures)
    write_arrays(folder.figures, {"first_layer.weight": arrays["first_layer.weight"]})
    plots, page = draw(folder)
    assert plots == [
        "learning_curves",
        "correct_by_epoch",
        "first_layer_weights",
        "time_per_phase",
    ]
    assert page.text.count("The data set has no test split.") == 2


def test_a_table_of_mistakes_where_samples_are_rows(make_run):
    folder = make_run(num_classes=2, names=["benign", "malignant"], feature_shape=(30,))
    plots, page = draw(folder)
    assert "mistakes" not in plots
    assert "first_layer_weights" not in plots
    index = read_arrays(folder.figures)["mistakes.index"][0]
    assert re.search(
        rf"{index} (benign malignant|malignant benign) 0\.\d{{4}} 0\.\d{{4}}", page.text
    )


def test_no_mistakes_at_all(make_run):
    _, page = draw(make_run(num_mistakes=0))
    assert "No test sample was misclassified." in page.text


def test_weights_that_do_not_fit_are_left_out(make_run):
    folder = make_run()
    write_arrays(folder.figures, {"first_layer.weight": np.ones((3, 7), dtype=np.float32)})
    plots, page = draw(folder)
    assert "first_layer_weights" not in plots
    assert "no weights that fit" in page.text


def test_names_come_from_the_scores_where_the_run_has_none(make_run):
    folder = make_run(num_classes=2, feature_shape=(4,))
    folder.run.unlink()
    plots, page = draw(folder)
    assert "confusion_matrix" in plots
    assert "class 1 class 0" in page.text


def test_an_epoch_repeated_after_a_resume_counts_once(make_run):
    folder = make_run(num_epochs=3)
    lines = folder.metrics.read_text().splitlines()
    folder.metrics.write_text("\n".join([*lines, lines[1]]) + "\n")
    _, page = draw(folder)
    assert "Best epoch 3 of 3" in page.text


def test_a_second_report_replaces_the_first(make_run):
    folder = make_run()
    report(folder)
    folder.summary.unlink()
    plots, _ = draw(folder)
    assert sorted(path.stem for path in folder.plots.iterdir()) == sorted(plots)


def test_a_report_is_the_same_each_time(make_run):
    folder = make_run()
    first = {path: path.read_bytes() for path in report(folder)}
    assert {path: path.read_bytes() for path in report(folder)} == first


def test_a_folder_that_cannot_be_written_to(make_run):
    folder = make_run()
    folder.plots.write_text("in the way")
    with pytest.raises(UserError, match="Can't write the report"):
        report(folder)
