"""Limits of packets and of money per peer, that hold over all workers of a node.

Each limit is one token bucket in Redis. A worker decides every packet by itself, at once, from a
slice of it: its part of what the bucket held when it last asked. While it uses a limit it reports
what it used, and is told its next slice, every ``SYNC_S``; an idle worker asks for nothing and
keeps nothing from the others. What workers use together beyond the bucket between two reports is a
debt that all then wait for, so that over time exactly the burst and what flowed in gets through,
however the packets are spread.

An amount above the burst is always refused. A bucket holds at least what flows in during
``BURST_S_MIN``, because less would be lost between two reports.

While Redis is away a slice fills up by itself, at one part in ``workers`` of the limit's rate and
up to that part of its burst; so it does for a worker that was idle.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from connector.directory import Directory, RateLimit
from connector.policy import NS_PER_S, TokenBucket, share_ceil

log = structlog.get_logger(__name__)

SYNC_S: Final = 0.02
# With many limits in use reports are rarer, which keeps their cost below a tenth of a core.
SYNC_S_PER_QUOTA: Final = 0.0001
BURST_S_MIN: Final = 0.1
ANSWER_S_MAX: Final = 0.5
RETRY_S: Final = 0.25
# A worker that has not reported for this long has no part in the bucket.
ACTIVE_US: Final = 200_000
# Buckets in one request: Redis answers nothing else meanwhile.
PAGE: Final = 500
# Redis forgets a bucket that has been full for this long.
FORGET_S: Final = 10

# KEYS: the buckets. ARGV: worker, ACTIVE_US, FORGET_S, then for each bucket: used, tokens a second,
# burst. Returns for each bucket: its level and how many workers share it.
# Redis's clock counts, so that the workers' need not agree. Levels are doubles, exact up to 2^53
# tokens and to 16 digits above: they limit money, and move none.
SYNC_SCRIPT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local worker, active_us, forget_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for i, key in ipairs(KEYS) do
    local used, rate = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
    local burst = tonumber(ARGV[3 * i + 3])
    local level, at, sharers = burst, now, 1
    local fields = redis.call('HGETALL', key)
    for f = 1, #fields, 2 do
        local name, value = fields[f], tonumber(fields[f + 1])
        if name == 'level' then level = value
        elseif name == 'at' then at = value
        elseif name ~= worker then
            if now - value < active_us then sharers = sharers + 1
            else redis.call('HDEL', key, name) end
        end
    end
    if now > at then level = level + (now - at) * rate / 1000000 end
    level = math.min(level, burst) - used
    redis.call('HSET', key, 'level', string.format('%.17g', level),
        'at', string.format('%.0f', math.max(now, at)), worker, string.format('%.0f', now))
    local full_s = math.min((burst - level) / rate, 100000000)
    redis.call('EXPIRE', key, string.format('%.0f', math.ceil(full_s) + forget_s))
    answer[2 * i - 1] = string.format('%.0f', math.floor(level))
    answer[2 * i] = sharers
end
return answer
"""


class PeerQuota:
    """This worker's slice of one limit of one peer. Implements ``ports.Quota``."""

    __slots__ = ("_bucket", "_clock_ns", "_due", "_report", "burst", "key", "limit", "used")

    def __init__(
        self,
        key: str,
        limit: RateLimit,
        workers: int,
        clock_ns: Callable[[], int],
        report: Callable[["PeerQuota"], None],
    ) -> None:
        self.key = key
        self.used = 0
        self._clock_ns = clock_ns
        self._report = report
        self._due = False
        self.change(limit, workers)

    def change(self, limit: RateLimit, workers: int) -> None:
        """Take a new limit, from now on."""
        self.limit = limit
        self.burst = max(limit.burst, int(limit.per_second * BURST_S_MIN))
        self._bucket = TokenBucket(
            limit.per_second, share_ceil(self.burst, workers), self._clock_ns(), workers * NS_PER_S
        )

    def take(self, amount: int) -> bool:
        """Use up ``amount`` tokens, all or nothing; never waits."""
        if not self._due:
            self._due = True
            self._report(self)
        if amount > self.limit.burst or not self._bucket.take(amount, self._clock_ns()):
            return False
        self.used += amount
        return True

    def begin_report(self) -> int:
        """What was used since the last report; a use from now on is for the next one."""
        used = self.used
        self.used = 0
        self._due = False
        return used

    def end_report(self, level: int, sharers: int) -> None:
        """Take the new slice, less what was used while the report was under way."""
        self._bucket.fill(share_ceil(level, sharers) - self.used, self._clock_ns())


