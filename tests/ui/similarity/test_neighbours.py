"""Ranking, neighbours, map and CSV against naive computations."""

from __future__ import annotations

import csv
import io
import math
import re
from html import unescape

import numpy as np
import pytest
from plotly.colors import sample_colorscale

from grit_app.errors import InputError
from grit_app.ui.similarity.figures import (
    MOST_CELLS,
    SCALE,
    TOP,
    bars,
    heatmap,
    letters_on,
    map_figure,
    neighbours_data,
)
from grit_app.ui.similarity.neighbours import MAX_LINES, closest, cosines, flat_map, lines_of, nearest, ranking, to_csv


def some_vectors(count: int = 7, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_cosines_equal_a_plain_loop() -> None:
    vectors = some_vectors()
    table = cosines(vectors)
    for i, a in enumerate(vectors.tolist()):
        for j, b in enumerate(vectors.tolist()):
            expected = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            assert table[i, j] == pytest.approx(expected, abs=1e-12)


def test_ranking_is_stable_and_descending() -> None:
    assert ranking(np.array([0.2, 0.9, 0.2, 0.5])) == [1, 3, 0, 2]


def test_nearest_is_by_the_full_vectors_not_by_the_map() -> None:
    """Two points can lie on top of each other on the map and be far apart in a direction that it does not show."""
    vectors = np.array([[10, 0, 0], [-10, 0, 0], [0, 9, 0], [0, -9, 0], [1, 1, 8], [1, 1, -8]], dtype=np.float32)
    flat = flat_map(vectors).points
    on_map = np.linalg.norm(flat - flat[4], axis=1)
    on_map[4] = np.inf
    assert int(on_map.argmin()) == 5
    assert nearest(cosines(vectors), 4) != 5
    assert nearest(np.ones((1, 1)), 0) is None


def test_the_map_of_points_in_a_plane_keeps_all_distances() -> None:
    """PCA of data with two dimensions is a rotation: nothing may be lost, and all variance is shown."""
    rng = np.random.default_rng(1)
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    vectors = (rng.normal(size=(9, 2)) @ plane + 3.0).astype(np.float32)
    flat = flat_map(vectors)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert np.allclose(np.linalg.norm(flat.points[:, None] - flat.points[None], axis=-1), distances, atol=1e-5)
    assert sum(flat.explained) == pytest.approx(1.0, abs=1e-6)
    assert flat.explained[0] >= flat.explained[1] > 0


def test_the_map_does_not_flip_when_texts_change_places() -> None:
    vectors = some_vectors()
    order = np.random.default_rng(2).permutation(len(vectors))
    assert np.allclose(flat_map(vectors[order]).points, flat_map(vectors).points[order], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_the_map_of_very_few_texts_exists(count: int) -> None:
    flat = flat_map(some_vectors(count))
    assert flat.points.shape == (count, 2) and np.isfinite(flat.points).all()


def test_csv_reads_back_and_cannot_run_as_a_formula() -> None:
    texts = ['plain, with "quotes"', "=HYPERLINK(1)", "+1"]
    table = cosines(some_vectors(3))
    rows = list(csv.reader(io.StringIO(to_csv(["1", "2", "3"], texts, table))))
    assert rows[0] == ["number", "text", "1", "2", "3"]
    assert rows[1][1] == texts[0] and rows[2][1] == "'=HYPERLINK(1)" and rows[3][1] == "'+1"
    assert np.allclose([[float(cell) for cell in row[2:]] for row in rows[1:]], table, atol=1e-6)


def test_lines_are_texts() -> None:
    assert lines_of("  one \n\n two\n") == ["one", "two"]


@pytest.mark.parametrize("text", ["", " \n ", "\n".join(["x"] * (MAX_LINES + 1)), "y" * 4001])
def test_lists_that_cannot_be_compared_are_sentences(text: str) -> None:
    with pytest.raises(InputError, match=r"\.$"):
        lines_of(text)


def test_bars_are_ranked_and_tell_how_ranks_moved() -> None:
    html = bars(["a<b>", "b", "c"], np.array([0.1, 0.9, 0.5]), np.array([0.9, 0.5, 0.1]))
    places = [html.index(f'"rank-text">{text} ') for text in ("b", "c", "a&lt;b&gt;")]
    assert places == sorted(places)
    assert html.count("▲1") == 2 and html.count("▼2") == 1


def test_a_ranked_text_keeps_the_number_that_heatmap_and_map_know_it_by() -> None:
    """The rank is another number: with it alone, text 1 of the ranking and text 1 of the heatmap would be mistaken."""
    html = bars(["a", "b", "c"], np.array([0.1, 0.9, -0.0001]))
    assert re.findall(r'"rank-text">(.) <button type="button" class="line-number" data-near="(\d)', html) == [
        ("b", "2"), ("a", "1"), ("c", "3"),
    ]  # fmt: skip
    assert ">0.000<" in html and ">0.900<" in html
    assert ">−0.250<" in bars(["a"], np.array([-0.25]))


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_numbers_stand_out_on_every_colour_of_the_heatmap(share: float) -> None:
    """At least 4.5 to 1, also on the grey middle of the scale."""
    (colour,) = sample_colorscale(SCALE, [share], colortype="tuple")
    ground, letters = luminance(colour), 1.0 if letters_on(share) == "#ffffff" else 0.0
    assert (max(ground, letters) + 0.05) / (min(ground, letters) + 0.05) >= 4.5


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2, of red, green and blue from 0 to 1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_figures_hold_the_numbers_and_escape_the_texts() -> None:
    vectors = some_vectors(4)
    labels, texts = ["Q", "1", "2", "3"], ["<script>", "b", "c", "d"]
    table = cosines(vectors)
    heat = heatmap(labels, texts, table)
    assert np.allclose(np.asarray(heat.data[0].z, dtype=float), table)
    written = [float(text.replace("−", "-")) for text in heat.data[1].text]
    assert np.allclose(np.reshape(written, table.shape), table, atol=0.0051)
    flat = flat_map(vectors)
    figure = map_figure(labels, texts, flat, table)
    stars = [trace for trace in figure.data if trace.marker.symbol == "star"]
    assert len(stars) == 1 and stars[0].x[0] == pytest.approx(flat.points[0, 0])
    assert "PCA" in figure.layout.title.text
    assert "<script>" not in figure.to_json() + heat.to_json()


def test_neighbours_are_those_of_the_full_vectors_closest_first() -> None:
    vectors = some_vectors(30)
    table = cosines(vectors)
    for row in range(30):
        naive = sorted((j for j in range(30) if j != row), key=lambda j: -table[row, j])
        assert closest(table, row, 5) == naive[:5]
    assert closest(np.ones((1, 1)), 0) == []
    html = neighbours_data(["<b>", "b"], ["1", "2"], cosines(some_vectors(2)))
    assert "<b>" not in html and "[[[1, " in unescape(html)


def test_a_thousand_texts_show_the_first_ranks_and_fold_the_rest() -> None:
    """The page of many texts must not be metres long, nor hold a million cells."""
    vectors = some_vectors(MAX_LINES)
    texts, labels = [f"text {i}" for i in range(MAX_LINES)], [str(i) for i in range(MAX_LINES)]
    table = cosines(vectors)
    html = bars(texts, table[0])
    shown, folded = html.split("<details")
    assert shown.count("<li") == TOP and folded.count("<li") == MAX_LINES - TOP and "All 1,000" in folded
    assert len(heatmap(labels, texts, table).data[0].z) == MOST_CELLS
    assert len(map_figure(labels, texts, flat_map(vectors), table).data) <= 3
