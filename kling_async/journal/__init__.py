"""The crash-safe record of every task: `writing` is its face on the event loop, `store` its SQLite file.

`schema` is what the file holds, `reading` how it is read without a lock, `siblings` the others of a folder.
"""

from kling_async.journal.schema import FILE_NAME, MIGRATIONS, InUseError, Record
from kling_async.journal.siblings import Sibling
from kling_async.journal.writing import Journal

__all__ = ["FILE_NAME", "MIGRATIONS", "InUseError", "Journal", "Record", "Sibling"]
