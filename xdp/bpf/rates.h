/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * How many replies there may be to one source, to one network and in all: the rules
 * of reflector/src/session/limit.rs, in the driver. The same vectors go through both.
 *
 * A bucket is the time at which it is full again (GCRA), in an array that no number
 * of sources makes grow, and from which none drives another out, as it could from an
 * LRU hash. A source's place is its key times a secret odd number (multiply-shift:
 * two keys meet with a chance of at most 2 in RATE_BUCKETS, and none can be aimed).
 */
#ifndef PATHLAB_RATES_H
#define PATHLAB_RATES_H

#include "parse.h"

/*
 * Set before loading, read-only after. LIMITED: whether there is any limit; where
 * there is none the verifier drops all that follows.
 */
const volatile u8 LIMITED = 0;
const volatile u64 RATE_SECRET = 1;
/* ns that one reply takes from a bucket, 0 for no limit; and ns that a bucket holds */
const volatile s64 RATE_COST[RATE_LIMITS] = { 0 };
const volatile s64 RATE_DEPTH[RATE_LIMITS] = { 0 };
/* For test vectors: the time is what user space writes to RATE_CLOCK. */
const volatile u8 FIXED_RATE_CLOCK = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, s64);
} RATE_CLOCK SEC(".maps");

/* Where there is no such limit the loader makes room for one bucket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RATE_BUCKETS);
	__type(key, u32);
	__type(value, s64);
} RATE_SOURCE SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RATE_BUCKETS);
	__type(key, u32);
	__type(value, s64);
} RATE_PREFIX SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, s64);
} RATE_TOTAL SEC(".maps");

static INLINE s64 rate_now(void)
{
	u32 zero = 0;
	s64 *fixed;

	if (!FIXED_RATE_CLOCK)
		return bpf_ktime_get_ns();
	fixed = bpf_map_lookup_elem(&RATE_CLOCK, &zero);
	return fixed ? *fixed : 0; /* cannot be NULL: it has entry 0 */
}

/*
 * Takes a token. Other processors take theirs from the same bucket: who comes
 * between reading and writing RATE_TRIES times running has its packet refused, so
 * that there is never a reply too many.
 */
static INLINE bool take_token(void *buckets, u32 at, enum rate limit, s64 now)
{
	s64 cost = RATE_COST[limit], depth = RATE_DEPTH[limit];
	s64 *full_at;

	if (!cost)
		return true;
	full_at = bpf_map_lookup_elem(buckets, &at);
	if (!full_at)
		return true; /* cannot be: the place is below the size */
#pragma unroll
	for (int try = 0; try < RATE_TRIES; try++) {
		s64 old = *(volatile s64 *)full_at;
		s64 next = (old > now ? old : now) + cost;

		if (next - now > depth)
			return false;
		if (__sync_val_compare_and_swap(full_at, old, next) == old)
			return true;
	}
	return false;
}

/* Fibonacci's high bits of a keyed product; RATE_BUCKETS is 2^16. */
static INLINE u32 rate_place(u64 key)
{
	return key * (RATE_SECRET | 1) >> 48;
}

/*
 * REPLIED, or which limit is reached. The narrowest is asked first, so that a source
 * that is refused for its own rate takes nothing from others.
 */
static NOINLINE u32 take_tokens(u64 source, u64 prefix)
{
	s64 now = rate_now();

	if (!take_token(&RATE_SOURCE, rate_place(source), RATE_OF_SOURCE, now))
		return REFLECTOR_RATE_LIMITED;
	if (!take_token(&RATE_PREFIX, rate_place(prefix), RATE_OF_PREFIX, now))
		return REFLECTOR_PREFIX_RATE_LIMITED;
	if (!take_token(&RATE_TOTAL, 0, RATE_OF_ALL, now))
		return REFLECTOR_TOTAL_RATE_LIMITED;
	return REFLECTOR_REPLIED;
}

/* IPv4 sources are keyed apart from IPv6 networks, within what would be multicast there. */
static INLINE u32 admit(const struct datagram *d)
{
	u64 network;

	if (!LIMITED)
		return REFLECTOR_REPLIED;
	if (d->v4) {
		network = 0xffffULL << 48;
		return take_tokens(network | be32_to_cpu(d->v4->source), network | be32_to_cpu(d->v4->source) >> 8);
	}
	network = (u64)be32_to_cpu(d->v6->source.word[0]) << 32 | be32_to_cpu(d->v6->source.word[1]);
	return take_tokens(network, network >> 16);
}

#endif
