"""Labels of boxes: letters of any alphabet, and places where none hides another."""

import logging

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.visualize import labels as module
from yolor_d2.visualize.boxes import PALETTE, draw_boxes
from yolor_d2.visualize.labels import (
    LEAST_LETTERS,
    default_font_file,
    label_size,
    letters_of_picture,
    place_labels,
    places_around,
    readable_name,
    render_label,
    text_colour,
    write_text,
)

TEXTS = ["a", "person 0.87", "Straße", "a class with a very long name that no box can hold 0.50"]


# ---- Places


@st.composite
def scenes(draw):
    """Boxes of all sizes in and around a picture, and their labels."""
    height, width = draw(st.integers(1, 1500)), draw(st.integers(1, 1500))
    count = draw(st.integers(0, 25))
    sides = st.one_of(st.integers(0, 8), st.integers(0, 1600))
    boxes = []
    for _ in range(count):
        x, y = draw(st.integers(-200, width + 50)), draw(st.integers(-200, height + 50))
        boxes.append([x, y, x + draw(sides), y + draw(sides)])
    texts = [draw(st.sampled_from(TEXTS)) for _ in boxes]
    return np.array(boxes, dtype=np.int64).reshape(-1, 4), texts, (height, width)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(scenes(), st.integers(1, 6))
@example((np.tile([[10, 10, 300, 300]], (20, 1)), ["person 0.87"] * 20, (400, 400)), 2)
def test_no_label_hides_what_it_should_not(scene, line):
    """Checked by counting pixels: each belongs to one label at most."""
    boxes, texts, picture = scene
    placed = place_labels(boxes, texts, range(len(boxes)), picture, line=line)
    assert len({x.index for x in placed}) == len(placed)
    canvas = np.zeros(picture, dtype=np.uint8)
    for label in placed:
        width, height = label_size(label.text, label.letters)
        assert (label.right - label.left, label.bottom - label.top) == (width, height)
        assert label.left >= 0 and label.top >= 0
        assert label.right <= picture[1] and label.bottom <= picture[0]
        canvas[label.top : label.bottom, label.left : label.right] += 1
        assert label.text == texts[label.index] and label.letters >= LEAST_LETTERS
        x1, y1, x2, y2 = np.clip(boxes[label.index], 0, [*picture[::-1], *picture[::-1]])
        assert height <= 0.45 * ((x2 - x1) * (y2 - y1)) ** 0.5
    assert canvas.max(initial=0) <= 1
    for x1, y1, x2, y2 in np.clip(boxes, 0, [*picture[::-1], *picture[::-1]]):
        for label in placed:
            seen = np.zeros(picture, dtype=bool)
            seen[y1:y2, x1:x2] = True
            hidden = seen[label.top : label.bottom, label.left : label.right].sum()
            assert hidden <= 0.3 * max(seen.sum(), 1)


def test_places_by_hand():
    """A label of 20 x 10 around a box with lines of 1 pixel, which are drawn at its edges."""
    places = [*places_around((50, 40, 90, 80), (20, 10), 1, (200, 300))]
    assert places == [
        *[(49, 29), (72, 29)],  # above, from the left and to the right
        *[(49, 82), (72, 82)],  # below
        *[(92, 39), (29, 39)],  # beside
        *[(50, 40), (71, 40), (50, 71), (71, 71)],  # inside
    ]


def test_the_best_chooses_first():
    boxes = np.array([[100, 100, 180, 180], [104, 100, 184, 180]])
    for order in ([0, 1], [1, 0]):
        placed = place_labels(boxes, ["a", "b"], order, (400, 400))
        assert [x.index for x in placed] == order
        assert placed[0].bottom < 100 and placed[0].left < 110
        assert placed[1].left > 110 or placed[1].top > 110


@pytest.mark.heavy
def test_cells_stay_visible():
    """200 boxes of 60 pixels in a picture of 12 megapixels, far from each other and in a heap."""
    rng = np.random.default_rng(0)
    for area in ((3900, 2900), (900, 700)):
        corners = rng.integers(0, area, (200, 2))
        boxes = np.concatenate([corners, corners + 60], axis=1)
        image = np.zeros((3000, 4000, 3), np.uint8)
        drawn = draw_boxes(image, boxes, [0] * 200, ["RBC"], rng.random(200).tolist())
        inside = np.zeros(image.shape[:2], dtype=bool)
        for x1, y1, x2, y2 in boxes:
            inside[y1:y2, x1:x2] = True
        lines = draw_boxes(image, boxes, [0] * 200, ["RBC"], labels=False).any(axis=2)
        covered = (drawn.any(axis=2) & inside & ~lines).sum() / inside.sum()
        assert covered < (0.02 if area[0] > 1000 else 0.2)
        placed = place_labels(boxes, ["RBC 0.50"] * 200, range(200), image.shape[:2])
        assert len(placed) > (190 if area[0] > 1000 else 40)
        assert all(x.bottom - x.top <= 20 for x in placed)


@pytest.mark.parametrize(
    "sides, letters", [((120, 160), 9), ((480, 640), 13), ((1080, 1920), 24), ((3000, 4000), 40)]
)
def test_letters_go_with_the_picture(sides, letters):
    assert letters_of_picture(*sides) == letters


def test_letters_that_are_given_are_for_all_boxes():
    boxes = np.array([[5, 5, 6, 6], [5, 5, 6, 6], [5, 5, 6, 6]])
    assert place_labels(boxes, ["a", "b", "c"], range(3), (100, 100)) == []
    placed = place_labels(boxes, ["a", "b", "c"], range(3), (100, 100), letters=13)
    assert [x.letters for x in placed] == [13] * 3


# ---- Letters


def test_letters_of_other_alphabets_are_drawn(caplog):
    """Not the mark that stands for a missing one."""
    for name in ("Straße", "Ångström", "Жук", "λ"):
        assert readable_name(name, 3) == name
        missing = write_text("\uffff" * len(name), 20)
        drawn = write_text(name, 20)
        assert drawn.shape != missing.shape or (drawn != missing).any()
    assert not caplog.records


def test_what_no_font_can_draw_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(module, "font_file", lambda text: None)
    readable_name.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert readable_name("\U000f0000", 7) == readable_name("\U000f0000", 7) == "class 7"
    readable_name.cache_clear()
    (record,) = caplog.records
    assert "class 7" in record.getMessage() and "font" in record.getMessage()


def test_fonts_of_the_system_are_looked_at(monkeypatch):
    """Of a character that the default font lacks: a mathematical one, in a font of matplotlib."""
    assert module.font_file("plain") == default_font_file()
    found = module.font_file("\U0001d538")
    assert found is None or module.has_characters(found, "\U0001d538")
    assert module.font_file("\U000f0000") is None  # of no alphabet


def test_names_are_in_one_line():
    assert readable_name("two\nlines\t", 0) == "two lines"
    assert readable_name(" ", 4) == "class 4"


@pytest.mark.parametrize("ground", [*PALETTE, (0, 0, 0), (255, 255, 255), (119, 119, 119)])
def test_letters_stand_out_from_their_ground(ground):
    """WCAG's contrast of at least 4.5, computed here by its formula."""

    def luminance(colour) -> float:
        shares = [x / 255 for x in colour]
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(ground), luminance(text_colour(ground))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert text_colour(ground) in ((0, 0, 0), (255, 255, 255))
    label = render_label("ring", 13, ground)
    assert (label == text_colour(ground)).all(axis=2).any() and tuple(label[0, 0]) == ground
