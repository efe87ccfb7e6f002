"""What stands first on a page: the verdict, and the few figures that matter most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.evaluation.rank import rank
from mtf_scalper.page.figures import ALL, Figure, figure, final_returns, pooled, seeds_of
from mtf_scalper.page.learning import training_title
from mtf_scalper.page.machine import samples_in
from mtf_scalper.page.parts import (
    Fact,
    Page,
    count,
    joined,
    log_return,
    megabytes,
    number,
    share,
    short_pair,
)
from mtf_scalper.page.phases import TRAINING_PHASES, timeline
from mtf_scalper.page.search import SEARCH, search_facts
from mtf_scalper.page.trading import agent_trades, own_returns
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.trainings import spans, trainings


def page_head(run: Run) -> Page:
    """Return the page without its sections."""
    verdict, tone = verdict_of(run)
    pairs = [str(pair) for pair in run.manifest.get("pairs") or []]
    names = joined([short_pair(pair) for pair in pairs[:6]]) + (" and more" if pairs[6:] else "")
    return Page(
        title=f"{run.kind.capitalize()}: {names}" if names else run.kind.capitalize(),
        subtitle=_subtitle(run),
        status=str(run.status),
        verdict=verdict,
        tone=tone,
        facts=[
            *(search_facts(run) if run.kind == SEARCH else _trading_facts(run, pairs)),
            *_machine_facts(run),
        ],
        reasons=_reasons(run.figures()),
        progress=_progress(run),
    )


def verdict_of(run: Run) -> tuple[str, str]:
    """Return what came of the run in a sentence, and its tone: ``"good"``, ``"bad"`` or empty.

    Whatever does not stand in the outcome is said in plain words: that it still runs, was ended
    from outside, or has no verdict. A degenerate policy is named first.
    """
    if run.status is Status.RUNNING:
        return f"Running: {_progress_sentence(run.events())}.", ""
    if run.status is Status.KILLED:
        kept = _progress_sentence(run.events())
        return f"Ended from outside before it was done; below is what it had: {kept}.", "bad"
    said = run.verdict
    if run.status is Status.FAILED:
        return f"Failed: {said or 'it does not say why'}", "bad"
    rows = run.figures()
    reasons = [str(row["degenerate"]) for row in rows if row.get("degenerate")]
    text = said or "Finished; no verdict is recorded."
    is_aside = bool(pooled(rows).get("stands_aside"))
    if reasons and not is_aside and "degenerate" not in text.lower():
        # What a pooled row says of its parts is the shortest.
        whole = pooled(rows).get("degenerate") or reasons[0]
        text = f"DEGENERATE, {whole}. {text[:1].upper()}{text[1:]}"
    is_bad = "degenerate" in text.lower() and "not degenerate" not in text.lower()
    is_bad = is_bad or "not judged: " in text.lower()
    is_found = bool((run.statistics() or {}).get("found"))
    return text[:1].upper() + text[1:], "bad" if is_bad else "good" if is_found else ""


def _reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say for each pair as a whole why its policy is degenerate, or that standing aside is not."""
    if pooled(rows).get("stands_aside"):
        return (
            "Where an agent may decline entries, to decline nearly all of them is a decision: "
            "on these candles nothing that it learned was worth the fees."
        )
    found = [
        f"{short_pair(str(row['pair']))}: {row['degenerate']}"
        for row in rows
        if row.get("degenerate")
        and row.get("pair") not in (ALL, None)
        and row.get("window") is None
        and row.get("seed") is None
    ]
    return f"Degenerate is a policy that decides nothing. {'; '.join(found)}." if found else ""


def _progress(run: Run) -> float | None:
    """Return how far the training is that runs now, None where none does."""
    if run.status is not Status.RUNNING:
        return None
    now = [each for each in trainings(run.events()) if each.ended is None]
    return now[-1].done if now else None


def _progress_sentence(events: Sequence[dict[str, Any]]) -> str:
    """Say how many trainings have ended, and what was done last."""
    found = trainings(events)
    now = [each for each in found if each.ended is None]
    n_ended = len(found) - len(now)
    said = f"{count(n_ended, 'training')} finished" if found else "no training has begun"
    trials = sum(each["event"] == "trial" for each in events)
    tasks = sum(each["event"] == "task" and each["state"] == "finished" for each in events)
    if tasks and not found:  # a search keeps no events of its trainings
        said = f"{count(trials, 'trial')} and {count(tasks, 'training')} finished"
    if not now:
        phases = [span.phase for span in spans(events) if span.is_open]
        return "; ".join((said, *phases[-1:]))
    latest = now[-1]
    parts = [f"{training_title(latest)}: {share(latest.done)}", latest.phase]
    if latest.steps_per_second:
        parts.append(number(latest.steps_per_second, ",.0f", " steps/s"))
    part = latest.progress.oracle_share if latest.progress else None
    if part is not None:
        # Where the optimum earns next to nothing, losses are a huge multiple of it.
        held = "below -100%" if part < -1.0 else share(part)
        parts.append(f"held-out return {held} of the optimum")
    return f"{said}; {', '.join(parts)}"


