"""The freqtrade settings that send the unmodified program to the replay exchange."""

from __future__ import annotations

from typing import Any

DEFAULT_PORT = 8099
DEFAULT_BASE_URL = f"http://127.0.0.1:{DEFAULT_PORT}"

# Every API that ccxt's binance knows, so that no call can leave the machine, served here or not.
_API_PATHS = {
    "public": "api/v3",
    "private": "api/v3",
    "v1": "api/v1",
    "fapiPublic": "fapi/v1",
    "fapiPublicV2": "fapi/v2",
    "fapiPublicV3": "fapi/v3",
    "fapiPrivate": "fapi/v1",
    "fapiPrivateV2": "fapi/v2",
    "fapiPrivateV3": "fapi/v3",
    "fapiData": "futures/data",
    "dapiPublic": "dapi/v1",
    "dapiPrivate": "dapi/v1",
    "dapiPrivateV2": "dapi/v2",
    "dapiData": "futures/data",
    "eapiPublic": "eapi/v1",
    "eapiPrivate": "eapi/v1",
    "papi": "papi/v1",
    "papiV2": "papi/v2",
    "sapi": "sapi/v1",
    "sapiV2": "sapi/v2",
    "sapiV3": "sapi/v3",
    "sapiV4": "sapi/v4",
}


def offline_exchange_config(base_url: str = DEFAULT_BASE_URL) -> dict[str, Any]:
    """Return a freqtrade config, to be merged over another, that names no exchange but this one.

    Parameters
    ----------
    base_url
        Scheme, host and port of the replay exchange, as in ``http://127.0.0.1:8099``.

    Returns
    -------
    dict
        Only the section ``exchange``: the URLs of every API for ccxt, no rate limit (loopback
        needs none), ``only_from_ccxt``, without which ``download-data`` first tries Binance's
        public archive on the internet, and no websockets, which are not served.
    """
    root = base_url.rstrip("/")
    urls = {api: f"{root}/{path}" for api, path in _API_PATHS.items()}
    return {
        "exchange": {
            "only_from_ccxt": True,
            "enable_ws": False,
            "ccxt_config": {"enableRateLimit": False, "urls": {"api": urls}},
        }
    }
