"""A replay exchange: Binance's public calls, answered from recorded candles."""

from mtf_scalper.clock import RunningClock
from mtf_scalper.exchange.api_errors import DataDirectoryError, ServerError
from mtf_scalper.exchange.app import create_app
from mtf_scalper.exchange.faults import Fault, FaultPlan
from mtf_scalper.exchange.offline_config import DEFAULT_PORT, offline_exchange_config
from mtf_scalper.exchange.server import running_exchange, serve
from mtf_scalper.exchange.store import CandleStore

__all__ = [
    "DEFAULT_PORT",
    "CandleStore",
    "DataDirectoryError",
    "Fault",
    "FaultPlan",
    "RunningClock",
    "ServerError",
    "create_app",
    "offline_exchange_config",
    "running_exchange",
    "serve",
]
