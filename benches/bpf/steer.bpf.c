// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Steering as it could be by tcx programs instead of nf_tables, to measure what
 * each would take: all that the rules do for a packet, and in their order.
 */
#include "../../canary/bpf/session.h"

enum {
	FAMILY_V4 = 2,
	FAMILY_V6 = 10,
	/* Places of PACKETS. */
	CONTROL = 0,
	CANARY,
	HELD,
	OVER,
	PLACES,
};

/* What the canary path is: a device and a gateway behind it, or a mark. */
volatile const u32 DEVICE = 0;
volatile const be32 VIA_V4 = 0;
volatile const be32 VIA_V6[4] = {};
volatile const u32 MARK = 0;
volatile const u32 MASK = 0;

struct redirect_neighbour {
	u32 family;
	be32 address[4];
};

static u64 (*const ktime_get_coarse_ns)(void) = (void *)160;
static long (*const redirect_neigh)(u32 device, struct redirect_neighbour *to, int length, u64 flags) = (void *)152;

/* The gate: canary packets are held from this time on. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} LEASE SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, u32);
	__type(value, u64);
} PACKETS SEC(".maps");

struct client {
	struct address address;
	u32 port;
};

/* Canary sessions by the time of their last packet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 20000);
	__type(key, struct client);
	__type(value, u64);
} LISTED SEC(".maps");

static INLINE void count(u32 place)
{
	u64 *packets = bpf_map_lookup_elem(&PACKETS, &place);

	if (packets)
		++*packets;
}

/* Whether it goes by the canary path. */
static INLINE bool steered(const struct __sk_buff *skb, struct datagram *datagram)
{
	struct client client = {};
	u32 zero = 0;
	u64 now, *until, *seen;
	int arm;

	if (!read_datagram(skb, datagram) || !takes_part(skb, datagram))
		return false;
	arm = is_canary(skb, datagram);
	if (arm <= 0) {
		if (arm == 0)
			count(CONTROL);
		return false;
	}
	now = ktime_get_coarse_ns();
	until = bpf_map_lookup_elem(&LEASE, &zero);
	if (!until || now >= *until) {
		count(HELD);
		return false;
	}
	count(CANARY);
	client.address = datagram->destination;
	client.port = datagram->destination_port;
	seen = bpf_map_lookup_elem(&LISTED, &client);
	if (seen)
		*seen = now;
	else if (bpf_map_update_elem(&LISTED, &client, &now, 0))
		count(OVER);
	return true;
}

/* At the egress of the control path's device: out by the other one, past the routing table. */
SEC("classifier/redirect")
int redirect(struct __sk_buff *skb)
{
	struct datagram datagram;
	struct redirect_neighbour to = {};

	if (!steered(skb, &datagram))
		return TCX_NEXT;
	if (datagram.is_ipv6) {
		to.family = FAMILY_V6;
		for (int word = 0; word < 4; word++)
			to.address[word] = VIA_V6[word];
	} else {
		to.family = FAMILY_V4;
		to.address[0] = VIA_V4;
	}
	return redirect_neigh(DEVICE, &to, sizeof(to), 0);
}

/* At the ingress of the device of the host behind: a mark before the one look-up of the route. */
SEC("classifier/mark")
int mark(struct __sk_buff *skb)
{
	struct datagram datagram;

	if (steered(skb, &datagram))
		skb->mark = (skb->mark & ~MASK) | MARK;
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
