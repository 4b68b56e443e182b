/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * From a frame to a UDP datagram, with one cursor that cannot leave the packet.
 *
 * Taken: Ethernet, up to two VLAN tags (802.1Q, 802.1ad), IPv4 without options,
 * IPv6 without extension headers, UDP. Not taken, on purpose, and so left to the
 * stack: IPv4 options (a reply would carry the sender's routes and records back),
 * fragments (no ports in most of them), extension headers, a zero UDP checksum
 * over IPv6 (RFC 8200, section 8.1), and lengths that disagree.
 *
 * A tag that the card strips (ethtool: rx-vlan-offload) is never seen here.
 */
#ifndef PATHLAB_PARSE_H
#define PATHLAB_PARSE_H

#include "abi.h"

struct ethernet {
	u8 destination[6];
	u8 source[6];
	be16 type;
};

struct vlan_tag {
	be16 control;
	be16 type;
};

struct ipv4 {
	u8 version_and_length;
	u8 tos;
	be16 total_length;
	be16 id;
	be16 fragment;
	u8 ttl;
	u8 protocol;
	u16 check;
	be32 source;
	be32 destination;
};

struct ipv6 {
	be32 version_class_flow;
	be16 payload_length;
	u8 next_header;
	u8 hop_limit;
	struct address source;
	struct address destination;
};

static INLINE struct address_halves *halves(const struct address *address)
{
	return (struct address_halves *)address;
}

/* The lower half of ::ffff:a.b.c.d; the upper one is zero. */
static INLINE u64 lower_of_v4(be32 address)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (u64)address << 32 | cpu_to_be32(0xffff);
#else
	return 0xffffULL << 32 | address;
#endif
}

struct udp {
	be16 source;
	be16 destination;
	be16 length;
	u16 check;
};

_Static_assert(sizeof(struct ethernet) == 14, "ethernet");
_Static_assert(sizeof(struct ipv4) == 20, "ipv4");
_Static_assert(sizeof(struct ipv6) == 40, "ipv6");
_Static_assert(sizeof(struct udp) == 8, "udp");

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_QINQ = 0x88a8,
	PROTOCOL_UDP = 17,
	FRAGMENT_MASK = 0x3fff,		/* offset, and "more fragments" */
	MAC_GROUP = 1,			/* first octet: multicast or broadcast */
};

struct cursor {
	void *at;
	void *end;
};

/* The next `size` octets, a constant, or NULL when the packet ends before. */
static INLINE void *take(struct cursor *cursor, u32 size)
{
	void *taken = cursor->at;

	if (taken + size > cursor->end)
		return NULL;
	cursor->at = taken + size;
	if (!taken)
		__builtin_unreachable(); /* no packet is there: spares a test wherever this is used */
	return taken;
}

struct datagram {
	struct ethernet *ethernet;
	struct ipv4 *v4;		/* one of the two is NULL */
	struct ipv6 *v6;
	struct udp *udp;
	u16 payload_length;
	bool trailer;			/* the frame goes on after the datagram */
};

/*
 * A length as a header says it. Verifiers up to 6.12 at least know nothing of the result of a swap of 16 bits, and refuse to add it to a
 * pointer; the compiler knows its range, and would leave out an "&" in C.
 */
static INLINE u32 length_of(be16 field)
{
	u64 length = be16_to_cpu(field);

	asm("%0 &= 0xffff" : "+r"(length));
	return length;
}

/* Network layer octets, as its header says them, against those of the frame. */
static INLINE bool fits(struct datagram *d, void *network, u32 length, struct cursor *cursor)
{
	void *end = network + length;

	if (end > cursor->end)
		return false;
	d->trailer = end < cursor->end;
	return true;
}

/* The UDP header, which says the same length as the network layer. */
static INLINE bool parse_udp(struct cursor *cursor, struct datagram *d, u32 length)
{
	d->udp = take(cursor, sizeof(*d->udp));
	if (!d->udp || be16_to_cpu(d->udp->length) != length || length < sizeof(*d->udp))
		return false;
	d->payload_length = length - sizeof(*d->udp);
	return true;
}

static INLINE bool parse_ipv4(struct cursor *cursor, struct datagram *d)
{
	struct ipv4 *ip = take(cursor, sizeof(*ip));
	u32 length;

	if (!ip || ip->version_and_length != 0x45 || ip->protocol != PROTOCOL_UDP)
		return false;
	if (ip->fragment & cpu_to_be16(FRAGMENT_MASK))
		return false;
	length = length_of(ip->total_length);
	if (length < sizeof(*ip) || !fits(d, ip, length, cursor))
		return false;
	d->v4 = ip;
	d->v6 = NULL;
	return parse_udp(cursor, d, length - sizeof(*ip));
}

static INLINE bool parse_ipv6(struct cursor *cursor, struct datagram *d)
{
	struct ipv6 *ip = take(cursor, sizeof(*ip));
	u32 length;

	if (!ip || (ip->version_class_flow & cpu_to_be32(0xf0000000)) != cpu_to_be32(0x60000000))
		return false;
	if (ip->next_header != PROTOCOL_UDP)
		return false;
	length = length_of(ip->payload_length);
	if (!fits(d, ip, sizeof(*ip) + length, cursor))
		return false;
	d->v4 = NULL;
	d->v6 = ip;
	return parse_udp(cursor, d, length) && d->udp->check;
}

/* What follows the Ethernet header and its tags, by its type; 0 where the frame ends before. */
static INLINE be16 parse_ethernet(struct cursor *cursor, struct datagram *d)
{
	be16 type;

	d->ethernet = take(cursor, sizeof(*d->ethernet));
	if (!d->ethernet)
		return 0;
	type = d->ethernet->type;

#pragma unroll
	for (int tags = 0; tags < 2; tags++) {
		struct vlan_tag *tag;

		if (type != cpu_to_be16(ETHERTYPE_VLAN) && type != cpu_to_be16(ETHERTYPE_QINQ))
			break;
		tag = take(cursor, sizeof(*tag));
		if (!tag)
			return 0;
		type = tag->type;
	}
	return type;
}

/* True for a whole UDP datagram of a kind listed above. */
static INLINE bool parse_datagram(struct cursor *cursor, struct datagram *d)
{
	be16 type = parse_ethernet(cursor, d);

	if (type == cpu_to_be16(ETHERTYPE_IPV4))
		return parse_ipv4(cursor, d);
	return type == cpu_to_be16(ETHERTYPE_IPV6) && parse_ipv6(cursor, d);
}

#endif
