"""Every photo of a folder becomes a video: `python batch_script.py photos videos "a slow push-in"`.

Ctrl-C when you like, and run it again: what is there stays, what runs is waited for, nothing is paid twice.
Exit code 0: all videos are there; 1: some are not; 2: it could not go on; 130: interrupted.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from kling_async import ImageToVideo, KlingClient, KlingError


def requests(photos: Path, prompt: str) -> Iterator[tuple[str, ImageToVideo]]:
    """One for each photo; its name is the key, by which the next run knows it."""
    for photo in sorted(photos.iterdir()):
        if photo.suffix.lower() in (".jpg", ".jpeg", ".png"):
            yield photo.name, ImageToVideo(image=photo, prompt=prompt)


async def make(photos: Path, videos: Path, prompt: str) -> bool:
    """Make what is missing; returns whether every photo has its video now."""
    missing = 0
    async with KlingClient.from_env() as kling:
        async for done in kling.completions(requests(photos, prompt), save_to=videos):
            missing += not done.ok
            print(f"{done.key}: {done.path if done.ok else done.error}", flush=True)
    return missing == 0


def main(photos: str, videos: str, prompt: str) -> int:
    """Make the videos; returns the exit code."""
    try:
        return 0 if asyncio.run(make(Path(photos), Path(videos), prompt)) else 1
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    except (KlingError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
