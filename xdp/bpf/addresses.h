/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Which addresses are ours: a host that forwards sees other hosts' datagrams to
 * the same port, and those pass.
 */
#ifndef PATHLAB_ADDRESSES_H
#define PATHLAB_ADDRESSES_H

#include "parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES_MAX);
	__type(key, struct address);
	__type(value, u32);
} ADDRESSES SEC(".maps");

/* A map of one entry, written by user space, that a program reads in place: a lookup would cost as much again. */
struct address_slot SLOTS[ADDRESS_SLOTS] SEC(".data.slots");

static NOINLINE u32 role_among_several(u64 upper, u64 lower)
{
	struct address_halves address = { upper, lower };
	u32 *role = bpf_map_lookup_elem(&ADDRESSES, &address);

	return role ? *role : 0;
}

/* The address_role of an address, 0 for one that we do not know. */
static INLINE u32 role(u64 upper, u64 lower)
{
	u64 both = upper ^ lower;
	u32 at = (u32)(both ^ both >> 32) * ADDRESS_HASH >> 24;
	const struct address_slot *slot = &SLOTS[at];
	u32 known = *(const volatile u32 *)&slot->role; /* once: user space may change it */

	if (!known)
		return 0;
	if (known == ADDRESS_CROWDED)
		return role_among_several(upper, lower);
	return slot->address.upper == upper && slot->address.lower == lower ? known : 0;
}

static INLINE u32 role_v4(be32 address)
{
	return role(0, lower_of_v4(address));
}

static INLINE u32 role_v6(const struct address *address)
{
	return role(halves(address)->upper, halves(address)->lower);
}

/*
 * d->v4 or d->v6 is NULL, never both. The verifier does not know that, so each is
 * tested where it is used.
 */
static INLINE bool addressed_to_us(const struct datagram *d)
{
	u32 role = 0;

	if (d->ethernet->destination[0] & MAC_GROUP)
		return false;
	if (d->v4)
		role = role_v4(d->v4->destination);
	else if (d->v6)
		role = role_v6(&d->v6->destination);
	return role == ADDRESS_OURS;
}

#endif
