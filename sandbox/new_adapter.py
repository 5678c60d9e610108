"""`make new-adapter NAME=example`: writes an adapter's skeleton and its tests, and says what is left."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sandbox.plan import ROOT

_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")
_ADAPTER = '''"""{title}: say in a line what it makes. Source: name the vendor's page.

Say how long its results live.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from libs.common.adapters.base import Adapter, SubmitRequest, Submitted, Task, TaskStatus
from libs.common.adapters.registry import adapter
from libs.common.adapters.tasks import status_in, submitted
from libs.common.database.states import TaskState
from libs.common.validation.common import Parameters
from libs.common.validation.image import Seed, SizeOrRatio


class {title}Parameters(Parameters):
    """Source: name the vendor's page."""

    size_or_ratio: SizeOrRatio = "1024x1024"
    seed: Seed | None = None


@adapter("{name}")
class {title}(Adapter):
    """Say whether a submit may be repeated, found by our id, or cancelled."""

    parameters = {title}Parameters
    task_id_names = ("id",)
    states: ClassVar[Mapping[str, TaskState]] = {{
        "queued": TaskState.PENDING,
        "running": TaskState.PROCESSING,
        "succeeded": TaskState.SUCCESS,
        "failed": TaskState.FAILED,
    }}

    @staticmethod
    def headers(credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Source: name the vendor's page."""
        return {{"authorization": f"Bearer {{credentials['api_key']}}"}}

    async def submit(self, request: SubmitRequest) -> Submitted:
        """POST /v1/jobs."""
        reply = await self.http.post("/v1/jobs", json=_payload(request))
        return submitted(reply, *self.task_id_names)

    async def check_task(self, task: Task) -> TaskStatus:
        """GET /v1/jobs/{{id}}."""
        return status_in(await self.http.get(f"/v1/jobs/{{task.task_id}}"), self.states, task.task_id)


def _payload(request: SubmitRequest) -> dict[str, Any]:
    return request.parameters.model_dump(exclude_none=True) | {{
        "model": request.upstream_model,
        "prompt": request.prompt,
    }}
'''
_TEST = '''"""What is {title}'s alone; tests/contract/test_every_adapter.py holds what every adapter must do."""

from __future__ import annotations

import pytest

from libs.common.adapters.{name} import {title}
from libs.common.database.states import TaskState


@pytest.mark.parametrize("word", sorted({title}.states))
def test_every_word_of_the_vendor_has_a_state(word: str) -> None:
    assert {title}.states[word] in TaskState
'''
_CASE = '        Case("{name}", "{name}", "a-model"),\n'
_LEFT = """Written: {written}

What is left:
  1. {adapter}: the vendor's paths, fields, states and errors, with their sources
  2. catalog.yaml: a provider with `adapter: {name}` and a model
  3. sandbox/simulators: a file that speaks the vendor's wire format, in VENDORS and in __main__.py
  4. tests/contract/cases.py: the provider and a model of the catalog in the new line
  5. make test ARGS="tests/contract"
docs/adding-a-provider.md walks through it."""


def write(root: Path, name: str) -> list[Path]:
    """Write the files of an adapter called `name` below `root`. FileExistsError where one is there already."""
    title = "".join(word.capitalize() for word in name.split("_"))
    files = {
        root / f"libs/common/adapters/{name}.py": _ADAPTER,
        root / f"tests/contract/test_{name}.py": _TEST,
    }
    for path in files:
        if path.exists():
            raise FileExistsError(path)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name, title=title))
    cases = root / "tests/contract/cases.py"
    end = "    )\n}\nASYNCHRONOUS"
    cases.write_text(cases.read_text().replace(end, _CASE.format(name=name) + end))
    return [*files, cases]


def new_adapter(name: str) -> int:
    """Write the skeleton of an adapter. Answers the exit code."""
    if not _NAME.fullmatch(name):
        print("Name the vendor in lower case, words joined by _: make new-adapter NAME=example", file=sys.stderr)
        return 1
    try:
        written = write(ROOT, name)
    except FileExistsError as error:
        print(f"{error} is there already; nothing was written.", file=sys.stderr)
        return 1
    names = ", ".join(str(path.relative_to(ROOT)) for path in written)
    print(_LEFT.format(written=names, adapter=f"libs/common/adapters/{name}.py", name=name))
    return 0
