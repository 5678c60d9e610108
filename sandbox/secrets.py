"""What a stack keeps to itself: the secret of its API keys, the token of its services, its first admin key.

Made once for a folder, so that keys stay good from one run to the next; the environment goes before.
"""

from __future__ import annotations

import json
import os
import secrets

from libs.common.api_keys import new_key
from sandbox.plan import Plan

_FILE = "secrets.json"


def secrets_of(plan: Plan) -> dict[str, str]:
    """The settings that hold them."""
    path = plan.folder / _FILE
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    made = {
        "DARKROOM_KEY_SECRET": kept.get("DARKROOM_KEY_SECRET") or secrets.token_urlsafe(32),
        "DARKROOM_SERVICE_TOKEN": kept.get("DARKROOM_SERVICE_TOKEN") or secrets.token_urlsafe(32),
        "DARKROOM_ADMIN_KEY": kept.get("DARKROOM_ADMIN_KEY") or new_key().key,
    }
    if made != kept:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(made, file)
    return {name: plan.environment.get(name) or value for name, value in made.items()}
