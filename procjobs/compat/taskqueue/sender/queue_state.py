"""What the sender knows of one push queue while it works: settings, tokens, rate, and how many requests are under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from procjobs.compat.taskqueue.sender.buckets import Bucket, Throttle
from procjobs.compat.taskqueue.sender.claims import Level, QueueRow
from procjobs.compat.taskqueue.settings.queues import QueueSettings

MAX_CONCURRENT: Final = 1000
"""How many requests of a queue are under way at most where `max_concurrent_requests` is not set."""
_SECOND: Final = 1_000_000


class QueueState:
    """One push queue. Moments are microseconds of a clock that does not step; an eta is microseconds since 1970 in UTC."""

    def __init__(self, row: QueueRow, now: int, wall: int, *, was_interrupted: bool) -> None:
        """`was_interrupted`: requests were under way when the sender before ended, maybe still on their way then.

        Such a bucket has gained nothing since its level was written.
        """
        self.settings = QueueSettings.from_json(row.settings)
        self._text = row.settings
        rate, size = self.settings.rate, self.settings.bucket_size
        share = 1.0 if row.enforced_rate is None or rate <= 0 else row.enforced_rate / rate
        self.throttle = Throttle(share, now)
        level = float(size) if row.tokens is None else row.tokens
        if row.tokens_at_usec is not None and not was_interrupted:
            level += max(wall - row.tokens_at_usec, 0) / _SECOND * rate * self.throttle.share
        self.bucket = Bucket(level, rate * self.throttle.share, size, now)
        self.running = 0
        self.next_eta = row.next_eta
        self._kept_rate = row.enforced_rate

    def update(self, row: QueueRow, now: int) -> None:
        """Take what the row says now: the first task that waits, and the settings if they have changed."""
        self.next_eta, self._kept_rate = row.next_eta, row.enforced_rate
        if row.settings != self._text:
            self._text = row.settings
            self.settings = QueueSettings.from_json(row.settings)
        self.adjust(now)

    def adjust(self, now: int) -> None:
        """Let the rate recover, and the bucket follow it."""
        self.throttle.recover(now)
        self.bucket.set_limits(self.enforced_rate, self.settings.bucket_size, now)

    @property
    def enforced_rate(self) -> float:
        """The rate that is kept now: that of the settings, or less after an overload."""
        return self.settings.rate * self.throttle.share

    def slow_down(self, now: int) -> None:
        """The application has said that it is overloaded."""
        self.throttle.slow_down(now)
        self.adjust(now)

    def capacity(self, now: int) -> int:
        """Return how many tasks may begin now."""
        most = self.settings.max_concurrent_requests or MAX_CONCURRENT
        return max(min(self.bucket.available(now), most - self.running), 0)

    def seconds_until_due(self, now: int, wall: int) -> float | None:
        """Return in how many seconds the next task may begin; None if time alone does not bring that."""
        if self.next_eta is None or self.running >= (self.settings.max_concurrent_requests or MAX_CONCURRENT):
            return None
        token_at = self.bucket.next_at(now)
        if token_at is None:
            return None
        return max(self.next_eta - wall, token_at - now, 0) / _SECOND

    def level(self, now: int) -> Level:
        """Return what the next sender is to find."""
        self._kept_rate = self.enforced_rate
        return Level(self.bucket.remaining(now), self._kept_rate)

    def has_unkept_rate(self) -> bool:
        """Return whether the row of the queue shows another rate than the one that is kept."""
        shown = self.settings.rate if self._kept_rate is None else self._kept_rate
        return shown != self.enforced_rate

    def begin(self, count: int) -> None:
        """Note that so many tasks were claimed."""
        self.running += count
        self.bucket.reserve(count)

    def departure(self, clock: Callable[[], int]) -> Departure:
        """Return what is to be told when the request of one claimed task has left."""
        return Departure(self.bucket, clock)


class Departure:
    """Spends the token of one request, once."""

    def __init__(self, bucket: Bucket, clock: Callable[[], int]) -> None:
        self._bucket = bucket
        self._clock = clock
        self._is_over = False

    def __call__(self) -> None:
        """The request has left, or will not."""
        if not self._is_over:
            self._is_over = True
            self._bucket.spend(self._clock())
