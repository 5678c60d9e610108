"""`python -m tests.support.cluster.enter PLACE COMMAND…`: goes to the place and becomes the command."""

from __future__ import annotations

import json
import os
import sys

from tests.support.cluster.place import Place

if __name__ == "__main__":
    Place.from_json(json.loads(sys.argv[1])).enter()
    os.execvp(sys.argv[2], sys.argv[2:])
