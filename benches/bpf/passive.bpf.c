// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The programs that watch sessions, run on one packet that is both: client and
 * server have the same address and port, so that what is sent is received too.
 * Every run is given a number of its own, as every packet of a game is; what that
 * alone takes is the floor.
 */
#include "../../canary/bpf/passive.bpf.c"

static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, u32 offset, const void *from, u32 length,
					 u64 flags) = (void *)9;

/* Of the payload, from the Ethernet header. */
volatile const u32 PAYLOAD = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} NUMBER SEC(".maps");

static INLINE void number(struct __sk_buff *skb)
{
	u32 zero = 0, *number = bpf_map_lookup_elem(&NUMBER, &zero), both[2];

	if (!number)
		return;
	both[0] = both[1] = __builtin_bswap32(++*number);
	bpf_skb_store_bytes(skb, PAYLOAD, both, sizeof(both), 0);
}

SEC("classifier/nothing")
int nothing(struct __sk_buff *skb)
{
	number(skb);
	return TCX_NEXT;
}

SEC("classifier/sent")
int only_sent(struct __sk_buff *skb)
{
	number(skb);
	leaves(skb);
	return TCX_NEXT;
}

SEC("classifier/echoed")
int sent_and_echoed(struct __sk_buff *skb)
{
	number(skb);
	leaves(skb);
	arrives(skb);
	return TCX_NEXT;
}
