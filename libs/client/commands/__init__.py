"""`darkroom`: the command line."""

from __future__ import annotations

import sys

from libs.client.commands.app import app
from libs.client.errors import DarkroomError


def main() -> None:
    """Run it. Exits 1 with the reason where something is refused or fails."""
    try:
        app()
    except DarkroomError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        for field, description in error.fields.items():
            print(f"  {field}: {description}", file=sys.stderr)
        if error.generation_id:
            print(f"  generation {error.generation_id}", file=sys.stderr)
        sys.exit(1)
