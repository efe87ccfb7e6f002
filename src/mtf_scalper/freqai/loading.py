"""freqtrade's configuration, loaded as its commands load it, with one line where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freqtrade.configuration import setup_utils_configuration
from freqtrade.configuration.load_config import load_from_files
from freqtrade.enums import RunMode
from freqtrade.exceptions import FreqtradeException

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.freqai.sections import check_sections


def check_files(arguments: Mapping[str, Any]) -> None:
    """Check the sections of all files of a configuration, and the settings in them.

    Raises
    ------
    SettingsError
    """
    try:
        written = load_from_files(list(arguments.get("config", [])))
    except FreqtradeException as error:
        raise SettingsError(f"freqtrade: {' '.join(str(error).split())}") from None
    except (AttributeError, TypeError) as error:
        raise SettingsError(f"the configuration is not a section: {error}") from None
    if not isinstance(written, Mapping):
        raise SettingsError("the configuration is not a section; write {...}")
    check_sections(written)
    read_settings(written)


def load_configuration(arguments: Mapping[str, Any], runmode: RunMode) -> dict[str, Any]:
    """Return freqtrade's configuration for these arguments of its command line.

    The files' sections are checked before freqtrade looks at them: its own checks expect sections
    where null or a list may stand (2026.9).

    Raises
    ------
    SettingsError
        Says in one line what is wrong.
    """
    check_files(arguments)
    try:
        config: dict[str, Any] = setup_utils_configuration(dict(arguments), runmode)
    except (FreqtradeException, ImportError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"freqtrade: {words}") from None
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        words = " ".join(str(error).split())
        raise SettingsError(
            f"freqtrade cannot read the configuration: {type(error).__name__}: {words}"
        ) from None
    return config
