"""The report says what was measured: every figure and failure; it fetches and runs nothing."""

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser

import pytest
from rich.console import Console

pytest.importorskip("jinja2")

from parity_tests.report import (
    environment,
    format_bound,
    format_value,
    headline,
    linear_axis,
    log_axis,
    matrix,
    print_matrix,
    render_html,
    write_report,
)
from parity_tests.results import (
    Accuracies,
    AuditRow,
    Curves,
    LeafError,
    Report,
    Verdict,
)

TASKS = ("cifar10-logistic", "cifar10-simplecnn", "cifar10-cnn", "cifar10-resnet20")
BOUNDS = {
    ("weights", "float64"): 0,
    ("forward", "float64"): 1e-12,
    ("forward", "float32"): 4,
    ("gradient", "float64"): 1e-10,
    ("gradient", "float32"): 4,
    ("resume", "float32"): 0,
    ("engines", "float32"): 0,
    ("curve", "float32"): 1,
    ("metric", "float32"): 0.02,
}


def verdict_of(rung: str, dtype: str, value: float, **changes) -> Verdict:
    verdict = Verdict("cifar10-cnn", rung, dtype, value, BOUNDS[rung, dtype], "head.kernel")
    return dataclasses.replace(verdict, **changes)


def report_of(*verdicts: Verdict, **changes) -> Report:
    """A report of these verdicts, or of every cell of `BOUNDS` for every task, all holding."""
    everywhere = tuple(
        Verdict(
            task, rung, dtype, bound * (0.1 + 0.07 * i + 0.013 * j), bound, "head.kernel",
            leaves=tuple(LeafError(f"stages.{k}.kernel", bound * 0.01 * k) for k in range(4)),
        )
        for i, task in enumerate(TASKS)
        for j, ((rung, dtype), bound) in enumerate(BOUNDS.items())
    )  # fmt: skip
    report = Report(
        command="python -m parity --tasks all",
        environment={"jax": "0.10.2", "processor": "a processor"},
        verdicts=verdicts or everywhere,
        curves=(
            Curves("cifar10-cnn", ((2.0, 1.5, 1.1),), ((2.0, 1.5, 1.2), *((2.0, 1.4, 1.3),) * 3)),
        ),
        accuracies=(
            Accuracies("cifar10-cnn", (0.8, 0.82), (0.81, 0.82), 0.02, (-0.0123, 0.0045), 0.9),
        ),
        audit=(
            AuditRow("gelu", "erf or tanh", "gpt2", "forward", ("forward", "step"), 3e7, "mlp"),
            AuditRow("padding", "SAME", "cnn", "forward", ("forward",), math.inf, "conv"),
        ),
        rung_claims={rung: f"the claim of {rung}" for rung, _ in BOUNDS},
    )
    return dataclasses.replace(report, **changes)


