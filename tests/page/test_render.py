"""The page says what the record says: every figure is looked up in the files it came from."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.page.build import SECTIONS, build_page
from mtf_scalper.page.learning import window_name
from mtf_scalper.page.render import MAX_BYTES, write_page
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord


class Tables(HTMLParser):
    """Collects the cells' texts of every table by its id, the heading row first."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._table = ""
        self._cell: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[self._table][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def column(self, table: str, title: str) -> dict[str, str]:
        """Return the texts of a column by the rows' headings."""
        head, *rows = self.rows[table]
        return {row[0]: row[head.index(title)] for row in rows}


def packed(html: str, name: str) -> bytes:
    match = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', html)
    assert match is not None
    return gzip.decompress(base64.b64decode(match[1]))


@pytest.fixture(scope="module")
def html(recorded) -> str:
    return write_page(recorded.folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(html) -> Tables:
    return Tables(html)


@pytest.fixture(scope="module")
def plots(html) -> dict[str, Any]:
    return json.loads(packed(html, "data-packed"))


def traces(plots: dict[str, Any], plot: str, name: str, choice: str | None = None) -> list[Any]:
    return [
        trace
        for trace in plots[plot]["traces"]
        if trace["name"] == name and (choice is None or choice in trace["meta"]["choice"])
    ]


def test_it_is_one_file_of_less_than_5_mb_that_is_replaced_whole(recorded, html) -> None:
    assert len(html.encode()) < MAX_BYTES
    path = write_page(recorded.folder)
    assert path == recorded.folder / "report.html"
    assert path.read_text(encoding="utf-8") == html  # the same record, the same page
    assert [each.name for each in recorded.folder.glob(".*")] == []


def test_it_asks_for_nothing_from_anywhere(html) -> None:
    without_scripts = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)=\"(?!#|data:)", without_scripts) == []
    assert "connect-src 'none'" in unescape(html)
    assert "url(" not in html
    assert "http" not in re.sub(r"<script type.*?</script>|http-equiv", "", html, flags=re.DOTALL)


def test_the_verdict_stands_first(html) -> None:
    body = html[html.index("<body>") :]
    assert "No evidence of an edge." in body
    assert body.index("No evidence of an edge.") < body.index('class="facts"')
    assert body.index('class="facts"') < body.index("<main")


def test_every_section_is_there_in_order(html) -> None:
    assert re.findall(r'<section id="(\w+)"', html) == [n for n in SECTIONS if n != "search"]


def test_final_returns_are_those_of_the_equity_file(recorded, tables, plots) -> None:
    equity = pd.read_feather(recorded.folder / "equity.feather")
    finals = equity.groupby(["pair", "series"])["log_return"].last()
    names = {"oracle": "best in hindsight"}
    assert tables.rows["comparison-table"][0][1:4] == ["all", "BTC/USDT:USDT", "ETH/USDT:USDT"]
    for (pair, series), value in finals.items():
        shown = tables.column("comparison-table", str(pair))[names.get(series, series)]
        assert shown == f"{value:+.4f}"
        (trace,) = traces(plots, "equity-plot", names.get(series, series), pair)
        assert trace["y"][-1] == pytest.approx(value, rel=1e-5, abs=1e-12)


def test_the_optimum_has_a_panel_of_its_own_and_all_other_lines_share_one(plots) -> None:
    drawn = plots["equity-plot"]
    panels = {trace["name"]: trace.get("yaxis", "y") for trace in drawn["traces"]}
    assert panels.pop("best in hindsight") == "y2"
    assert set(panels.values()) == {"y"}
    assert drawn["layout"]["yaxis2"]["domain"][1] < drawn["layout"]["yaxis"]["domain"][0]


