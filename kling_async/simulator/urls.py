"""The signed URLs of the finished videos: which are good, and which have died before their time."""

import hmac
from collections import Counter

from attrs import define, field


@define(eq=False)
class SignedURL:
    """A token that was given out.

    Attributes:
        issued: When it was first given out, Unix seconds.
        requests: How many requests it has served.
        dead: The HTTP status with which it is refused, None while it is good.
    """

    issued: float
    requests: int = 0
    dead: int | None = None

    def outlived(self, seconds: float | None, requests: int | None, now: float) -> bool:
        """Whether it is *seconds* old or has served *requests*; without either it always is."""
        if seconds is None and requests is None:
            return True
        old = seconds is not None and now >= self.issued + seconds
        return old or (requests is not None and self.requests >= requests)


@define(eq=False)
class SignedURLs:
    """Tokens by video and expiry, signed so that nobody makes one up.

    Attributes:
        key: Signs.
    """

    key: bytes
    _given: dict[str, SignedURL] = field(init=False, factory=dict)
    _deaths: Counter[str] = field(init=False, factory=Counter)

    def token(self, video_id: str, expires: int, now: float) -> str:
        """The token for a video until *expires*; the same one until it dies."""
        token = self._signed(video_id, expires)
        self._given.setdefault(token, SignedURL(now))
        return token

    def given(self, token: str) -> SignedURL | None:
        """What is known of *token*, None if it was never given out."""
        return self._given.get(token)

    def kill(self, video_id: str, url: SignedURL, status: int) -> None:
        """End *url*: from now on it is refused, and the next token of this video is another one."""
        url.dead = status
        self._deaths[video_id] += 1

    def valid(self, video_id: str, token: str, now: float) -> bool:
        """Whether *token* opens the video at *now*."""
        expires = token.partition("-")[0]
        if not expires.isdecimal() or now >= int(expires):
            return False
        return hmac.compare_digest(token, self._signed(video_id, int(expires)))

    def _signed(self, video_id: str, expires: int) -> str:
        text = f"{video_id}:{expires}:{self._deaths[video_id]}"
        return f"{expires}-{hmac.digest(self.key, text.encode(), 'sha256').hex()[:32]}"
