"""What the tests of streams and journals share: items by their prompts, what came of them, what was made."""

from collections import Counter


async def completed(kling, requests, **options):
    """What a stream of *requests* yields, by key."""
    return {done.key: done async for done in kling.completions(requests, **options)}


def keyed(here, *names):
    """A request for each name, under it."""
    return [(name, here.request(name)) for name in names]


def made(here):
    """How often each prompt was made."""
    return Counter(each.body["prompt"] for each in here.ledger.made)