def test_thinned_equity_keeps_extremes_and_its_points_are_points_of_the_file(
    recorded, plots
) -> None:
    equity = pd.read_feather(recorded.folder / "equity.feather")
    mine = equity[(equity["pair"] == "BTC/USDT:USDT") & (equity["series"] == "buy and hold")]
    assert len(mine) == 4032
    (trace,) = traces(plots, "equity-plot", "buy and hold", "BTC/USDT:USDT")
    assert len(trace["x"]) <= 1500
    assert max(trace["y"]) == pytest.approx(mine["log_return"].max(), rel=1e-5)
    assert min(trace["y"]) == pytest.approx(mine["log_return"].min(), rel=1e-5)
    moments = mine["date"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    known = dict(zip(moments.tolist(), mine["log_return"], strict=True))
    for moment, value in zip(trace["x"], trace["y"], strict=True):
        assert value == pytest.approx(known[moment], rel=1e-5, abs=1e-9)


def test_candles_are_those_of_the_file(recorded, plots) -> None:
    table = pd.read_feather(recorded.folder / "candles-ETH_USDT_USDT.feather")
    (trace,) = traces(plots, "candles-plot", "price", "ETH/USDT:USDT")
    assert trace["x"] == {"start": 1_727_740_800_000, "step": 300_000, "n": 4032}
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(trace[name], table[name], rtol=1e-5)


def test_each_of_the_agents_trades_is_drawn_once(recorded, plots) -> None:
    for pair in ("BTC/USDT:USDT", "ETH/USDT:USDT"):
        mine = recorded.trades[recorded.trades["pair"] == pair]
        for reason, words in (("agent_exit", "the agent left"), ("stop_loss", "stop loss")):
            ended = mine[mine["exit_reason"] == reason]
            (trace,) = traces(plots, "candles-plot", f"exit: {words}", pair)
            np.testing.assert_allclose(trace["y"], ended["close_rate"], rtol=1e-5)
        drawn = sum(
            len(trace["x"])
            for trace in plots["candles-plot"]["traces"]
            if trace["name"].startswith("exit:") and trace["meta"]["choice"] == pair
        )
        assert drawn == len(mine)


def test_the_probability_of_leaving_is_that_among_valid_actions(recorded, plots) -> None:
    table = pd.read_feather(recorded.folder / "predictions-BTC_USDT_USDT.feather")
    (trace,) = traces(plots, "candles-plot", "leave a short", "BTC/USDT:USDT")
    wanted = table["short_exit"] / (table["short_exit"] + table["neutral"])
    np.testing.assert_allclose(trace["y"], wanted, atol=1e-4)


def test_figures_are_those_of_the_file(recorded, tables) -> None:
    head, *rows = tables.rows["figures-table"]
    assert len(rows) == len(recorded.judged.figures) == 3 * (1 + 2)
    for row, figures in zip(rows, recorded.judged.figures, strict=True):
        shown = dict(zip(head, row, strict=True))
        value, low, high = (figures["log_return"][name] for name in ("value", "low", "high"))
        interval = "" if low is None else f" [{low:+.4f} to {high:+.4f}]"
        assert shown["log return"] == f"{value:+.4f}{interval}"
        assert (low is None) is (figures["window"] is not None)  # a week is too short
        assert shown["trades"] == f"{figures['n_trades']:,.0f}"
        assert shown["of optimum"].split()[0] == f"{figures['oracle_share']['value']:.1%}"
        assert shown["random beaten"] == f"{figures['random_rank']:.0%}"


def test_key_figures_are_those_of_the_pooled_row(recorded, html) -> None:
    found = re.findall(r"<dt>(.*?)</dt><dd><span class=\"value \w*\">(.*?)</span>", html)
    facts = dict(found)
    pooled = recorded.judged.figures[0]
    assert facts["Traded"] == f"{len(recorded.trades)} trades"
    assert facts["Agent"] == f"{pooled['log_return']['value']:+.4f}"
    assert facts["Classic exits"] == f"{pooled['classic_exits']:+.4f}"
    assert facts["Buy and hold"] == f"{pooled['buy_and_hold']:+.4f}"
    assert facts["Best in hindsight"] == f"{pooled['oracle']:+.4f}"
    assert facts["Random exits beaten"] == f"{pooled['random_rank']:.0%}"
    run = Run.open(recorded.folder)
    finished = run.events("training_finished")
    speed = sum(e["steps"] for e in finished) / sum(e["seconds"] for e in finished)
    assert facts["Speed"] == f"{speed:,.0f} steps/s"
    busy = run.samples().query("tree_percent > 100")["tree_percent"].mean() / 100
    assert float(facts["Machine"].split()[0]) == pytest.approx(busy, abs=0.05)


def test_exits_add_up_to_the_trades(recorded, tables, plots) -> None:
    counts = tables.column("exits-table", "trades")
    assert counts.pop("all") == str(len(recorded.trades))
    assert sum(map(int, counts.values())) == len(recorded.trades)
    drawn = [sum(trace["x"]) for trace in plots["exits-plot"]["traces"]]
    won = int((recorded.trades["profit_ratio"] > 0).sum())
    assert drawn == [won, len(recorded.trades) - won]
    for reason, words in (("roi", "profit target (ROI)"), ("max_duration", "longest duration")):
        mine = recorded.trades[recorded.trades["exit_reason"] == reason]
        shown = tables.column("exits-table", "average profit")[words]
        assert shown == f"{mine['profit_ratio'].mean():+.3%}"


def test_random_exits_are_all_counted(recorded, plots, html) -> None:
    accounts = {**recorded.judged.by_pair, "all": recorded.judged.whole}
    for pair, account in accounts.items():
        draws, own = account.draws.sum(axis=1), account.days.log_return.sum()
        (trace,) = traces(plots, "random-plot", "random exits", pair)
        assert sum(trace["y"]) == len(draws) == 100
        (line,) = traces(plots, "random-plot", "the agent", pair)
        assert line["x"][0] == pytest.approx(own)
        assert f"{own:+.4f} beats {np.mean(draws < own):.0%}" in html


def test_learning_curves_are_the_history(recorded, plots, tables) -> None:
    history = Run.open(recorded.folder).history()
    drawn = plots["learning-plot"]["traces"]
    assert len(drawn) == 4 * 3
    for name, axis in (("mean_episode_return", "y"), ("validation_log_return", "y2")):
        values = [value for t in drawn if t["yaxis"] == axis for value in t["y"]]
        np.testing.assert_allclose(values, history[name], rtol=1e-5)
    assert set(tables.column("training-table", "steps/s").values()) == {"23,690"}


def test_phases_are_timed_and_samples_are_drawn(recorded, tables, plots) -> None:
    seconds = tables.column("phase-table", "time")
    assert seconds["backtest"] == "4.0 s"
    assert seconds["inference"] == "0.4 s"
    assert sum(int(n) for n in tables.column("phase-table", "samples").values()) <= 64
    samples = Run.open(recorded.folder).samples()
    (trace,) = traces(plots, "machine-plot", "cores used by the run")
    np.testing.assert_allclose(trace["y"], samples["tree_percent"] / 100, rtol=1e-4)
    strip = {trace["name"] for trace in plots["machine-plot"]["traces"] if trace["type"] == "bar"}
    assert {"phase: update", "phase: backtest"} <= strip


def test_importance_checks_and_manifest_are_those_of_the_files(recorded, tables, html) -> None:
    assert tables.column("importance-table", "median")["%-feature_4"] == "+0.0250"
    checks = json.loads((recorded.folder / "checks.json").read_text())
    assert [row[:4] for row in tables.rows["checks-table"][1:]] == [
        [check["name"], check["verdict"], check["measured"], check["expected"]] for check in checks
    ]
    assert "1 of 2 checks passed" in html
    manifest = json.loads((recorded.folder / "manifest.json").read_text())
    shown = tables.column("manifest-table", "value")
    assert shown["command"] == "mtf-scalper demo"
    assert shown["data_digest.BTC/USDT:USDT"] == "0123456789abcdef"
    assert shown["versions.torch"] == manifest["versions"]["torch"]
    assert tables.column("settings-table", "value")["net_arch"] == "512, 512, 256"
    weights = tables.column("weights-table", "value")
    assert set(weights.values()) == {"ab" * 32}
    assert set(weights) == {
        f"{event['pair']}, {window_name(event['window'])}"
        for event in Run.open(recorded.folder).events("weights")
    }
    statistics = json.loads((recorded.folder / "statistics.json").read_text())
    assert tables.column("statistics-table", "value")["verdict"] == statistics["verdict"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-train-BTC_1728950400", "from 2024-10-15"),
        ("sub-train-BTC_1728972300", "from 2024-10-15 06:05"),
        ("20241015", "from 2024-10-15"),
        ("20241099", "20241099"),
        ("sub-train-BTC_" + "9" * 30, "sub-train-BTC_" + "9" * 30),
        ("sub-train-BTC_now", "sub-train-BTC_now"),
    ],
)
def test_a_window_is_named_by_when_it_begins(name: str, expected: str) -> None:
    assert window_name(name) == expected


