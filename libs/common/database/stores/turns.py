"""Work that one replica does at a time: an advisory lock for the moment, a row for whose turn it is."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from libs.common.database.stores.sets import statement

# Released with the transaction, so that it holds behind a pooler in transaction mode too.
_LOCK = statement("SELECT pg_try_advisory_xact_lock(hashtext('darkroom.' || :name))")

_IS_ANOTHERS = statement("""
SELECT EXISTS (SELECT FROM monitor_turns
    WHERE name = :name AND owner <> :owner AND done_at >= now() - make_interval(secs => :patience_seconds))""")

# Whoever did it last does it again, unless that is long ago: what it keeps in memory stays of use.
_TAKE = statement("""
INSERT INTO monitor_turns AS t (name, owner, done_at) VALUES (:name, :owner, now())
ON CONFLICT (name) DO UPDATE SET owner = EXCLUDED.owner, done_at = now()
WHERE t.owner = EXCLUDED.owner OR t.done_at < now() - make_interval(secs => :patience_seconds)
RETURNING owner""")


def takes_turn(connection: Connection, name: str, owner: str, *, patience_seconds: float) -> bool:
    """Whether this process does the work in this transaction.

    Args:
        connection: of the transaction; at its end others may.
        name: of the work.
        owner: this process.
        patience_seconds: after so long without a sign of the one that did it last, another takes over.
    """
    parameters = {"name": name, "owner": owner, "patience_seconds": patience_seconds}
    # Asked first, so that those whose turn it is not never hold the lock against the one whose turn it is.
    if connection.execute(_IS_ANOTHERS, parameters).scalar_one():
        return False
    if not connection.execute(_LOCK, {"name": name}).scalar_one():
        return False
    return connection.execute(_TAKE, parameters).one_or_none() is not None
