/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What user space must know: the counters, the records in maps, and their sizes.
 * xdp/src/abi.rs says the same in Rust, and a test there compares the two.
 */
#ifndef PATHLAB_ABI_H
#define PATHLAB_ABI_H

#include "kernel.h"

/*
 * Every packet bumps exactly one counter besides RECEIVED, and
 * RECEIVED = REPLIED + all that follow it.
 */
enum reflector_counter {
	REFLECTOR_PASSED,		/* not ours: left to the stack as it was */
	REFLECTOR_HANDED_TO_XSK,	/* ours, for the AF_XDP socket of its queue */
	REFLECTOR_HANDED_TO_STACK,	/* ours, for a UDP socket */
	REFLECTOR_RECEIVED,		/* to one of our addresses and our port */
	REFLECTOR_REPLIED,
	REFLECTOR_SHORT,		/* under 44 octets: no STAMP test packet */
	REFLECTOR_SOURCE_PORT_OURS,	/* another reflector: replies would circle */
	REFLECTOR_SOURCE_PORT_ZERO,	/* RFC 768: no reply wanted */
	REFLECTOR_SOURCE_MAC_GROUP,	/* the frame would go to a whole segment */
	REFLECTOR_SOURCE_OURS,		/* from one of our own addresses */
	REFLECTOR_SOURCE_BROADCAST,
	REFLECTOR_SOURCE_MULTICAST,
	REFLECTOR_SOURCE_UNSPECIFIED,	/* 0.0.0.0/8, :: */
	REFLECTOR_SOURCE_LOOPBACK,	/* 127.0.0.0/8, ::1 */
	REFLECTOR_NOT_ALLOWED,		/* in no prefix of ALLOWED */
	REFLECTOR_UNAUTHENTICATED,	/* under LEAST: keys are given, and no room for an HMAC */
	REFLECTOR_RATE_LIMITED,		/* the source has had its share for now */
	REFLECTOR_PREFIX_RATE_LIMITED,	/* its /24 or /48 has */
	REFLECTOR_TOTAL_RATE_LIMITED,	/* all have */
	REFLECTOR_COUNTERS,
};

struct reflector_counters {
	u64 count[REFLECTOR_COUNTERS];
};
_Static_assert(sizeof(struct reflector_counters) == 152, "abi.rs: COUNTERS");

/* The one entry of map .data.clock: what changes while the reflector runs. */
struct reflector_clock {
	s64 tai_minus_utc;	/* ns */
	be16 error_estimate;	/* RFC 8762, section 4.2.1 */
	u8 pad[6];
};
_Static_assert(sizeof(struct reflector_clock) == 16, "abi.rs: ClockRecord");

/* Key of map ADDRESSES: an IPv6 address, or an IPv4 address as ::ffff:a.b.c.d. */
struct address {
	be32 word[4];
};
_Static_assert(sizeof(struct address) == 16, "abi.rs: AddressKey");

/* The same 16 octets, for programs that move and compare them by eight. */
struct address_halves {
	u64 upper;
	u64 lower;
};

/* Value of map ADDRESSES. */
enum address_role {
	ADDRESS_OURS = 1,
	ADDRESS_BROADCAST = 2,	/* of one of the interface's IPv4 networks */
};
#define ADDRESSES_MAX 256

/*
 * Of the one entry of map .data.slots, at the place that an address's hash names: the
 * same role without a hash table's cost. Room for the one address that has the place; where
 * several have it, ADDRESSES alone knows.
 */
struct address_slot {
	struct address_halves address;
	u32 role;
	u32 pad[3];
};
_Static_assert(sizeof(struct address_slot) == 32, "abi.rs: SlotRecord");
#define ADDRESS_SLOTS 256
#define ADDRESS_HASH 0x9e3779b1
#define ADDRESS_CROWDED 3

/* Key of map ALLOWED; IPv4 prefixes are 96 longer, as part of ::ffff:0:0/96. */
struct prefix {
	u32 length;
	struct address address;
};
_Static_assert(sizeof(struct prefix) == 20, "allow.rs: PrefixKey");
#define PREFIXES_MAX 1024

/* Whose replies are limited. */
enum rate {
	RATE_OF_SOURCE,		/* an IPv4 address, an IPv6 /64 */
	RATE_OF_PREFIX,		/* /24, /48 */
	RATE_OF_ALL,
	RATE_LIMITS,
};
#define RATE_BUCKETS 65536
#define RATE_TRIES 8

/* Which requests to our port and addresses the driver does not answer itself. */
enum hand_over {
	HAND_OVER_NOTHING = 0,
	HAND_OVER_LONGER = 1,	/* what is more than a base packet */
	HAND_OVER_ALL = 2,
};

/* Every packet bumps exactly one. */
enum redirect_counter {
	REDIRECT_PASSED,		/* not ours: left to the stack as it was */
	REDIRECT_REDIRECTED,		/* to the socket of its queue, with a record */
	REDIRECT_REDIRECTED_BARE,	/* without: the driver leaves no room for metadata */
	REDIRECT_NO_SOCKET,		/* ours, and left to the stack for want of a socket */
	REDIRECT_COUNTERS,
};

struct redirect_counters {
	u64 count[REDIRECT_COUNTERS];
};
_Static_assert(sizeof(struct redirect_counters) == 32, "xsk/redirect.rs: COUNTERS");

/*
 * Lies directly before the packet in the frame of an AF_XDP socket. Kernels
 * before 6.8 allow 32 octets of metadata. The size of the return code is ours. The
 * card's hash is not asked for: a driver without one computes it (veth: 100 ns).
 */
struct xsk_record {
	u64 nic;		/* the card's stamp, ns of its own clock; 0 is absent */
				/* with XSK_NIC_TAIL: cycles of its counter */
	u64 xdp;		/* CLOCK_TAI when the program had judged it, ns */
	u16 cpu;		/* that ran the program: the one of the queue's interrupt */
	s16 nic_rc;		/* of bpf_xdp_metadata_rx_timestamp */
	u16 queue;
	u16 magic;
};
_Static_assert(sizeof(struct xsk_record) == 24, "xsk/metadata.rs: RECORD_LENGTH");
#define XSK_RECORD_MAGIC 0x7e5d
#define XSK_NIC_TAIL 1		/* nic_rc: read from behind the frame */
#define XSKS_MAX 1024

#endif
