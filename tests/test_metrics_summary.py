"""What the protocols make of scores of tracks, by numbers that can be checked in the head."""

import math

import pytest

from sepcli.metrics.summary import MEAN, MEDIAN, METRICS, POOLED, PROTOCOLS, ZERO_MEAN, metric, summarize
from sepcli.metrics.windows import MSDM

NAN = math.nan


def run(**tracks):
    return {
        name: {stem: {"usdr": value, "sdr": value} for stem, value in stems.items()}
        for name, stems in tracks.items()
    }


def only(lines, metric_key, statistic):
    (line,) = [line for line in lines if (line.metric, line.statistic) == (metric_key, statistic)]
    return line


def test_mdx_is_the_mean_over_the_songs_that_have_the_stem_then_over_the_stems():
    scores = run(a={"vocals": 1.0, "bass": 10.0}, b={"vocals": 3.0}, c={"vocals": 8.0})
    line = only(summarize([scores], ["mdx"]), "usdr", MEAN)
    assert list(line.stems) == ["bass", "vocals"]
    assert (line.stems["vocals"].value, line.stems["vocals"].tracks) == (4.0, 3)
    assert (line.stems["bass"].value, line.stems["bass"].tracks) == (10.0, 1)
    assert line.mean.value == 7.0 and line.mean.std is None


def test_musdb_is_the_median_over_tracks_and_the_mean_beside_it():
    lines = summarize([run(a={"vocals": 1.0}, b={"vocals": 3.0}, c={"vocals": 8.0})], ["musdb"])
    assert [(line.metric, line.statistic) for line in lines] == [("sdr", MEDIAN), ("sdr", MEAN)]
    assert lines[0].stems["vocals"].value == 3.0 and lines[1].stems["vocals"].value == 4.0


def test_undefined_tracks_are_left_out_and_a_stem_without_any_is_undefined():
    scores = run(a={"vocals": NAN, "bass": NAN}, b={"vocals": 3.0, "bass": NAN}, c={"vocals": math.inf})
    line = only(summarize([scores], ["musdb"]), "sdr", MEDIAN)
    assert line.stems["vocals"].value == math.inf and line.stems["vocals"].tracks == 2
    assert math.isnan(line.stems["bass"].value) and line.stems["bass"].tracks == 0
    assert math.isnan(line.mean.value)


def test_runs_give_mean_and_sample_deviation():
    runs = [
        run(a={"vocals": 1.0, "bass": 0.0}),
        run(a={"vocals": 2.0, "bass": 1.0}),
        run(a={"vocals": 6.0, "bass": 2.0}),
    ]
    line = only(summarize(runs, ["mdx"]), "usdr", MEAN)
    assert line.stems["vocals"].value == 3.0 and line.stems["vocals"].std == pytest.approx(math.sqrt(7))
    assert line.mean.value == 2.0 and line.mean.std == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 2**2) / 2))


def test_a_mean_has_an_interval_over_tracks_a_median_none():
    scores = run(a={"vocals": 1.0, "bass": 2.0}, b={"vocals": 3.0, "bass": 4.0}, c={"vocals": 8.0})
    line = only(summarize([scores], ["mdx"]), "usdr", MEAN)
    assert line.stems["vocals"].interval == pytest.approx(4.302653 * math.sqrt(13 / 3))  # s^2 = 13
    assert line.stems["bass"].interval == pytest.approx(12.706205)
    shares = [(-3 / 3 - 1 / 2) / 2, (-1 / 3 + 1 / 2) / 2, (4 / 3) / 2]  # of the tracks in the mean's error
    expected = 4.302653 * math.sqrt(3 / 2 * sum(share**2 for share in shares))
    assert line.mean.interval == pytest.approx(expected)
    median, mean = summarize([scores], ["musdb"])
    assert median.statistic == MEDIAN and median.mean.interval is None
    assert mean.stems["vocals"].interval == line.stems["vocals"].interval


def test_no_interval_of_one_track_and_that_of_runs_is_over_their_tracks_means():
    line = only(summarize([run(a={"vocals": 1.0})], ["mdx"]), "usdr", MEAN)
    assert line.mean.interval is None and line.stems["vocals"].interval is None
    runs = [run(a={"vocals": 0.0}, b={"vocals": 4.0}), run(a={"vocals": 2.0}, b={"vocals": 2.0})]
    line = only(summarize(runs, ["mdx"]), "usdr", MEAN)
    assert (
        line.mean.interval
        == only(summarize([run(a={"vocals": 1.0}, b={"vocals": 3.0})], ["mdx"]), "usdr", MEAN).mean.interval
    )


def test_windows_of_all_tracks_are_pooled():
    def track(value, windows):
        return {"vocals": {MSDM.metric: value, MSDM.count: windows}}

    scores = {"a": track(1.0, 30), "b": track(4.0, 10), "c": track(NAN, 0)}
    (line,) = summarize([scores], ["msdm"])
    assert line.statistic == POOLED and line.mean.value == 1.75 and line.stems["vocals"].tracks == 2


def test_a_stem_that_only_a_metric_of_windows_has_spoils_no_other():
    scores = {
        "a": {
            "vocals": {"usdr": 1.0, MSDM.metric: 2.0, MSDM.count: 5},
            "bass": {MSDM.metric: 4.0, MSDM.count: 5},
        }
    }
    usdr, windowed = summarize([scores], ["mdx", "msdm"])
    assert (usdr.mean.value, list(usdr.stems)) == (1.0, ["vocals"])
    assert (windowed.mean.value, list(windowed.stems)) == (3.0, ["bass", "vocals"])


def test_metrics_that_were_not_computed_have_no_line():
    scores = {"a": {"vocals": {"sdr": 1.0, "si_sdr": 2.0, "si_sdri": 3.0}}}
    assert {line.metric for line in summarize([scores], PROTOCOLS)} == {"sdr", "si_sdr", "si_sdri"}
    assert summarize([], PROTOCOLS) == [] and summarize([{}], PROTOCOLS) == []


def test_every_metric_of_a_protocol_has_a_full_name():
    for protocol in PROTOCOLS.values():
        assert all(metric(key).name and metric(key).column for key in protocol.metrics)
    names = [each.name for each in [*METRICS.values(), *ZERO_MEAN.values()]]
    assert len(set(names)) == len(names)
    assert "removed" in metric("si_sdr", zero_mean=True).name
    assert metric("usdr", zero_mean=True) == metric("usdr")