def test_what_a_record_says_is_text_and_no_markup(recorded, tables, html) -> None:
    assert "&lt;too low&gt; &amp; other" in html
    assert "the median is <too low> & other" in tables.rows["checks-table"][2][4]


def test_no_folder_of_this_machine_is_told_beyond_what_the_manifest_says(recorded, html) -> None:
    manifest = (recorded.folder / "manifest.json").read_text(encoding="utf-8")
    for place in {str(Path.home()), str(recorded.folder.parent), os.getcwd(), sys.prefix}:
        if place not in manifest and len(place) > 1:
            assert place not in html
            assert place not in packed(html, "data-packed").decode()


def test_a_record_of_nothing_but_its_manifest_says_so_in_every_section(bare) -> None:
    html = write_page(bare.folder).read_text(encoding="utf-8")
    assert html.count('class="missing"') == len(SECTIONS) - 2  # the manifest is there, no search
    assert "Running: no training has begun." in html


@pytest.mark.parametrize("name", ["events.jsonl", "samples.jsonl", "trades.jsonl"])
def test_a_torn_line_is_left_out(name: str, bare) -> None:
    (bare.folder / name).write_text('{"event": "prog', encoding="utf-8")
    assert "no training has begun" in write_page(bare.folder).read_text(encoding="utf-8")


