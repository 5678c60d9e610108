"""`python -m sandbox COMMAND` with the commands below; the Makefile calls them."""

from __future__ import annotations

import argparse
import sys

from sandbox.demo import demo
from sandbox.migration import migration
from sandbox.new_adapter import new_adapter
from sandbox.reference.pages import write_reference
from sandbox.translations import renew
from sandbox.up import up


def main() -> int:
    """Read the command line, do it, and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Darkroom on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="run the whole stack until Ctrl-C")
    commands.add_parser("demo", help="send one request through each adapter and stop")
    commands.add_parser("migration", help="write a migration for what changed in the schema").add_argument("name")
    commands.add_parser("new-adapter", help="write the skeleton of an adapter").add_argument("name")
    commands.add_parser("reference", help="write the tables of the documentation that list what the code declares")
    commands.add_parser("translations", help="look for what the console says, and tell what lacks a translation")
    arguments = parser.parse_args()
    if arguments.command == "up":
        return up()
    if arguments.command == "demo":
        return demo()
    if arguments.command == "reference":
        return write_reference()
    if arguments.command == "translations":
        return 1 if renew() else 0
    return {"migration": migration, "new-adapter": new_adapter}[arguments.command](arguments.name)


if __name__ == "__main__":
    sys.exit(main())
