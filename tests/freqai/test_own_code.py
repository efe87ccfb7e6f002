"""A changed file of the user's own is another strategy, loaded as freqtrade itself loads it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from freqtrade.resolvers import StrategyResolver
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.config import check_identifier, made_by
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.settings import Settings

STRATEGIES = {
    "mine.py": """
from oc_base_a import BaseA
import oc_features
class OcMine(BaseA):
    timeframe = "5m"
    def populate_indicators(self, dataframe, metadata):
        import oc_pack.lazy
        return oc_features.add(dataframe)
""",
    "oc_base_a.py": "from oc_base_b import BaseB\nclass BaseA(BaseB):\n    stoploss = -0.1\n",
    "oc_base_b.py": """
from freqtrade.strategy import IStrategy
class BaseB(IStrategy):
    minimal_roi = {"0": 0.1}
    def populate_entry_trend(self, dataframe, metadata):
        return dataframe
    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
""",
    "oc_features.py": """
from oc_pack.inner import scale
def add(frame):
    return frame * scale
""",
    "oc_pack/__init__.py": "",
    "oc_pack/inner.py": "scale = 1.0\n",
    "oc_pack/lazy.py": "later = 1.0\n",
    "unrelated.py": "class OcOther:\n    pass\n",
}
COUNTED = [name for name in STRATEGIES if name not in ("mine.py", "unrelated.py")]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Return what loads the strategy anew, as another program would, and says what made it."""
    folder = tmp_path / "strategies"
    for name, source in STRATEGIES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source, encoding="utf-8")
    config: dict[str, Any] = {
        "strategy": "OcMine",
        "strategy_path": str(folder),
        "user_data_dir": tmp_path,
        "timeframe": "5m",
        "stake_currency": "USDT",
        "dry_run": True,
        "freqai": {"identifier": "mine"},
        "original_config": {"freqai": {}},
    }

    def made() -> dict[str, Any]:
        forget()
        strategy = StrategyResolver.load_strategy(dict(config))
        return made_by(config, strategy, MtfScalperRLModel)

    yield made
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("oc_")]:
        del sys.modules[name]


def test_all_files_of_a_strategy_count_and_no_others(load: Any) -> None:
    counted = {name for name in load() if name.startswith("strategy imports ")}
    assert counted == {f"strategy imports {name}" for name in COUNTED}


@pytest.mark.parametrize("name", COUNTED)
def test_a_changed_file_is_refused_under_the_identifier_and_named(
    name: str, load: Any, tmp_path: Path
) -> None:
    path = tmp_path / "strategies" / name
    check_identifier(tmp_path / "models" / "mine", Settings(), load())
    check_identifier(tmp_path / "models" / "mine", Settings(), load())
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        check_identifier(tmp_path / "models" / "mine", Settings(), load())
    message = str(caught.value)
    assert f"made with other settings (strategy imports {name}; " in message
    assert "\n" not in message


def test_a_changed_file_that_has_nothing_to_do_with_it_is_not(load: Any, tmp_path: Path) -> None:
    before = load()
    (tmp_path / "strategies" / "unrelated.py").write_text("changed = 1\n", encoding="utf-8")
    assert load() == before


def test_a_compiled_module_counts_as_a_file_and_what_it_is_linked_to_is_told(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "strategies"
    native = folder / f"oc_native{EXTENSION_SUFFIXES[0]}"
    native.write_bytes(b"compiled")
    source = STRATEGIES["oc_features.py"].replace(
        "def add", "def more():\n    import oc_native\ndef add"
    )
    (folder / "oc_features.py").write_text(source, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        before = load()
    (said,) = [text for text in caplog.messages if "under an identifier" in text]
    assert said.endswith(f"{native.name} is compiled: libraries that it is linked to")
    native.write_bytes(b"compiled again")
    assert load() != before


MODEL = """
from oc_helper import something
from mtf_scalper.freqai.model import MtfScalperRLModel
class OcModel(MtfScalperRLModel):
    pass
"""


def test_a_model_of_the_users_own_counts_with_its_helper(load: Any, tmp_path: Path) -> None:
    """freqtrade keeps the model's module out of ``sys.modules``, where its file would stand."""
    folder = tmp_path / "freqaimodels"
    folder.mkdir()
    (folder / "OcModel.py").write_text(MODEL, encoding="utf-8")
    helper = folder / "oc_helper.py"
    config: dict[str, Any] = {"timeframe": "5m", "original_config": {"freqai": {}}}

    class Strategy:
        pass

    def facts() -> dict[str, Any]:
        forget()
        found, _ = FreqaiModelResolver._search_object(folder, object_name="OcModel")
        return made_by(config, Strategy(), found)

    found = []
    for model, something in ((MODEL, 1), (MODEL, 2), (MODEL + "\n# changed\n", 2)):
        (folder / "OcModel.py").write_text(model, encoding="utf-8")
        helper.write_text(f"something = {something}\n", encoding="utf-8")
        found.append(facts())
    assert (
        found[0]["freqaimodel imports oc_helper.py"] != found[1]["freqaimodel imports oc_helper.py"]
    )
    assert found[0]["freqaimodel"] == found[1]["freqaimodel"] != found[2]["freqaimodel"]
    assert found[0]["freqaimodel"].startswith("OcModel ")
    assert "without a file" not in found[0]["freqaimodel"]


def test_a_helper_of_a_reward_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    helper, source = tmp_path / "oc_terms.py", tmp_path / "oc_reward.py"
    helper.write_text("def term(state):\n    return state.profit\n", encoding="utf-8")
    source.write_text(
        "from mtf_scalper import reward\nfrom oc_terms import term\n\n"
        "@reward\ndef mine(state, parameters):\n    return term(state)\n",
        encoding="utf-8",
    )
    settings = Settings(reward=f"{source}:mine")
    check_identifier(tmp_path / "models", settings)
    check_identifier(tmp_path / "models", settings)
    helper.write_text("def term(state):\n    return -state.profit\n", encoding="utf-8")
    words = r"made with other settings \(reward imports oc_terms.py, reward_digest; reward imports"
    with pytest.raises(SettingsError, match=words):
        check_identifier(tmp_path / "models", settings)
    forget()
