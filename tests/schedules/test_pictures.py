"""Claims about schedules drawn by matplotlib and as text."""

import itertools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import schedules

line = schedules.linear_schedule(0.0, 1.0, 100)
fall = schedules.linear_schedule(1.0, 0.0, 100)


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def columns(text: str, mark: str = "*") -> list[set[int]]:
    """The lines that are marked in each column, counted from the lowest."""
    rows = [row.partition("|")[2] for row in text.splitlines() if "|" in row][::-1]
    width = max(map(len, rows))
    return [{height for height, row in enumerate(rows) if row.ljust(width)[at] == mark} for at in range(width)]


def test_a_plot_has_every_step_and_named_axes(axes):
    assert schedules.plot_schedule(line, 100, axes=axes, label="learning rate") is axes
    (curve,) = axes.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(101))
    np.testing.assert_array_equal(curve.get_ydata(), np.asarray(line(jnp.arange(101))))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_legend()) == ("step", "learning rate", None)


def test_a_plot_of_several_names_them_in_the_legend(axes):
    schedules.plot_schedule({"up": line, "down": fall}, 100, axes=axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["up", "down"]


def test_a_plot_of_two_thousand_million_steps_has_ten_thousand_points(axes):
    schedules.plot_schedule(line, 2**31 - 1, axes=axes)
    assert axes.get_lines()[0].get_xdata()[[0, -1]].tolist() == [0, 2**31 - 1]
    assert len(axes.get_lines()[0].get_xdata()) == 10_001


def test_without_matplotlib_the_error_names_the_extra():
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from gradtx import errors, schedules\n"
        "try: schedules.plot_schedule(schedules.constant_schedule(0.1), 10)\n"
        "except errors.MissingExtra as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pip install gradtx[examples]" in run.stdout and "[missing-extra]" in run.stdout


def test_text_shows_a_line_as_a_line():
    marked = columns(schedules.render_schedule(line, 100, width=21, height=11))
    assert all(column for column in marked)
    assert (min(marked[0]), max(marked[-1])) == (0, 10)
    assert all(min(after) in (max(before), max(before) + 1) for before, after in itertools.pairwise(marked))


def test_text_loses_no_restart():
    """More restarts than lines, fewer than columns: each is a column that reaches from near 0 up to the top."""
    marked = columns(schedules.render_schedule(schedules.cosine_restarts_schedule(1.0, 100), 2_000, width=80, height=9))
    tops = [8 in column for column in marked]
    assert sum(now and not before for before, now in zip([False, *tops], tops, strict=False)) == 21


def test_text_shows_a_jump_as_a_vertical_line():
    text = schedules.render_schedule(schedules.step_decay(1.0, 50, 0.125), 99, width=20, height=9)
    assert {1, 2, 3, 4, 5, 6, 7} <= set().union(*columns(text)[9:11])


def test_text_of_several_shows_each_and_names_it():
    text = schedules.render_schedule({"up": line, "down": fall}, 100, width=31, height=7)
    assert text.splitlines()[-2:] == ["     * up", "     o down"]
    assert 6 in columns(text, "*")[-1] and 6 in columns(text, "o")[0]


def test_text_marks_its_axes():
    lines = schedules.render_schedule(schedules.linear_schedule(0.0, 3e-4, 7), 7, width=20, height=5).splitlines()
    assert [row.partition("|")[0].strip() for row in lines[:5]] == ["0.0003", "", "0.00015", "", "0"]
    assert lines[6].split() == ["0", "step", "7"]


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5, float("nan"), float("inf")])
def test_text_of_a_constant_has_at_most_one_line(value):
    marked = columns(schedules.render_schedule(lambda step: value, 5, width=16))
    assert all(len(column) == 1 for column in marked) if np.isfinite(value) else not any(marked)


def test_a_value_that_is_not_finite_leaves_a_gap_in_text():
    text = schedules.render_schedule(lambda step: jnp.where(step < 50, jnp.nan, 1.0), 100, width=21)
    assert [bool(column) for column in columns(text)] == [False] * 10 + [True] * 11
