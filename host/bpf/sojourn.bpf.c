// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * How long packets wait for their device: from where the stack hands a packet
 * over (net_dev_queue, behind the choice of the transmit queue) to where the
 * driver is called (net_dev_start_xmit), through qdiscs of any depth or none.
 *
 * A packet is known by the address of its sk_buff, which one packet has at a
 * time. Who is not seen to be handed over is not timed but counted
 * (`unmatched`):
 *  - a segment that the kernel cuts from a larger packet (GSO) behind the qdisc
 *    has an address of its own. Where the device cuts, or nobody, the packet
 *    that waited is the one that starts.
 *  - a packet that the driver gave back (requeues) starts once more: its first
 *    start is timed.
 *  - what goes round the qdisc (PACKET_QDISC_BYPASS) is not handed over; and
 *    what waited when the watch began, or found no room here.
 * A clone (TCP keeps the original) has an address of its own from before the
 * handing over to the end, and is timed like any other. One that passes several
 * devices, of a bond, a VLAN or a tunnel, is handed over and started at each.
 *
 * An address that is free again may be given to a segment, which then would
 * have the time of another. So a packet that is freed is forgotten, by
 * kfree_skb where it was dropped and consume_skb where it was cut. The device
 * that is asked for there is still its own; only fq and netem lay a tree over
 * that member, and what they hold when they are taken away stays known here
 * until it is stale.
 */
#include "watch.h"
#include "histogram.h"

struct waiting {
	u64 packet; /* its address; 0: free */
	u64 since; /* CLOCK_MONOTONIC; 0: not written yet */
};

enum {
	WAYS = 4,
	SET_BITS = 14,
	SETS = 1 << SET_BITS,
};

/* Nothing waits for a minute: its end was missed. */
#define STALE 60000000000ULL

struct set {
	struct waiting ways[WAYS];
};

/*
 * 65,536 places, four for each hash of an address: with 10,000 packets waiting,
 * three or four in a thousand find theirs taken.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETS);
	__type(key, u32);
	__type(value, struct set);
} WAITING SEC(".maps");

struct queue {
	u32 interface;
	u32 number;
};

struct sojourn {
	struct histogram times;
	u64 unmatched;
};

/*
 * All processors share: a queue of a card is locked by the one that starts a
 * packet on it, and 4 KiB for each queue and processor would be hundreds of
 * megabytes on a large host. Memory is taken beforehand, as it is not always to
 * be had where a packet starts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct queue);
	__type(value, struct sojourn);
} SOJOURNS SEC(".maps");

/* What a queue begins with: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct sojourn);
} NO_SOJOURN SEC(".maps");

enum count {
	/* Packets that were not noted for want of a place. */
	UNTRACKED,
	/* Starts on a queue for which there was no room. */
	UNCOUNTED,
	COUNTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} SOJOURNS_COUNTED SEC(".maps");

static INLINE bool is_ours(const struct net_device *device)
{
	return device->nd_net.net->ns.inum == NETNS && is_watched(device->ifindex);
}

static INLINE struct set *set_of(u64 packet)
{
	/* of the lower half: the verifier lets no pointer be multiplied */
	u32 place = (u32)packet * 0x9e3779b1U >> (32 - SET_BITS);

	return bpf_map_lookup_elem(&WAITING, &place);
}

/*
 * A packet belongs to one processor at a time, so nobody else writes a place
 * that holds it, but a thief who found it stale. Free places are raced for: the
 * address is taken and given up by compare-and-swap, and a place has no time
 * while it changes hands.
 */
static INLINE void note(u64 packet)
{
	struct set *set = set_of(packet);
	u64 now = bpf_ktime_get_ns();
	struct waiting *way;
	u64 held, since;

	if (!set)
		return;
#pragma unroll
	for (u32 i = 0; i < WAYS; i++) {
		way = &set->ways[i];
		if (way->packet == packet) {
			/* the one before has gone unseen */
			way->since = now;
			return;
		}
	}
#pragma unroll
	for (u32 i = 0; i < WAYS; i++) {
		way = &set->ways[i];
		held = way->packet;
		since = way->since;
		if (held && (!since || now - since < STALE))
			continue;
		if (__sync_val_compare_and_swap(&way->packet, held, packet) == held) {
			way->since = now;
			return;
		}
	}
	count_in(&SOJOURNS_COUNTED, UNTRACKED);
}

/* When it was handed over; 0: not seen. */
static INLINE u64 forget(u64 packet)
{
	struct set *set = set_of(packet);
	struct waiting *way;
	u64 since;

	if (!set)
		return 0;
#pragma unroll
	for (u32 i = 0; i < WAYS; i++) {
		way = &set->ways[i];
		if (way->packet == packet) {
			since = way->since;
			way->since = 0;
			return __sync_val_compare_and_swap(&way->packet, packet, 0) == packet ? since : 0;
		}
	}
	return 0;
}

SEC("tp_btf/net_dev_queue")
int handed_over(u64 *context)
{
	struct sk_buff *skb = (void *)context[0];

	if (is_ours(skb->dev))
		note((u64)skb);
	return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int started(u64 *context)
{
	struct sk_buff *skb = (void *)context[0];
	struct net_device *device = (void *)context[1];
	struct queue queue = {};
	struct sojourn *sojourn, *none;
	u64 since, now;
	u32 zero = 0;

	if (!is_ours(device))
		return 0;
	since = forget((u64)skb);
	queue.interface = device->ifindex;
	queue.number = skb->queue_mapping;
	sojourn = bpf_map_lookup_elem(&SOJOURNS, &queue);
	if (!sojourn) {
		none = bpf_map_lookup_elem(&NO_SOJOURN, &zero);
		if (none)
			bpf_map_update_elem(&SOJOURNS, &queue, none, BPF_NOEXIST);
		sojourn = bpf_map_lookup_elem(&SOJOURNS, &queue);
	}
	if (!sojourn) {
		count_in(&SOJOURNS_COUNTED, UNCOUNTED);
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (since)
		histogram_add_shared(&sojourn->times, now > since ? now - since : 0);
	else
		__sync_fetch_and_add(&sojourn->unmatched, 1);
	return 0;
}

SEC("tp_btf/kfree_skb")
int given_up(u64 *context)
{
	struct sk_buff *skb = (void *)context[0];

	if (is_ours(skb->dev))
		forget((u64)skb);
	return 0;
}

SEC("tp_btf/consume_skb")
int consumed(u64 *context)
{
	struct sk_buff *skb = (void *)context[0];

	if (is_ours(skb->dev))
		forget((u64)skb);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
