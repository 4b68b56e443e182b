/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * How long something took, as a histogram in the kernel: what is told of a
 * quantile in it is within 1/32 of the truth.
 *
 *   nanoseconds  0 1 .. 15 | 16 17 .. 31 | 32 34 .. 62 | 64 68 .. 124 | .. 2^35
 *   bucket       0 1 .. 15 | 16 17 .. 31 | 32 33 .. 47 | 48 49 ..  63 | ..  511
 *
 * Sixteen buckets an octave. src/watch/histogram.rs has the same in Rust, and a
 * test runs both.
 *
 * Most lie in per-CPU maps, or under a lock of the kernel's, and have one program
 * alone that adds to them: a program does not interrupt itself (the kernel counts
 * such events as missed), so that no addition has to be atomic. Where one of 4 KiB
 * for each processor would be too much, histogram_add_shared() adds to one for all.
 */
#ifndef PATHLAB_HISTOGRAM_H
#define PATHLAB_HISTOGRAM_H

#include "../../xdp/bpf/kernel.h"

enum {
	HISTOGRAM_SHIFT = 4,
	HISTOGRAM_BUCKETS = 512,
	/* Longer than 34 s is in the last bucket. */
	HISTOGRAM_BITS = 35,
};

struct histogram {
	u64 sum;
	u64 counts[HISTOGRAM_BUCKETS];
};

/*
 * Position of the highest bit that is set: all below it are set as well, and
 * then counted. There is no instruction for either, and this has no branch.
 */
static INLINE u32 highest_bit(u64 value)
{
	value |= value >> 1;
	value |= value >> 2;
	value |= value >> 4;
	value |= value >> 8;
	value |= value >> 16;
	value |= value >> 32;
	value -= value >> 1 & 0x5555555555555555;
	value = (value & 0x3333333333333333) + (value >> 2 & 0x3333333333333333);
	value = (value + (value >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return (value * 0x0101010101010101 >> 56) - 1;
}

static INLINE u32 histogram_bucket(u64 value)
{
	u32 octave;

	if (value >> HISTOGRAM_BITS)
		return HISTOGRAM_BUCKETS - 1;
	octave = highest_bit(value | 1 << HISTOGRAM_SHIFT) - HISTOGRAM_SHIFT;
	return (octave << HISTOGRAM_SHIFT) + (value >> octave);
}

static INLINE u64 *histogram_count(struct histogram *histogram, u64 value)
{
	u64 bucket = histogram_bucket(value);

	/* true of every bucket, which the compiler may know and the verifier does not */
	asm volatile("%0 &= %1" : "+r"(bucket) : "i"(HISTOGRAM_BUCKETS - 1));
	return &histogram->counts[bucket];
}

static INLINE void histogram_add(struct histogram *histogram, u64 value)
{
	histogram->sum += value;
	++*histogram_count(histogram, value);
}

static INLINE void histogram_add_shared(struct histogram *histogram, u64 value)
{
	__sync_fetch_and_add(&histogram->sum, value);
	__sync_fetch_and_add(histogram_count(histogram, value), 1);
}

#endif
