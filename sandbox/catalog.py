"""The shipped catalog with simulated providers in the place of real ones: same models, same prices, other addresses."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from libs.common.catalog import parse
from sandbox.simulators import VENDORS

# A key that signs with HMAC-SHA256 should be as long as its output (RFC 7518, 3.2).
_KEY_LENGTH = 32
# What simulated providers make is done within two seconds: nobody has to wait for the next look at it.
_POLL_SECONDS = 1
Adjust = Callable[[dict[str, Any]], None]
"""Changes a catalog's content in place, for tests."""


@dataclass(frozen=True, slots=True)
class SimulatedCatalog:
    """The catalog's text, and the credentials for the environment of whoever uses it, the simulators too."""

    text: str
    credentials: Mapping[str, str]


def simulated(shipped: str, simulators_url: str, adjust: Adjust | None = None) -> SimulatedCatalog:
    """The catalog `shipped`, pointed at simulators.

    Raises KeyError for a provider whose adapter has no simulator, and CatalogFault where the outcome has faults.
    """
    content = yaml.safe_load(shipped)
    credentials = {}
    for provider in content["providers"].values():
        provider["base_url"] = simulators_url + VENDORS[provider["adapter"]]
        provider.pop("api_hosts", None)
        provider.setdefault("storage", {})["result_hosts"] = ["127.0.0.1"]
        hooks = provider.get("webhooks", {})
        if "keys_url" in hooks:
            hooks["keys_url"] = f"{provider['base_url']}/.well-known/jwks.json"
        if "secret" in hooks:
            credentials[hooks["secret"]] = base64.b64encode(hooks["secret"].lower().encode()).decode()
        for variable in provider["credentials"].values():
            credentials[variable] = f"simulated-{variable.lower()}".ljust(_KEY_LENGTH, "0")
    for model in content["models"].values():
        if "polling" in model:
            model["polling"]["interval_seconds"] = min(model["polling"]["interval_seconds"], _POLL_SECONDS)
    if adjust is not None:
        adjust(content)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    parse(text)
    return SimulatedCatalog(text, credentials)
