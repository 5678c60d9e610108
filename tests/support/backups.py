"""A backup of an embedded Postgres as docs/postgres.md has it: a base backup, and the log streamed to another place."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sandbox import processes
from sandbox.postgres import USER, Postgres
from sandbox.processes import free_port

_NAME = "backup"


def standby_of(postgres: Postgres, folder: Path) -> Postgres:
    """A standby of a server that runs, which follows it once it is started."""
    backup = Backup(postgres, folder)
    made = Postgres(folder, free_port(), durable=False)
    shutil.copy2(postgres.folder / "password", folder / "password")
    backup.run("pg_basebackup", "-D", made.data, "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf")
    return made


class Backup:
    """Of one server. Everything runs as the account that the server runs as.

    Args:
        postgres: that runs.
        folder: where the backup is kept, which that account may enter.
    """

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self._postgres = postgres
        self._base, self._log = folder / "base", folder / "log"
        self._user = postgres.user_id()
        for place in (folder, self._log):
            place.mkdir(mode=0o755, exist_ok=True)
            if self._user is not None:
                os.chown(place, self._user, -1)
        self._receiver: subprocess.Popen[bytes] | None = None

    def follow(self) -> None:
        """Stream the log from now on. What is committed once this has answered is in the backup before it is told."""
        self.run("pg_receivewal", "--slot", _NAME, "--create-slot")
        streaming = ("--slot", _NAME, "--synchronous", "--no-loop", "-D", self._log)
        self._receiver = self._start("pg_receivewal", *streaming, output=subprocess.DEVNULL)
        self._postgres.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{_NAME}'")
        self._postgres.execute("SELECT pg_reload_conf()")

    def take(self) -> None:
        """Copy the server at work."""
        self.run("pg_basebackup", "-D", self._base, "--checkpoint=fast", "--wal-method=none")

    def mark(self, moment: str) -> None:
        """Name this moment, for going back to it."""
        self._postgres.execute(f"SELECT pg_create_restore_point('{moment}')")

    def restore(self, moment: str | None = None) -> None:
        """Put the backup in the place of the server's data, up to a moment or the last commit, and start it."""
        if self._receiver is not None:
            self._receiver.wait(20)
        data = self._postgres.data
        shutil.rmtree(data)
        shutil.copytree(self._base, data)
        data.chmod(0o700)
        command = f"cp {self._log}/%f %p || cp {self._log}/%f.partial %p"
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write(f"restore_command = '{command}'\nsynchronous_standby_names = ''\n")
            if moment is not None:
                file.write(f"recovery_target_name = '{moment}'\nrecovery_target_action = 'promote'\n")
        (data / "recovery.signal").touch()
        if self._user is not None:
            for place in (data, *data.rglob("*")):
                os.chown(place, self._user, -1, follow_symlinks=False)
        self._postgres.start()

    def close(self) -> None:
        """End what runs."""
        if self._receiver is not None:
            processes.stop(self._receiver, timeout_seconds=5)

    def _start(self, program: str, *arguments: str | Path, output: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        found = self._postgres.bin / program
        where = ("-h", "127.0.0.1", "-p", str(self._postgres.port), "-U", USER, "--no-password")
        environment = {**os.environ, "PGPASSWORD": self._postgres.password(), "PGAPPNAME": _NAME}
        return processes.start([found, *where, *arguments], environment=environment, output=output, user=self._user)

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run a program of Postgres against the server, and wait until it has ended well."""
        process = self._start(program, *arguments)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
