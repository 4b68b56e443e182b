/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * STAMP test packets, unauthenticated (RFC 8762, sections 4.2.1 and 4.3.1), with
 * the SSID of RFC 8972, section 3. NTP timestamps: seconds since 1900 and 2^-32 s.
 */
#ifndef PATHLAB_STAMP_H
#define PATHLAB_STAMP_H

#include "kernel.h"

struct ntp_time {
	be32 seconds;
	be32 fraction;
};

struct stamp_request {
	be32 sequence;
	struct ntp_time timestamp;		/* T1 */
	be16 error_estimate;
	be16 ssid;
	be32 zero[7];
};

struct stamp_reply {
	be32 sequence;
	struct ntp_time timestamp;		/* T3 */
	be16 error_estimate;
	be16 ssid;
	struct ntp_time receive_timestamp;	/* T2 */
	be32 sender_sequence;
	struct ntp_time sender_timestamp;	/* T1 */
	be16 sender_error_estimate;
	be16 zero;
	u8 sender_ttl;
	u8 zeros[3];
};

#define STAMP_WORDS 11
_Static_assert(sizeof(struct stamp_request) == STAMP_WORDS * 4, "RFC 8762, figure 2");
_Static_assert(sizeof(struct stamp_reply) == STAMP_WORDS * 4, "RFC 8762, figure 5");

#define NTP_OF_1970 2208988800ULL		/* seconds, RFC 5905, section 6 */

/* The upper 64 bits of a product: BPF multiplies 64 bits by 64 bits to 64 bits. */
static INLINE u64 multiply_high(u64 a, u64 b)
{
	u64 a0 = (u32)a, a1 = a >> 32, b0 = (u32)b, b1 = b >> 32;
	u64 middle = a1 * b0 + (a0 * b0 >> 32);

	return a1 * b1 + (middle >> 32) + (((u32)middle + a0 * b1) >> 32);
}

/*
 * Rounds down, to one unit of 2^-32 s below at most. Era 1 begins in 2036: the
 * seconds wrap, as RFC 5905 has it. A division costs as much as all the rest of a
 * reply; seconds and fraction together are one product:
 *
 *   utc * 2^32 / 10^9 = 4 utc + utc * 0.294967296, the latter times 2^64 rounded down
 */
static INLINE u64 ntp_time(u64 utc)
{
	return (NTP_OF_1970 << 32) + 4 * utc + multiply_high(utc, 0x4b82fa09b5a52cb9);
}

#endif
