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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ADDRESS_SLOTS);
	__type(key, u32);
	__type(value, struct address_slot);
} SLOTS SEC(".maps");

/* The address_role of an address, 0 for one that we do not know. */
static INLINE u32 role(be32 a, be32 b, be32 c, be32 d)
{
	u32 at = ((a ^ b ^ c ^ d) * ADDRESS_HASH) >> 24;
	struct address address;
	struct address_slot *slot;
	u32 *role, known;

	slot = bpf_map_lookup_elem(&SLOTS, &at);
	if (!slot)
		return 0; /* cannot be: 256 places, 8 bits */
	known = *(volatile u32 *)&slot->role; /* once: user space may change it */
	if (known != ADDRESS_CROWDED) {
		u32 differs = (slot->address.word[0] ^ a) | (slot->address.word[1] ^ b) |
			      (slot->address.word[2] ^ c) | (slot->address.word[3] ^ d);

		return differs ? 0 : known;
	}
	address = (struct address){ { a, b, c, d } };
	role = bpf_map_lookup_elem(&ADDRESSES, &address);
	return role ? *role : 0;
}

static INLINE u32 role_v4(be32 address)
{
	return role(0, 0, cpu_to_be32(0xffff), address);
}

static INLINE u32 role_v6(const struct address *address)
{
	return role(address->word[0], address->word[1], address->word[2], address->word[3]);
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
