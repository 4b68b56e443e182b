// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The mistake that looks right: a mark set on the socket while a datagram is
 * being sent. The kernel has copied the socket's mark into the datagram before
 * this runs, so the mark goes to the next datagram, whosever it is.
 */
#include "../../bpf/session.h"

struct bpf_sock_addr {
	u32 user_family;
	be32 user_ip4;
	be32 user_ip6[4];
	u32 user_port; /* network byte order */
};

static long (*const bpf_setsockopt)(void *context, int level, int name, void *value, int length) = (void *)49;

enum {
	SOL_SOCKET = 1,
	SO_MARK = 36,
	ALLOW = 1,
};

volatile const u32 MARK = 0;

static INLINE int mark_socket(struct bpf_sock_addr *context, const u32 *key, u32 length)
{
	u32 zero = 0, mark = 0;
	u32 *share = bpf_map_lookup_elem(&SHARE, &zero);

	if (share && (u32)((u64)jhash(key, length, SEED) * BUCKETS >> 32) < *share)
		mark = MARK;
	bpf_setsockopt(context, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int late_mark4(struct bpf_sock_addr *context)
{
	u32 key[KEY_WORDS] = { context->user_ip4, context->user_port };

	return mark_socket(context, key, 8);
}

SEC("cgroup/sendmsg6")
int late_mark6(struct bpf_sock_addr *context)
{
	u32 key[KEY_WORDS] = { context->user_ip6[0], context->user_ip6[1], context->user_ip6[2],
			       context->user_ip6[3], context->user_port };

	return mark_socket(context, key, 20);
}

/* The same a step later: the packet is marked rightly, and its route has been chosen. */
SEC("cgroup_skb/egress")
int routed_mark(struct __sk_buff *skb)
{
	struct datagram datagram;

	if (read_datagram(skb, &datagram) && takes_part(skb, &datagram) && is_canary(skb, &datagram) > 0)
		skb->mark = MARK;
	return ALLOW;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