def printed(report: Report, width: int = 160) -> str:
    stream = io.StringIO()
    print_matrix(report, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


FAILING = verdict_of(
    "gradient", "float64", 3.14e-7,
    first_divergence="stages.1.bias, step 1", note="a note on the failure",
    leaves=(LeafError("stages.0.bias", 1e-15), LeafError("stages.1.bias", 3.14e-7)),
)  # fmt: skip


class Page(HTMLParser):
    """Collects tags, ids, links, and every attribute through which a page could fetch something."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.ids, self.fragments, self.fetched = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            elif name == "href" and value.startswith("#"):
                self.fragments.append(value[1:])
            elif name in ("src", "href", "srcset", "data", "poster", "action"):
                self.fetched.append(value)


def test_page_fetches_nothing_and_runs_nothing():
    text = render_html(report_of())
    page = Page(text)
    assert page.fetched == []
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(|\bon\w+=", text)
    assert {"svg", "details", "style"} <= set(page.tags)


def test_links_of_the_matrix_lead_to_the_details():
    page = Page(render_html(report_of()))
    assert len(page.fragments) == len(TASKS) * len(BOUNDS) + len(TASKS)
    assert set(page.fragments) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_page_escapes_every_name():
    evil = "<script>alert('x')</script>&\"<b>"
    verdict = Verdict(evil, evil, "float64", 1.0, 0.5, evil, evil, evil, (LeafError(evil, 1.0),))
    report = report_of(
        verdict,
        command=evil, environment={evil: evil}, rung_claims={evil: evil},
        curves=(Curves(evil, ((1.0,),), ((1.0,),)),),
        accuracies=(Accuracies(evil, (0.5,), (0.5,), 0.02, (-0.01, 0.01), 0.9),),
        audit=(AuditRow(evil, evil, evil, evil, (evil,), 2.0, evil),),
    )  # fmt: skip
    page = render_html(report)
    assert "&lt;script&gt;" in page
    assert "script" not in Page(page).tags
    assert "b" not in Page(page).tags


def test_page_contains_every_figure_bound_claim_and_name():
    report = report_of()
    page = render_html(report)
    for verdict in report.verdicts:
        assert format_value(verdict) in page
        assert f"bound {format_bound(verdict)}" in page
        assert verdict.task in page
        for leaf in verdict.leaves:
            assert f"<code>{leaf.name}</code>" in page
    for claim in report.rung_claims.values():
        assert claim in page
    for row in report.audit:
        assert row.topic in page
        assert row.pair in page
    for text in ("0.10.2", "a processor", report.command, "3.0e+07x", "[-1.23, +0.45]"):
        assert text in page


def test_sections_come_in_order():
    page = render_html(report_of())
    headings = re.findall(r"<h[12]>(.*?)(?: <small>.*)?</h[12]>", page)
    assert headings[1:4] == ["What the ladder claims", "Tasks and rungs", "Mutation audit"]
    assert headings[4:] == [*TASKS, "Versions and machine", "Command"]


def test_headline_counts_and_names():
    assert headline(report_of(audit=())) == "36 of 36 cells hold."
    assert "2 of 2 injected differences are caught" in headline(report_of())
    failing = headline(report_of(FAILING, verdict_of("forward", "float32", 1.0), audit=()))
    assert failing == "1 of 2 fails: cifar10-cnn gradient float64."
    many = headline(report_of(*[FAILING] * 9, audit=()))
    assert many.startswith("9 of 9 fail: ")
    assert many.endswith("and 4 more.")


@pytest.mark.parametrize("bad", ["verdict", "audit", "nothing measured"])
def test_page_marks_a_failing_report(bad):
    assert '<p class="headline holds">' in render_html(report_of())
    missed = AuditRow("fused", "one bias", "lstm", "step", ("curve",), 0.4, "")
    report = {
        "verdict": report_of(FAILING, audit=()),
        "audit": report_of(audit=(missed,)),
        "nothing measured": Report("", {}),
    }[bad]
    assert '<p class="headline fails">' in render_html(report)


def test_page_marks_the_failing_cell_alone():
    page = render_html(report_of(verdict_of("forward", "float64", 3e-15), FAILING, audit=()))
    cells = re.findall(r'<td class="(holds|fails)">(.*?)</td>', page, re.S)
    assert [state for state, _ in cells] == ["holds", "fails"]
    assert "✓" in cells[0][1]
    assert "✗" in cells[1][1]
    assert "3.1e-07" in cells[1][1]
    assert "fails, bound 1e-10" in cells[1][1]
    assert page.count('<article class="card fails"') == 1
    assert "First divergence: <code>stages.1.bias, step 1</code>" in page
    assert "a note on the failure" in page
    assert page.count('<path class="cross"') == 1
    assert page.count('<circle class="dot"') == 1
    assert page.count("✗ over") == 1


def test_two_verdicts_of_a_rung_share_a_cell():
    """The rung mesh has two bounds in float64: of gradients, and of ten steps."""
    held = verdict_of("forward", "float64", 3e-15)
    for second, state in ((2e-14, "holds"), (2e-9, "fails")):
        other = dataclasses.replace(held, value=second, bound=1e-13)
        page = render_html(report_of(held, other, audit=()))
        ((found, cell),) = re.findall(r'<td class="(holds|fails)">(.*?)</td>', page, re.S)
        assert found == state
        assert cell.count("<small>") == 2


def test_cells_that_cannot_be_are_no_dashes():
    verdicts = [Verdict(task, "forward", "float64", 0, 1e-12, "") for task in ("images", "prose")]
    text = Verdict("prose", "text", "float64", 0, 0, "smallest margin 2.0e-05 (greedy, prompt 3)")
    bare = partial(report_of, *verdicts, text, curves=(), accuracies=())
    report = bare(inapplicable=frozenset({("images", "text")}))
    (row,) = [line for line in printed(report).splitlines() if line.startswith("text")]
    assert row.split()[3:] == ["n/a", "✓", "0", "differ"]
    assert "n/a: the task has no such rung" in render_html(report)
    assert '<td class="muted">n/a</td>' in render_html(report)
    assert '<td class="muted">-</td>' not in render_html(report)
    assert "n/a" not in render_html(bare()) + printed(bare())
    assert '<td class="muted">-</td>' in render_html(bare())


def test_a_rung_that_no_task_of_a_table_can_have_is_no_row_of_it():
    text = Verdict("prose", "text", "float64", 0, 0, "")
    tasks = ("one", "two")
    verdicts = [Verdict(task, "forward", "float64", 0, 1e-12, "") for task in (*tasks, "prose")]
    report = report_of(*verdicts, text, inapplicable=frozenset((task, "text") for task in tasks))
    (_, first), (_, second) = matrix(report, tasks_abreast=2)
    assert [row.rung for row in first] == ["forward"]
    assert [row.rung for row in second] == ["forward", "text"]


@pytest.mark.parametrize(
    ("tasks", "abreast", "sizes"),
    [(12, 5, [4, 4, 4]), (7, 5, [4, 3]), (5, 5, [5]), (3, 1, [1, 1, 1])],
)
def test_tables_share_the_tasks_evenly(tasks, abreast, sizes):
    verdicts = [Verdict(f"t{number}", "weights", "float32", 0, 0, "") for number in range(tasks)]
    tables = matrix(report_of(*verdicts, curves=(), accuracies=()), tasks_abreast=abreast)
    assert [len(names) for names, _ in tables] == sizes


def test_unmeasured_cells_are_dashes():
    other = dataclasses.replace(verdict_of("forward", "float32", 1.0), task="cifar10-logistic")
    report = report_of(verdict_of("forward", "float64", 1e-15), other)
    cells = re.findall(r'<td class="(muted|holds)">(?:-|<a)', render_html(report))
    assert cells == ["holds", "muted", "muted", "holds"]
    lines = [line for line in printed(report).splitlines() if line.startswith("forward")]
    assert [line.split()[3:] for line in lines] == [["✓", "1.0e-15", "-"], ["-", "✓", "1.0x"]]


@pytest.mark.parametrize(
    ("rung", "dtype", "value", "text", "bound"),
    [
        ("forward", "float64", 3.14e-15, "3.1e-15", "1e-12"),
        ("forward", "float64", 0.0, "0", "1e-12"),
        ("forward", "float32", 1.34, "1.3x", "4x"),
        ("forward", "float32", 0.0, "0x", "4x"),
        ("forward", "float32", 43210.0, "4.3e+04x", "4x"),
        ("forward", "float32", 999.9, "1.0e+03x", "4x"),
        ("forward", "float32", 123.4, "123x", "4x"),
        ("weights", "float64", 2, "2 differ", "0"),
        ("resume", "float32", 0, "0 differ", "0"),
        ("engines", "float32", 3, "3 differ", "0"),
        ("curve", "float32", 0.64, "0.64x", "1x"),
        ("metric", "float32", 0.0083, "0.83 pp", "2 pp"),
        ("forward", "float64", math.nan, "NaN", "1e-12"),
        ("forward", "float32", math.inf, "inf", "4x"),
        ("metric", "float32", math.nan, "NaN", "2 pp"),
    ],
)
def test_values_are_written_in_their_rungs_unit(rung, dtype, value, text, bound):
    verdict = verdict_of(rung, dtype, value)
    assert (format_value(verdict), format_bound(verdict)) == (text, bound)


def test_json_is_strict_and_equals_the_rows(tmp_path):
    report = report_of(FAILING, verdict_of("forward", "float64", math.nan))
    assert write_report(report, tmp_path / "new") == tmp_path / "new" / "report.html"
    text = (tmp_path / "new" / "report.json").read_text()
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert rows == [verdict.row() for verdict in report.verdicts]
    assert rows[1]["value"] is None
    assert rows[1]["ok"] is False
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_report(report_of(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    endless = dataclasses.replace(FAILING, bound=math.inf)  # a bound must be finite
    with pytest.raises(ValueError, match="JSON"):
        write_report(report_of(endless), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_shown_and_keep_the_figures_whole(value):
    leaves = (LeafError("a", 1e-15), LeafError("b", value), LeafError("c", 0.0))
    report = report_of(
        verdict_of("forward", "float64", value, leaves=leaves),
        curves=(Curves("cifar10-cnn", ((2.0, value, 1.0),), ((2.0, 1.0, 1.0), (2.0, 1.0, value))),),
        accuracies=(Accuracies("cifar10-cnn", (0.8,), (value,), 0.02, (value, value), 0.9),),
        audit=(AuditRow("m", "t", "p", "forward", ("forward",), value, "w"),),
    )
    page = render_html(report)
    shown = "NaN" if math.isnan(value) else "inf"
    assert f"{shown} <small>bound 1e-12" in page
    assert page.count(">inf/NaN</text>") >= 1
    assert "the interval is not finite" in page
    for tag in re.findall(r"<(?:path|circle|line|rect|text)\b[^>]*>", page):
        assert not re.search(r'="[^"]*\b(nan|inf)\b', tag, re.I), tag
    assert shown in printed(report)


def test_audit_bars_grow_by_decades_over_the_bound():
    factors = (0.0, 0.5, 10.0, 1000.0, math.inf)
    audit = [AuditRow(f"m{f}", "t", "p", "step", ("step",), f, "w") for f in factors]
    page = render_html(report_of(audit=tuple(audit)))
    widths = re.findall(r'class="bar" style="width:([\d.]+)%"', page)
    assert [float(width) for width in widths] == [0, 0, 33.3, 100, 100]


def test_difference_panel_never_hides_a_nan_behind_a_finite_maximum():
    curves = Curves("t", ((1.0, math.nan, 1.0),), ((1.0, 1.0, 1.5),))
    assert "nearest Flax run, at most nan" in render_html(report_of(curves=(curves,)))


@pytest.mark.parametrize("width", [60, 100, 200])
def test_matrix_fits_the_terminal_and_loses_no_cell(width):
    verdicts = [
        dataclasses.replace(verdict, task=f"{verdict.task}-{copy}")
        for copy in range(3)
        for verdict in report_of().verdicts
    ]
    report = report_of(*verdicts, curves=(), accuracies=())
    text = printed(report, width=width)
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert all(f" {verdict.task} " in text for verdict in verdicts), "a name was broken in two"
    assert text.count("✓") == len(report.verdicts) + len(report.audit)
    for verdict in report.verdicts:
        assert f"✓ {format_value(verdict)}" in text


def test_matrix_names_the_failures_beneath():
    text = printed(report_of(FAILING, verdict_of("forward", "float64", 1e-15), audit=()))
    assert text.count("✗") == 2
    beneath = text[text.rindex("✗") :]
    for words in ("cifar10-cnn gradient float64: 3.1e-07, bound 1e-10", "worst: head.kernel",
                  "first divergence: stages.1.bias, step 1", "a note on the failure"):  # fmt: skip
        assert words in beneath
    assert "✗" not in printed(report_of())


def test_terminal_audit_names_what_slipped_through():
    missed = AuditRow("fused-bias", "one bias", "lstm", "step", (), 0.4, "")
    text = printed(report_of(audit=(*report_of().audit, missed)))
    line = next(line for line in text.splitlines() if "fused-bias" in line)
    assert line.split() == ["✗", "fused-bias", "lstm", "step", "nothing", "0.40x"]


def test_matrix_prints_names_that_look_like_markup_and_plain_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    verdict = dataclasses.replace(FAILING, task="[red]task[/red]")
    print_matrix(report_of(verdict, audit=()), Console(file=stream, width=100))
    stream.seek(0)
    text = stream.read()
    assert "[red]task[/red]" in text
    assert "FAIL 3.1e-07" in text


def test_axes_map_their_ends_and_keep_lanes_for_zero_and_infinity():
    axis = log_axis([1e-15, 1e-12, 0.0, math.inf], 100, 0, lane=10)
    assert (axis.at(1e-15), axis.at(1e-12)) == (90, 10)
    assert (axis.at(0.0), axis.at(math.inf), axis.at(math.nan)) == (100, 0, 0)
    assert [label for _, label in axis.ticks(4)] == ["1e-15", "1e-14", "1e-13", "1e-12"]
    linear = linear_axis([0.0, 10.0], 0, 112)
    assert (linear.at(0.0), linear.at(10.0)) == (6, 106)
    assert [label for _, label in linear.ticks(6)] == ["0", "2", "4", "6", "8", "10"]
    assert linear_axis([3.0, 3.0], 0, 10).at(3.0) == 5


def test_environment_starts_no_framework():
    code = "import sys; from parity_tests.report import environment; environment();"
    code += "print(sorted({'jax', 'flax', 'torch', 'lightning'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_environment_says_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("parity_tests.report.PACKAGES", ("numpy", "no-such-package"))
    found = environment()
    assert found["no-such-package"] == "not installed"
    assert found["numpy"][0].isdigit()
    assert {"python", "processor", "cores", "memory", "system"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())


def test_a_metric_that_is_no_accuracy_is_not_in_percentage_points():
    accuracy = Verdict("imdb-lstm", "metric", "float32", 0.015, 0.02, "")
    error = dataclasses.replace(accuracy, task="prices-lstm", metric="absolute_error")
    assert (format_value(accuracy), format_bound(accuracy)) == ("1.50 pp", "2 pp")
    assert (format_value(error), format_bound(error)) == ("0.0150", "0.02")


def test_a_metrics_figure_is_called_what_it_is():
    where = "mean difference +0.00278"
    page = render_html(report_of(Verdict("t", "metric", "float32", 0.0063, 0.02, where)))
    assert f"The interval's farther end; {where}" in page
    assert "Worst" not in page