class QuotaManager:
    """The limits of all peers in one worker."""

    def __init__(
        self,
        redis: Redis,
        worker: str,
        workers: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Prepare.

        worker - a name that no other worker has; workers - how many there are.
        """
        self._redis = redis
        self._worker = worker
        self._workers = workers
        self._clock_ns = clock_ns
        self._quotas: dict[str, PeerQuota] = {}
        self._due: list[PeerQuota] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._script = ""
        self.redis_away = False
        self.failures = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="quotas")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for request in self._requests:
            request.cancel()
        if self._requests:
            await asyncio.wait(self._requests, timeout=ANSWER_S_MAX)

    def apply_directory(self, directory: Directory) -> None:
        """Take the limits of a new directory; a quota that stays keeps its object."""
        quotas: dict[str, PeerQuota] = {}
        for peer in directory.peers.values():
            for kind, limit in (("packets", peer.packet_limit), ("amount", peer.amount_limit)):
                if limit is not None:
                    key = _key(peer.id, kind)
                    quotas[key] = self._keep(key, limit)
        self._quotas = quotas

    def packet_quota(self, peer_id: int) -> PeerQuota | None:
        return self._quotas.get(_key(peer_id, "packets"))

    def amount_quota(self, peer_id: int) -> PeerQuota | None:
        return self._quotas.get(_key(peer_id, "amount"))

    def _keep(self, key: str, limit: RateLimit) -> PeerQuota:
        quota = self._quotas.get(key)
        if quota is None:
            return PeerQuota(key, limit, self._workers, self._clock_ns, self._receive_use)
        if quota.limit != limit:
            quota.change(limit, self._workers)
        return quota

    def _receive_use(self, quota: PeerQuota) -> None:
        self._due.append(quota)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, []
            pause_s = min(SYNC_S + SYNC_S_PER_QUOTA * len(due), BURST_S_MIN)
            try:
                for start in range(0, len(due), PAGE):
                    await self._ask(due[start : start + PAGE])
            except (RedisError, OSError, TimeoutError) as error:
                self._receive_failure(due, error)
                pause_s = RETRY_S
            else:
                if self.redis_away:
                    self.redis_away = False
                    log.info("quota_redis_back")
            await asyncio.sleep(pause_s)

    def _receive_failure(self, due: list[PeerQuota], error: Exception) -> None:
        """Go on with this worker's share; what it uses meanwhile is not reported afterwards."""
        for quota in due:
            quota.begin_report()
        self.failures += 1
        if not self.redis_away:
            self.redis_away = True
            log.warning("quota_redis_away", reason=str(error) or repr(error))

    async def _ask(self, due: list[PeerQuota]) -> None:
        """Report and be told, within ``ANSWER_S_MAX``.

        In a task, because the client can swallow a cancellation, and with it a time-out.
        """
        request = asyncio.create_task(self._sync(due))
        request.add_done_callback(_forget)
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        done, _ = await asyncio.wait({request}, timeout=ANSWER_S_MAX)
        if not done:
            request.cancel()
            raise TimeoutError(f"no answer within {ANSWER_S_MAX} s")
        request.result()

    async def _sync(self, due: list[PeerQuota]) -> None:
        arguments: list[Any] = [self._worker, ACTIVE_US, FORGET_S]
        for quota in due:
            arguments += (quota.begin_report(), quota.limit.per_second, quota.burst)
        answer = await self._evaluate([quota.key for quota in due], arguments)
        for index, quota in enumerate(due):
            quota.end_report(int(answer[2 * index]), int(answer[2 * index + 1]))

    async def _evaluate(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        if self._script:
            try:
                return await self._redis.evalsha(  # type: ignore[no-any-return]
                    self._script, len(keys), *keys, *arguments
                )
            except NoScriptError:
                # Redis was restarted or flushed.
                self._script = ""
        self._script = await self._redis.script_load(SYNC_SCRIPT)
        return await self._redis.evalsha(  # type: ignore[no-any-return]
            self._script, len(keys), *keys, *arguments
        )


def _forget(request: asyncio.Task[None]) -> None:
    """An answer that nobody waits for any more may fail as it likes."""
    if not request.cancelled():
        request.exception()


def _key(peer_id: int, kind: str) -> str:
    return f"quota:{peer_id:032x}:{kind}"
