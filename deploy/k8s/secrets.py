"""Secrets of a cluster for development, at random, as kustomize's secretGenerator reads them."""

from __future__ import annotations

import secrets
from pathlib import Path

FOLDER = Path(__file__).parent / "overlays/dev/secrets"


def write_secrets(folder: Path) -> list[str]:
    """Write the files that are missing in `folder`, for this user alone, and answer their names.

    The providers' file is empty: it takes what the catalog names, one NAME=value a line.
    """
    if folder.is_dir() and {path.stem for path in folder.glob("*.env")} >= set(_contents()):
        return []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for name, content in _contents().items():
        path = folder / f"{name}.env"
        path.touch(mode=0o600)
        path.write_text(content)
        written.append(f"{path.parent.name}/{path.name}")
    return written


def _contents() -> dict[str, str]:
    password, key_secret, token = (secrets.token_urlsafe(32) for _ in range(3))
    return {
        "database": f"DARKROOM_DATABASE_URL=postgresql+psycopg2://darkroom:{password}@postgres:5432/darkroom\n",
        "postgres": f"POSTGRES_PASSWORD={password}\n",
        "storage": (
            f"DARKROOM_S3_ACCESS_KEY_ID={secrets.token_hex(10)}\n"
            f"DARKROOM_S3_SECRET_ACCESS_KEY={secrets.token_urlsafe(30)}\n"
        ),
        "keys": f"DARKROOM_KEY_SECRET={key_secret}\nDARKROOM_SERVICE_TOKEN={token}\n",
        "admin": f"DARKROOM_ADMIN_KEY={secrets.token_urlsafe(24)}\n",
        "providers": "",
    }
