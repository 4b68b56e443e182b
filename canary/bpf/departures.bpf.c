// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Counts where the packets of each arm really leave: at the end of everything
 * that routes, marks and filters, on the device itself.
 */
#include "session.h"

/* The devices of the canary path, by family; 0: that family is not steered. */
volatile const u32 CANARY_V4 = 0;
volatile const u32 CANARY_V6 = 0;

/* Arm, twice as much, and one more where the canary path's device was taken. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u64);
} DEPARTURES SEC(".maps");

SEC("classifier")
int departures(struct __sk_buff *skb)
{
	struct datagram datagram;
	u32 canary_device, place;
	u64 *count;
	int arm;

	if (!read_datagram(skb, &datagram))
		return TCX_NEXT;
	canary_device = datagram.is_ipv6 ? CANARY_V6 : CANARY_V4;
	if (!canary_device || !takes_part(skb, &datagram))
		return TCX_NEXT;
	arm = is_canary(skb, &datagram);
	if (arm < 0)
		return TCX_NEXT;
	place = arm * 2 + (skb->ifindex == canary_device);
	count = bpf_map_lookup_elem(&DEPARTURES, &place);
	if (count)
		++*count;
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
