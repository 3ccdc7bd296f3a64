"""What a journal's file holds: its tables, and a row as a value."""

import attrs

from kling_async.protocol.errors import JournalError
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import TaskStatus

__all__ = ["FILE_NAME", "LIVE", "MIGRATIONS", "InUseError", "Record", "UnfitError", "name_of"]

FILE_NAME = "kling-journal.sqlite"
"""What a journal beside its output is called."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE tasks (
        external_task_id TEXT PRIMARY KEY,
        key              TEXT NOT NULL,
        named            INTEGER NOT NULL,
        label            TEXT NOT NULL,
        account          TEXT NOT NULL,
        provider         TEXT NOT NULL,
        host             TEXT NOT NULL,
        endpoint         TEXT NOT NULL,
        model_name       TEXT NOT NULL,
        request_hash     TEXT NOT NULL,
        request          TEXT NOT NULL,
        generation       INTEGER NOT NULL,
        state            TEXT NOT NULL,
        task_id          TEXT,
        intended_at      REAL NOT NULL,
        body_sent_at     REAL,
        acknowledged_at  REAL,
        message          TEXT NOT NULL,
        videos           TEXT NOT NULL,
        units            TEXT,
        created_at       REAL,
        ended_at         REAL,
        download         TEXT NOT NULL,
        path             TEXT,
        size             INTEGER,
        updated_at       REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX tasks_by_key ON tasks (key, request_hash, generation);
    CREATE INDEX tasks_by_state ON tasks (state);
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""Each brings the schema to the next version; what was released is never edited."""


@attrs.frozen(kw_only=True)
class Record:
    """One row: all that must outlive the process about one task. No secret and no picture is in it.

    Attributes:
        external_task_id: the idempotency key, unique.
        key: the caller's name for the video, or what stands for it: the content's hash and an ordinal.
        named: whether the caller gave the key.
        label: what the item is called in reports.
        account: the account's fingerprint.
        provider: the provider's name.
        host: of its base URL.
        endpoint: the kind of task.
        model_name: the model.
        request_hash: what was asked for, see `identity.request_hash`.
        request: the request as JSON, pictures as path, size and SHA-256.
        generation: 0, and one more each time the same video was wanted again on purpose.
        state: one of the words of `lifecycle.STATES`.
        task_id: Kling's id.
        intended_at: when it was to be submitted, Unix seconds like all times here.
        body_sent_at: when its answer was missed.
        acknowledged_at: when Kling acknowledged it.
        message: why it ended without a video.
        videos: the result as JSON.
        units: what was charged, a decimal.
        created_at: when Kling made it, by Kling's clock.
        ended_at: when Kling last changed it, by Kling's clock.
        download: ``none``, ``part`` or ``stored``.
        path: the file, relative to the journal's folder where it is below it.
        size: of the file in bytes.
        updated_at: when this row was written.
    """

    external_task_id: str
    key: str
    named: bool
    label: str
    account: str
    provider: str
    host: str
    endpoint: str
    model_name: str
    request_hash: str
    request: str = "{}"
    generation: int = 0
    state: str = TaskStatus.INTENDED.value
    task_id: str | None = None
    intended_at: float = 0.0
    body_sent_at: float | None = None
    acknowledged_at: float | None = None
    message: str = ""
    videos: str = "[]"
    units: str | None = None
    created_at: float | None = None
    ended_at: float | None = None
    download: str = "none"
    path: str | None = None
    size: int | None = None
    updated_at: float = 0.0

    @property
    def weight(self) -> tuple[int, bool, float]:
        """Of several rows of an item, in several journals, the largest tells what became of it."""
        return self.generation, self.state != TaskStatus.REFUSED, self.updated_at


LIVE = tuple(status.value for status in TaskStatus if not is_terminal(status))
"""The states of tasks that have not ended."""


def name_of(key: str, request_hash: str) -> int:
    """What stands for an item in memory, where two that share it only cost a look at the file."""
    return hash((key, request_hash))


class InUseError(JournalError):
    """Another process has the journal open, or this one has it open already."""


class UnfitError(JournalError):
    """SQLite cannot store this record, however often it is tried."""
