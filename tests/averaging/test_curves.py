"""What a sweep says of its curves."""

from grow.averaging.window_figure import draw_curves
from grow.averaging.window_sweep import WindowCurve, as_table


def test_a_gain_is_the_live_loss_less_the_averages_at_the_same_steps():
    live = WindowCurve(k=1, every_steps=1, steps=[1, 2, 3], losses=[5.0, 4.0, 3.0])
    mean = WindowCurve(k=2, every_steps=1, steps=[2, 3], losses=[3.5, 3.1])
    row = as_table([live, mean])[1][1]
    assert row == ["k=2, every 1 steps", "1", "2", "3.1000", "3", "3.1000", "+0.2000", "-0.1000"]


def test_a_figure_of_many_curves_is_drawn(tmp_path):
    curves = {str(index): ([1, 10, 20], [9.0, 2.0, 1.0 + index]) for index in range(20)}
    draw_curves(curves, tmp_path / "figure.png", y_label="loss")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
