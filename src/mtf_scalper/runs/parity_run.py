"""The command ``parity``: a market, an exchange and a folder around the comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from mtf_scalper.checks.inventory import find_candles
from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.market.pairs import check_linear
from mtf_scalper.paths import user_data
from mtf_scalper.runs.given_predictions import GIVEN
from mtf_scalper.runs.parity import backtest, compare, load_config
from mtf_scalper.runs.parity_report import print_report
from mtf_scalper.runs.program import MODEL, STRATEGY, log_config, merged
from mtf_scalper.runs.project import demo_market, find_project


def run_parity(arguments: Mapping[str, Any], policy: str, console: Console) -> int:
    """Backtest, simulate, compare and print.

    Parameters
    ----------
    arguments : mapping
        Arguments of freqtrade's command line, by their names inside freqtrade.
    policy : str
        A name in ``GIVEN``, or another one to let FreqAI train and predict.
    console : Console

    Returns
    -------
    int
        0 if there were trades and all are the same, else 1.

    Raises
    ------
    MtfScalperError
        If the two sides cannot be compared.
    """
    console.print(
        f"freqtrade backtesting {arguments['timerange']} on {arguments['datadir']}, "
        f"policy {policy}",
        markup=False,
        soft_wrap=True,
    )
    backtested = backtest(load_config(arguments), GIVEN.get(policy))
    console.print(f"for this run: {', '.join(backtested.conditions)}", markup=False, soft_wrap=True)
    return print_report(console, backtested, compare(backtested))


@contextmanager
def offline_arguments(
    configs: Sequence[Path],
    timerange: str,
    *,
    datadir: Path | None = None,
    pairs: Sequence[str] = (),
    train_cycles: int = 2,
) -> Iterator[dict[str, Any]]:
    """Start the replay exchange and yield what freqtrade is told to backtest on it.

    The run has an own FreqAI identifier and an own folder, where freqtrade's log goes as well;
    nothing that is there already is used or changed.

    Parameters
    ----------
    configs : sequence of Path
        freqtrade configurations, later ones laid over earlier ones.
    timerange : str
        ``YYYYMMDD-YYYYMMDD``.
    datadir : Path, optional
        freqtrade data directory; the synthetic market by default.
    pairs : sequence of str
        Instead of the configuration's, if there are any.
    train_cycles : int
        Passes over the candles of every training window.

    Yields
    ------
    dict
        Arguments of freqtrade's command line, by their names inside freqtrade.

    Raises
    ------
    MtfScalperError
        If this is not the project's root, the data directory cannot be served, or it has no
        candles of a pair.
    """
    project = find_project()
    market = (datadir or demo_market(project)).resolve()
    _check_exchange(configs, pairs)
    _check_pairs(pairs, market)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    folder = user_data(project) / "runs" / f"parity-{stamp}"
    with running_exchange(market) as url:
        folder.mkdir(parents=True)
        overrides = folder / "overrides.json"
        content = _overrides(folder, url, pairs, train_cycles)
        overrides.write_text(json.dumps(content, indent=1), encoding="utf-8")
        yield {
            "config": [str(path) for path in (*configs, overrides)],
            "user_data_dir": str(user_data(project)),
            "datadir": str(market),
            "strategy": STRATEGY,
            "freqaimodel": MODEL,
            "timerange": timerange,
            "export": "none",
        }


def _check_exchange(configs: Sequence[Path], pairs: Sequence[str]) -> None:
    """Refuse what the replay exchange does not have: other exchanges, spot, coin-margined pairs."""
    config: dict[str, Any] = {}
    for path in configs:
        config = merged(config, json.loads(path.read_text(encoding="utf-8")))
    exchange = config.get("exchange", {})
    name = exchange.get("name", "binance")
    if name != "binance":
        raise SettingsError(
            f"exchange.name: the replay exchange is binance's and not {name}'s; run freqtrade "
            f"itself, which asks {name}, or set it to binance"
        )
    mode = config.get("trading_mode", "futures")
    if mode != "futures":
        raise SettingsError(
            f"trading_mode: the replay exchange has futures and no {mode} markets; run freqtrade "
            "itself, which asks the exchange, or set it to futures"
        )
    for pair in pairs or exchange.get("pair_whitelist", []):
        check_linear(pair)


def _check_pairs(pairs: Sequence[str], datadir: Path) -> None:
    files, _ = find_candles(datadir) if pairs else ((), ())
    missing = [pair for pair in pairs if pair not in {file.pair for file in files}]
    if missing:
        raise MarketError(f"{missing[0]}: no candles in {datadir}")


def _overrides(folder: Path, url: str, pairs: Sequence[str], train_cycles: int) -> dict[str, Any]:
    exchange = offline_exchange_config(url)["exchange"]
    if pairs:
        exchange["pair_whitelist"] = list(pairs)
    return {
        "exchange": exchange,
        "freqai": {
            "identifier": folder.name,
            "rl_config": {"train_cycles": train_cycles, "progress_bar": False},
        },
        "log_config": log_config(folder / "freqtrade.log"),
    }
