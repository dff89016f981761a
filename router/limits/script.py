"""LeaseBook in Lua, for Redis: one call for all limits of a process, atomic, on the server's clock.

A limit is one hash. `s` is the sum of the steps that still count, `t` the last step seen, `b0` to
`b60` the steps in a ring, `o` the units on lease, `n` the leases, `x` a moment before which none
ends, `l:<holder>` a lease (`units:end:total`), `h` until when somebody is hungry, `e` the era.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.limits.leases import BUCKETS, HUNGER, Ask, Grant

__all__ = ["LEASE", "read_reply", "script_arguments", "script_keys"]

_RING = BUCKETS + 1
_PREFIX = "router:{limits}:"  # one slot of a Redis cluster, so that one call may name them all

LEASE = f"local BUCKETS, RING, HUNGER = {BUCKETS}, {_RING}, {HUNGER}" + """
local now, ttl, holder = tonumber(ARGV[1]), tonumber(ARGV[2]), 'l:' .. ARGV[3]
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local function text(number) return string.format('%.0f', number) end
local function split(lease)
  local units, ends, total = string.match(lease, '^(-?%d+):(%d+):(-?%d+)$')
  return tonumber(units), tonumber(ends), tonumber(total)
end
local reply = {}
for i, key in ipairs(KEYS) do
  local a = 3 + (i - 1) * 11
  local function given(place) return tonumber(ARGV[a + place]) end
  local limit, window, total, acked, recent = given(1), given(2), given(3), given(4), given(5)
  local keep, must, want, need, refunds, known = given(6), given(7), given(8), given(9), ARGV[a + 10], given(11)
  local width = math.max(1, math.floor(window / BUCKETS))
  local step = math.floor(now / width)
  local read = redis.call('HMGET', key, 'e', 's', 't', 'o', 'n', 'x', 'h', holder)
  local era, spent, seen = tonumber(read[1]) or now, tonumber(read[2]) or 0, tonumber(read[3]) or step
  local out, holders, ends = tonumber(read[4]) or 0, tonumber(read[5]) or 0, tonumber(read[6])
  local hungry, mine = tonumber(read[7]) or 0, read[8]
  if step < seen then step = seen end
  -- What has left the window makes room in the ring.
  if window > 0 then
    for passed = math.max(seen + 1, step - BUCKETS), step do
      local slot = 'b' .. text(passed % RING)
      local old = tonumber(redis.call('HGET', key, slot))
      if old then
        spent = spent - old
        redis.call('HDEL', key, slot)
      end
    end
  end
  local booked = 0
  if ends and ends <= now then
    local all = redis.call('HGETALL', key)
    out, holders, ends = 0, 0, nil
    for j = 1, #all, 2 do
      if string.sub(all[j], 1, 2) == 'l:' then
        local units, over = split(all[j + 1])
        if over <= now then
          redis.call('HDEL', key, all[j])
          if all[j] == holder then mine = false end
          booked = booked + units
        else
          out, holders = out + units, holders + 1
          if not ends or over < ends then ends = over end
        end
      end
    end
    if window == 0 then booked = 0 end
  end
  local old, before = 0, acked
  if mine then
    local units, _, reported = split(mine)
    old, before = units, reported
  else
    holders = holders + 1
  end
  if window > 0 then
    booked = booked + math.max(0, known == era and total - before or recent)
    if known == era then
      for at, units in string.gmatch(refunds, '(%d+):(%d+)') do
        at, units = tonumber(at), tonumber(units)
        if at >= step - BUCKETS and at <= step then
          local slot = 'b' .. text(at % RING)
          local there = tonumber(redis.call('HGET', key, slot)) or 0
          if at == step then there = there + booked end
          units = math.min(units, there)
          if units > 0 then
            redis.call('HINCRBY', key, slot, '-' .. text(units))
            spent = spent - units
          end
        end
      end
    end
    if booked > 0 then
      redis.call('HINCRBY', key, 'b' .. text(step % RING), text(booked))
      spent = spent + booked
    end
  end
  local held = must
  if mine then held = math.max(must, keep) end
  local free = math.max(0, limit - spent - (out - old) - held)
  local units = math.max(0, math.min(want - held, free))
  local wait = 0
  if want > held + units then
    wait = 1
    if need > held + units then hungry = now + HUNGER end
    if window > 0 then
      for at = step - BUCKETS, step do
        if (tonumber(redis.call('HGET', key, 'b' .. text(at % RING))) or 0) > 0 then
          wait = math.max(1, (at + 1) * width + window - now)
          break
        end
      end
    end
  end
  out = out - old + held + units
  if not ends or now + ttl < ends then ends = now + ttl end
  redis.call('HSET', key, 'e', text(era), 's', text(spent), 't', text(step), 'o', text(out), 'n', text(holders),
    'x', text(ends), 'h', text(hungry), holder, text(held + units) .. ':' .. text(now + ttl) .. ':' .. text(total))
  redis.call('PEXPIRE', key, text(2 * window + 2 * ttl))
  local b = (i - 1) * 8
  reply[b + 1], reply[b + 2], reply[b + 3], reply[b + 4] = mine and 1 or 0, units, step, free - units
  reply[b + 5], reply[b + 6], reply[b + 7], reply[b + 8] = holders, now < hungry and 1 or 0, wait, era
end
return reply
"""
"""Keys: the limits. Arguments: the time in milliseconds (0: the server's), the time to live, the holder, then eleven
for each limit, in the order of `Ask`."""


def script_keys(asks: Sequence[Ask]) -> list[str]:
    """Return the script's keys."""
    return [_PREFIX + ask.key for ask in asks]


def script_arguments(holder: str, asks: Sequence[Ask], ttl: float, now: int = 0) -> list[str | int]:
    """Return the script's arguments; `ttl` is in seconds, `now` in milliseconds."""
    arguments: list[str | int] = [now, int(ttl * 1000), holder]
    for ask in asks:
        refunds = ",".join(f"{step}:{units}" for step, units in ask.refunds)
        arguments += (*ask[1:10], refunds, ask.era)
    return arguments


def read_reply(reply: Sequence[int]) -> list[Grant]:
    """Return the grants that the script's reply holds."""
    grants = []
    for start in range(0, len(reply), 8):
        kept, units, step, free, holders, hungry, wait, era = reply[start : start + 8]
        grants.append(Grant(bool(kept), units, step, free, holders, bool(hungry), wait, era))
    return grants
