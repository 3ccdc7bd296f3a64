"""Are the demo's videos real? ``check_videos.py FOLDER``: every MP4 must be H.264, of its length, and move.

Each is named after the photo it begins with and has its aspect ratio; made of several photos, it is 16:9.
"""

import sys
from importlib.resources import files
from pathlib import Path

import av
from PIL import Image

PHOTOS = Path(str(files("kling_async") / "photos"))
SECONDS = 5
"""What the demo asks for: nothing, which is 5 s."""


def problems(path: Path) -> list[str]:
    """What is wrong with the video at *path*."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name
        width, height = stream.width, stream.height
        frames = [bytes(frame.planes[0]) for frame in container.decode(stream)]  # each pixel's brightness
        seconds = float(container.duration or 0) / av.time_base
    found: list[str] = []
    if codec != "h264":
        found.append(f"codec {codec}")
    if abs(seconds - SECONDS) > 0.2:
        found.append(f"{seconds:.2f} s instead of {SECONDS} s")
    if len(set(frames)) < len(frames) / 2:
        found.append("it does not move")
    photo = next((each for each in PHOTOS.iterdir() if path.stem.startswith(each.stem)), None)
    wanted = 16 / 9
    if photo is not None:
        with Image.open(photo) as picture:
            wanted = picture.width / picture.height
    if abs(width / height - wanted) > 0.05 * wanted:
        found.append(f"aspect ratio {width / height:.2f} instead of {wanted:.2f}")
    print(f"{path}: {codec} {width}x{height} {seconds:.2f} s, {len(frames)} frames {found or 'ok'}")
    return found


def main(folder: Path) -> int:
    """Check every MP4; 1 if there is none or one is wrong."""
    videos = sorted(folder.rglob("*.mp4"))
    wrong = [path for path in videos if problems(path)]
    return 1 if wrong or not videos else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
