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

/* The address_role of an address, 0 for one that we do not know. */
static INLINE u32 role(const struct address *address)
{
	u32 *role = bpf_map_lookup_elem(&ADDRESSES, address);

	return role ? *role : 0;
}

/*
 * d->v4 or d->v6 is NULL, never both. The verifier does not know that, so each is
 * tested where it is used.
 */
static INLINE struct address source_of(const struct datagram *d)
{
	struct address address = { { 0, 0, cpu_to_be32(0xffff), 0 } };

	if (d->v4)
		address.word[3] = d->v4->source;
	else if (d->v6)
		address = d->v6->source;
	return address;
}

static INLINE struct address destination_of(const struct datagram *d)
{
	struct address address = { { 0, 0, cpu_to_be32(0xffff), 0 } };

	if (d->v4)
		address.word[3] = d->v4->destination;
	else if (d->v6)
		address = d->v6->destination;
	return address;
}

static INLINE bool addressed_to_us(const struct datagram *d)
{
	struct address destination = destination_of(d);

	return !(d->ethernet->destination[0] & MAC_GROUP) && role(&destination) == ADDRESS_OURS;
}

#endif
