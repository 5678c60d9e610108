"""`make manifests`, `make cluster-secrets`, and what `make lint` has to say of the manifests."""

from __future__ import annotations

import sys

from deploy.k8s import checks
from deploy.k8s.copies import write_copies
from deploy.k8s.secrets import FOLDER, write_secrets


def main() -> None:
    """Write what is asked for."""
    match sys.argv[1:]:
        case ["copies"]:
            write_copies()
        case ["secrets"]:
            written = write_secrets(FOLDER)
            print("\n".join(written) if written else f"{FOLDER} has its secrets already.")
        case ["check"]:
            raise SystemExit(min(checks.main(), 1))
        case _:
            raise SystemExit("usage: python -m deploy.k8s copies|secrets|check")


if __name__ == "__main__":
    main()