def test_a_failed_run_says_why(bare) -> None:
    bare.fail("BTC/USDT:USDT: 3 candles are too few")
    html = write_page(bare.folder).read_text(encoding="utf-8")
    assert "Failed: BTC/USDT:USDT: 3 candles are too few" in html
    assert 'status-failed">failed' in html


def test_a_killed_run_says_how_far_it_was(make_run, tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo", pairs=["BTC/USDT:USDT"])
    manifest = json.loads((record.folder / "manifest.json").read_text())
    manifest["process"]["started"] -= 1e6  # another process had this id
    (record.folder / "manifest.json").write_text(json.dumps(manifest))
    log = record.events(pair="BTC/USDT:USDT", window="w1", seed=1)
    log.write("training_started", total_steps=1000)
    log.write(
        "progress", steps=250, total_steps=1000, seconds=0.5, phase="update", oracle_share=0.1
    )
    html = write_page(record.folder).read_text(encoding="utf-8")
    assert "Ended from outside before it was done" in html
    said = "0 trainings finished; BTC, w1, seed 1: 25%, update, 500 steps/s, "
    assert f"{said}held-out return 10% of the optimum." in html


def test_a_degenerate_policy_is_named_first(bare) -> None:
    why = "never trades (0 of 12 chances)"
    bare.write_json("figures", [{"pair": "all", "log_return": 0.0, "degenerate": why}])
    bare.finish("No evidence of an edge.")
    html = write_page(bare.folder).read_text(encoding="utf-8")
    assert 'class="verdict bad" id="verdict">DEGENERATE, never trades (0 of 12 chances). No' in html


def test_standing_aside_is_no_degeneracy(bare) -> None:
    row = {"pair": "all", "degenerate": "never trades", "stands_aside": "took 0 of 12 entries"}
    bare.write_json("figures", [{**row, "log_return": 0.0}])
    bare.finish("No evidence of an edge: standing aside is the finding, the agent took 0 of 12.")
    html = write_page(bare.folder).read_text(encoding="utf-8")
    assert 'class="verdict " id="verdict">No evidence of an edge: standing aside is the' in html
    assert "to decline nearly all of them is a decision" in html
    assert "DEGENERATE" not in html


def test_missing_figures_are_not_invented(bare) -> None:
    bare.write_json("figures", [{"pair": "BTC", "log_return": 0.5, "sharpe": None}])
    bare.finish()
    html = write_page(bare.folder).read_text(encoding="utf-8")
    tables = Tables(html)
    assert tables.rows["figures-table"] == [["pair", "log return"], ["BTC", "+0.5000"]]
    assert "Buy and hold</dt>" not in html
    assert "no verdict is recorded" in html


def test_without_plotly_one_line_says_what_to_install(recorded, monkeypatch) -> None:
    from mtf_scalper.page import render

    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    render._plotly.cache_clear()
    with pytest.raises(MtfScalperError, match=r"plotly.* is not installed; .*mtf-scalper\[evid"):
        write_page(recorded.folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MtfScalperError, match="is no run folder"):
        write_page(tmp_path)


def test_a_page_that_cannot_be_written_names_it(recorded, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MtfScalperError, match=r"the page: .*file: is no folder"):
        write_page(recorded.folder, tmp_path / "file" / "x.html")


def test_trades_of_several_seeds_are_chosen_one_by_one(bare: RunRecord) -> None:
    dates = pd.date_range("2024-10-01", periods=50, freq="5min", tz="UTC")
    prices = {name: np.full(50, 100.0) for name in ("open", "high", "low", "close")}
    bare.write_candles("BTC", pd.DataFrame({"date": dates, **prices, "volume": 1.0}))
    trade = {"series": "agent", "pair": "BTC", "side": "long", "exit_reason": "agent_exit"}
    trade |= {"open_date": dates[3], "close_date": dates[9], "open_rate": 100.0, "leverage": 1.0}
    trade |= {"close_rate": 100.0, "profit_ratio": -0.001}
    bare.append_trades([{**trade, "seed": seed} for seed in (42, 42, 43)])
    html = write_page(bare.folder).read_text(encoding="utf-8")
    plots = json.loads(packed(html, "data-packed"))
    for choice, n_trades in (("BTC, seed 42", 2), ("BTC, seed 43", 1)):
        assert f'<option value="{choice}">' in html
        (exits,) = traces(plots, "candles-plot", "exit: the agent left", choice)
        assert len(exits["x"]) == n_trades
        assert len(traces(plots, "candles-plot", "price", choice)) == 1
    assert "BTC and ETH, 2 seeds, 01 Oct to 01 Oct 2024" in html


def test_the_row_of_the_only_pair_speaks_for_the_run(bare: RunRecord) -> None:
    figures = {"log_return": {"value": 0.5, "low": 0.25, "high": 0.75}, "oracle": 2.0}
    rows = [{"pair": "BTC", "window": None, "seed": None, **figures}]
    rows += [{"pair": "BTC", "window": window, "seed": None, "log_return": 0.1} for window in "ab"]
    bare.write_json("figures", rows)
    bare.write_json("statistics", {"found": True})
    bare.finish("evidence of an edge")
    html = write_page(bare.folder).read_text(encoding="utf-8")
    assert 'class="verdict good" id="verdict">Evidence of an edge</p>' in html
    assert "95% interval +0.250 to +0.750" in html
    assert "the agent earned 25% of it" in html


def test_windows_begin_where_their_test_does_and_updates_of_members_are_found(
    bare: RunRecord,
) -> None:
    log = bare.events(pair="BTC", window="20241001", seed=1)
    log.write("window", train_to="2024-09-29T00:00:00+00:00", test_from="2024-10-01T00:00:00+00:00")
    log.write("training_started", total_steps=20)
    for member in (7, 8):
        for steps in (10, 20):
            log.write("update", seed=member, steps=steps, validation_log_return=0.01 * member)
    log.write("training_finished", steps=20, seconds=2.0)
    dates = pd.date_range("2024-10-01", periods=9, freq="5min", tz="UTC")
    line = {"date": dates, "pair": "BTC", "seed": 1, "series": "agent", "log_return": 0.0}
    bare.write_table("equity", pd.DataFrame(line))
    html = write_page(bare.folder).read_text(encoding="utf-8")
    plots = json.loads(packed(html, "data-packed"))
    assert [s["x0"] for s in plots["equity-plot"]["layout"]["shapes"]] == [1_727_740_800_000]
    curves = [(t["x"], t["y"]) for t in plots["learning-plot"]["traces"]]
    assert curves == [([10, 20], [0.07, 0.07]), ([10, 20], [0.08, 0.08])]
    assert Tables(html).column("training-table", "steps/s") == {
        "BTC, from 2024-10-01, seed 1": "10"
    }


def test_the_events_of_a_run_are_read_once(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most sections ask for them, and a large evaluation leaves many."""
    read = Run.events
    n_reads = []

    def counted(run: Run, name: str | None = None) -> list[dict[str, Any]]:
        n_reads.append(name)
        return read(run, name)

    monkeypatch.setattr(Run, "events", counted)
    build_page(Run.open(recorded.folder))
    assert n_reads == [None]
