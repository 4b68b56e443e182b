/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Internet checksum, updated for what changes alone (RFC 1624, equation 3:
 * HC' = ~(~HC + ~m + m')). What was right stays right and what was wrong stays
 * wrong, so a datagram damaged on its way here is still noticed by its sender.
 *
 * Sums are one's complement and so hold in any byte order: nothing is swapped.
 */
#ifndef PATHLAB_CSUM_H
#define PATHLAB_CSUM_H

#include "kernel.h"

/* Of up to 65,536 words of 32 bits: then one fold to 32 bits and two to 16 leave no carry. */
static INLINE u16 csum_fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* For UDP, where zero says "no checksum": a computed zero is sent as 0xffff. */
static INLINE u16 csum_finish_udp(u64 sum)
{
	u16 check = ~csum_fold(sum);

	return check ? check : 0xffff;
}

#endif
