"""What README and docs show is what there is: programs run, tables are complete, figures agree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from mtf_scalper.cli import app
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.rollouts.environments import open_vec_env
from mtf_scalper.settings import RewardName, Settings
from mtf_scalper.simulator.rewards import Parameters, RewardState
from mtf_scalper.training import train

ROOT = Path(__file__).resolve().parents[1]
README = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))


DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def section(title: str, text: str = README) -> str:
    match = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert match is not None, title
    return match.group(1)


def rows(text: str) -> list[str]:
    """Return the rows of a text's tables, without their heads."""
    tables = re.findall(r"^\|[ |:-]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return "".join(tables).splitlines()


def figures(text: str) -> list[str]:
    """Return the numbers of a text, without those inside of words and links."""
    return re.findall(r"(?<![\w.#])[-+]?\d[\d,]*(?:\.\d+)?", re.sub(r"\]\([^)]*\)", "]", text))


PROGRAMS = {
    "README.md": blocks("python")[0],
    "learning.md": blocks("python", DOCS["learning.md"])[0],
    "records.md": blocks("python", DOCS["records.md"])[0],
}
RUNS_ALL = """
import os, pathlib, runpy, sys
for script in map(pathlib.Path, sys.argv[1:]):
    os.chdir(script.parent)
    runpy.run_path(str(script), run_name="__main__")
    print(end="\\f")
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the programs, warnings being errors, and return what each printed.

    All in one process, one after the other: its imports take longer than they do.
    """
    scripts = [tmp_path_factory.mktemp("shown") / "program.py" for _ in PROGRAMS]
    for script, program in zip(scripts, PROGRAMS.values(), strict=True):
        script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNS_ALL, *map(str, scripts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(PROGRAMS, done.stdout.split("\f"), strict=False))


def test_the_python_program_runs_as_it_is(printed: dict[str, str]) -> None:
    assert len(PROGRAMS["README.md"].splitlines()) <= 15
    shown = r"[1-9]\d* trades, log return \+\d\.\d{3} of \+\d\.\d{3}\n"
    assert re.fullmatch(shown, printed["README.md"])


def test_the_worked_example_of_learning_runs_as_it_is(printed: dict[str, str]) -> None:
    found = printed["learning.md"]
    assert re.search(r"^ +\d+\.\d s, validation \+0\.\d{3}$", found, re.MULTILINE)
    assert re.search(r"^policy +not degenerate$", found, re.MULTILINE)
    share = re.search(r"^share of the oracle +([\d.]+)%$", found, re.MULTILINE)
    assert share is not None
    assert 20.0 < float(share[1]) < 100.0


def test_the_program_of_the_records_page_runs_as_it_is(printed: dict[str, str]) -> None:
    shown = r"finished log return \+\d\.\d{3} \d+ [1-9]\d* 1\n"
    assert re.fullmatch(shown, printed["records.md"])


def test_the_sketch_of_the_design_runs_on_arrays_of_any_market(
    make_market, tiny_settings, monkeypatch
) -> None:
    market = make_market(n_candles=200)
    up = np.arange(200) % 20 == 0
    given = {"features": market.features, "ohlc": market.ohlc, "up": up, "down": np.roll(up, 10)}
    later = make_market(n_candles=100, seed=1)
    given |= {"later_market": later, "test_market": later, "settings": tiny_settings()}
    exec("from mtf_scalper import Market, evaluate, oracle, simulate, train", given)
    (sketch,) = blocks("python", DOCS["design.md"])
    exec(sketch, given)
    assert given["best"].log_return >= given["run"].log_return
    assert given["report"].lines()


def test_every_program_of_the_docs_is_run_by_a_test() -> None:
    shown = {name for name, text in DOCS.items() if blocks("python", text)}
    assert shown == {
        "design.md",
        "learning.md",
        "own_strategy.md",  # by freqai/test_own_strategy.py
        "records.md",
        "rewards.md",
    }


def test_the_exact_freqtrade_command_is_shown() -> None:
    shell = re.sub(r" *\\\n *", " ", "\n".join(blocks("sh")))
    assert (
        "freqtrade backtesting --strategy MtfScalper_RL_Hybrid "
        "--config configs/config_rl_hybrid.json --freqaimodel MtfScalperRLModel "
        "--timerange 20241001-20241101\n"
    ) in shell


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(DOCS)])
def test_files_and_sections_that_a_page_links_to_exist(page: str) -> None:
    home = ROOT / "docs" if page in DOCS else ROOT
    text = (home / page).read_text(encoding="utf-8")
    folders = "configs|docs|benchmarks|src|tools|user_data"
    named = re.findall(rf"\b(?:{folders})/[\w/]+\.(?:json|md|py|png)\b", text)
    made = "user_data/studies/"  # by `mtf-scalper tune`
    assert {each for each in named if not (ROOT / each).exists() and made not in each} == set()
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(#[^)]+)?\)", text):
        target = home / path if path else home / page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {"#" + slug(title) for title in titles}, f"{path}{anchor}"


def slug(title: str) -> str:
    """Return the name of a section as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_measured_figure_is_that_of_its_home() -> None:
    measured = rows(section("Measured"))
    assert len(measured) == 5
    for row in measured:
        what, told, where = row.strip("|").split(" | ")
        page, anchor = re.findall(r"\(docs/([\w.]+)#([^)]+)\)", where)[0]
        titles = re.findall(r"^#+ (.+)$", DOCS[page], re.MULTILINE)
        title = next(title for title in titles if slug(title) == anchor)
        known = set(figures(section(re.escape(title), DOCS[page])))
        assert set(figures(told)) <= known, what
    of_the_demo = set(figures(section("Demo", DOCS["measured.md"])))
    for row in rows(section("Quick start")):
        assert set(figures(row)) <= of_the_demo, row


def test_every_setting_and_its_default_is_in_the_table() -> None:
    table = DOCS["settings.md"]
    aliases = {"reward_parameters": "model_reward_parameters", "window_size": "conv_width"}
    for name in set(Settings.model_fields) - {"rules"}:
        assert f"`{aliases.get(name, name)}`" in table, name
    defaults, features = Settings(), Settings(policy_inputs="features")
    for row in (
        f"| `train_cycles` | {defaults.train_cycles} |",
        f"| `n_envs`, `vec_env` | {defaults.n_envs}, `{defaults.vec_env}` |",
        f"| `cpu_count`, `interop_threads` | {defaults.cpu_count}, {defaults.interop_threads} |",
        f"| `n_steps`, `batch_size` | {defaults.n_steps}, {defaults.batch_size} |",
        f"| `net_arch` | {list(defaults.net_arch)} |",
        f"| `device` | `{defaults.device}` |",
        f"| `inference_batch_size` | {defaults.inference_batch_size} |",
        f"| `entry` | `{read_settings({'freqai': {}}).rules.entry}` |",
        f"| `advantage` | `{defaults.advantage}` |",
        f"| `n_seeds` | {defaults.n_seeds} |",
        f"| `fee_warmup`, `keep_bias` | {defaults.used_fee_warmup:g} with forecasts, "
        f"{features.used_fee_warmup} with features; {defaults.keep_bias:g} |",
        "| `dropout`, `weight_average`, `weight_decay` | "
        f"{defaults.dropout}, {defaults.weight_average}, {defaults.weight_decay} |",
        "| `evidence`, `patience`, `validation_share` | "
        f"{defaults.evidence:g}, {defaults.patience}, {defaults.validation_share} |",
        f"| `float32_matmul_precision` | `{defaults.float32_matmul_precision}` |",
        f"{defaults.used_learning_rate:.0e}".replace("e-0", "e-")
        + f", {defaults.used_n_epochs} with forecasts",
        f"| `random_state` | {defaults.random_state} |",
    ):
        assert row in table


def test_the_reward_of_your_own_runs_as_it_is_shown(
    tmp_path, monkeypatch, make_market, tiny_settings
) -> None:
    page = DOCS["rewards.md"]
    example = blocks("python", page)[0]
    assert len(example.splitlines()) <= 10
    assert '"reward": "my_rewards.py:patient"' in page
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(example, encoding="utf-8")
    settings = tiny_settings(reward="my_rewards.py:patient")
    result = train(make_market(n_candles=128), settings)
    assert result.steps == 128
    with open_vec_env(make_market(n_candles=128), settings) as env:
        env.reset()
        _, rewards, _, _ = env.step(np.array([1, 0]))
        outcome = env.outcome
    assert rewards[0] < outcome["log_return"][0] < 0.0  # the entry's fee is under water
    assert rewards[1] == outcome["log_return"][1] == 0.0


def test_every_field_that_a_reward_may_look_at_is_in_its_table() -> None:
    for name in (*RewardState._fields, *Parameters._fields):
        assert f"`{name}`" in DOCS["rewards.md"], name


@pytest.mark.parametrize("reward", RewardName)
def test_every_reward_is_in_the_table(reward: RewardName) -> None:
    assert f"| `{reward}` |" in section("Rewards", DOCS["settings.md"])


def test_every_command_is_in_the_table() -> None:
    table = section("Command line")
    for name in get_command(app).list_commands(None):  # type: ignore[attr-defined]
        assert f"| `mtf-scalper {name}` |" in table


def test_the_configuration_holds_the_recipe_that_the_table_tells() -> None:
    text = (ROOT / "configs" / "config_rl_hybrid.json").read_text(encoding="utf-8")
    written = json.loads(text)["freqai"]["rl_config"]
    defaults = Settings().model_dump(mode="json")
    for key in ("train_cycles", "cpu_count", "n_envs", "n_steps", "batch_size", "net_arch"):
        assert written[key] == defaults[key]
