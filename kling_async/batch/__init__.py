"""A folder, a manifest or a stream of lines -> requests with their keys, all checked before any is submitted.

What comes out goes into ``client.completions``; `compare` tells what a journal holds of it from an earlier
run, and `as_made` keeps what that made before pictures were fitted. Nothing here prints, and nothing here
needs an event loop: it reads files, so an async service calls `read_source` in a thread.
"""

from kling_async.batch.earlier import Earlier, as_made, compare
from kling_async.batch.items import Item
from kling_async.batch.sources import Source, read_source

__all__ = ["Earlier", "Item", "Source", "as_made", "compare", "read_source"]