def _subtitle(run: Run) -> str:
    parts = [f"Run {run.run_id}"]
    timerange = run.manifest.get("timerange")
    if timerange:
        parts.append(f"period {timerange}")
    parts.append(f"began {run.began:%Y-%m-%d %H:%M} UTC")
    if run.seconds is not None:
        parts.append(f"took {number(run.seconds, ',.0f')} s")
    return ", ".join(parts)


def _trading_facts(run: Run, pairs: Sequence[str]) -> list[Fact]:
    trades = agent_trades(run)
    whole = pooled(run.figures())
    own, finals = own_returns(run), final_returns(run)
    key = ALL if ALL in own or ALL in finals else next(iter(own or finals), ALL)
    facts = [_traded_fact(trades, pairs)]
    mine = own.get(key)
    if mine is not None:
        facts.append(_agent_fact(mine, figure(whole, "log_return"), key, len(pairs)))
    for name, title, note in (
        ("classic_exits", "Classic exits", "same entries, exits left to the rules"),
        ("buy_and_hold", "Buy and hold", "leverage 1"),
        *(
            (name, title[0].upper() + title[1:], "supervised, same rules and fees")
            for name, title in TITLES.items()
        ),
        ("oracle", "Best in hindsight", "same rules and fees"),
    ):
        found = figure(whole, name).value
        series = finals.get(key, {}).get(name.replace("_", " "))
        value = found if found is not None else series
        if value is None:
            continue
        if name == "oracle" and mine is not None and value > 1e-12:
            note = f"the agent earned {share(mine / value)} of it"
        facts.append(Fact(title, log_return(value), note))
    facts += _random_fact(run, whole, key, mine)
    return facts


def _traded_fact(trades: pd.DataFrame, pairs: Sequence[str]) -> Fact:
    note = joined([short_pair(pair) for pair in pairs[:4]]) or "no pair named"
    seeds = seeds_of(trades)
    if len(seeds) > 1:
        note += f", {len(seeds)} seeds"
    first, last = trades["open_date"].min(), trades["close_date"].max()
    if pd.notna(first) and pd.notna(last):
        note += f", {first:%d %b} to {last:%d %b %Y}"
    return Fact("Traded", count(len(trades), "trade"), note)


def _agent_fact(value: float, found: Figure, key: str, n_pairs: int) -> Fact:
    interval = found.interval("+.3f")
    parts = ["log return after costs"]
    if key == ALL and n_pairs > 1:
        parts.append(f"of {n_pairs} pairs")
    if interval:
        parts.append(f"95% interval {interval}")
    tone = "good" if value > 0.0 else "bad" if value < 0.0 else ""
    return Fact("Agent", log_return(value), ", ".join(parts), tone)


def _random_fact(run: Run, whole: Any, key: str, mine: float | None) -> list[Fact]:
    beaten = figure(whole, "random_rank").value
    draws = (run.random_exits() or {}).get(key) or []
    if beaten is None and draws and mine is not None:
        beaten = rank(mine, draws)
    if beaten is None:
        return []
    note = f"of {len(draws)} draws; 50% is what luck gives" if draws else "50% is what luck gives"
    return [Fact("Random exits beaten", share(beaten), note)]


def _machine_facts(run: Run) -> list[Fact]:
    samples = run.samples()
    facts = []
    if len(samples) > 1:
        inside = samples_in(samples, timeline(run.spans()), TRAINING_PHASES)
        mine = samples[inside] if inside.any() else samples
        n_cores = sum(name.startswith("core_") for name in samples.columns)
        used = mine["tree_percent"].mean() / 100.0
        when = "in training" if inside.any() else "on average"
        note = f"busy {when}; memory at most {megabytes(samples['unique_bytes'].max())}"
        facts.append(Fact("Machine", f"{used:.2f} of {count(n_cores, 'core')}", note))
    ended = [each for each in trainings(run.events()) if each.seconds]
    if ended:
        seconds = sum(float(each.seconds or 0.0) for each in ended)
        steps = sum(each.steps or 0.0 for each in ended)
        note = f"{count(len(ended), 'training')} in {number(seconds, ',.0f')} s together"
        facts.append(Fact("Speed", f"{number(steps / seconds, ',.0f')} steps/s", note))
    return facts
