"""The client: what a Python program, or a person at a terminal, hands requests to Darkroom with."""

from libs.client.client import Client, File
from libs.client.errors import DarkroomError

__all__ = ["Client", "DarkroomError", "File"]
