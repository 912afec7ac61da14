"""Which of several models is recommended: what may be compared, and what decides first."""

from __future__ import annotations

from sepcli.weights.entries import Entry, Score
from sepcli.weights.finding import OWN_SET, SEEN_SET, ranked, yardsticks


def model(name, listed=None, **figures):
    sets = {"good": "Good set", "rare": "Rare set", "seen": SEEN_SET, "own": OWN_SET}
    scores = tuple(
        Score("SDR", sets[key], None, "published", {"vocals": value}) for key, value in figures.items()
    )
    return Entry(name, "toys", ("vocals",), 44100, 2, (), listed=listed, scores=scores)


MODELS = [
    model("seen-high", seen=12.0),
    model("known", 6, own=99.0),
    model("good-low", good=8.0, seen=7.0),
    model("good-high", good=9.0, rare=5.0),
    model("seen-low", seen=10.0),
    model("listed", 2),
]


def test_songs_that_models_learnt_from_decide_only_where_nothing_else_is_known():
    """Also where most models have a figure of them."""
    measures = yardsticks(MODELS, "vocals")
    assert [measure.set for measure in measures] == ["Good set", SEEN_SET]
    names = [entry.name for entry in ranked(MODELS, measures)]
    assert names == ["good-high", "good-low", "seen-high", "seen-low", "known", "listed"]


def test_figures_that_can_not_be_compared():
    assert yardsticks([MODELS[1]], "vocals") == [] and yardsticks(MODELS, "drums") == []
    assert [measure.set for measure in yardsticks(MODELS[:2], "vocals")] == [SEEN_SET]
    assert [entry.name for entry in ranked([MODELS[5], MODELS[1]], [])] == ["known", "listed"]
