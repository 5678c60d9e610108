"""`make dashboards`: writes each dashboard as the JSON that Grafana imports."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import to_json

FOLDER = Path(__file__).parent / "dashboards"


def main() -> None:
    """Write them."""
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(to_json(board))


if __name__ == "__main__":
    main()
