// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * How far each receive queue uses the budget of its polls: one that uses all of
 * it had more waiting than it was let take, and the ring fills meanwhile.
 *
 * The backlog of a processor, through which loopback and most veths receive,
 * belongs to no device and so to no namespace: it is not counted here, but by
 * the kernel in /proc/net/softnet_stat.
 */
#include "watch.h"
#include "histogram.h"

struct napi_struct {
	struct net_device *dev;
	unsigned int napi_id;
} KERNEL;

struct poller {
	u32 interface;
	u32 id; /* 0: not registered */
};

enum {
	/* Packets of a poll: 0, 1, 2 to 3, 4 to 7, ..., 64 to 127, more. */
	WORKS = 9,
};

struct polls {
	u64 polls;
	u64 packets;
	u64 exhausted; /* polls that took the whole budget */
	u64 works[WORKS];
};

/* All processors share: one at a time polls a queue. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct poller);
	__type(value, struct polls);
} POLLS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} POLLS_UNCOUNTED SEC(".maps");

SEC("tp_btf/napi_poll")
int polled(u64 *context)
{
	struct napi_struct *napi = (void *)context[0];
	u32 work = context[1], budget = context[2];
	struct net_device *device = napi->dev;
	struct polls first = {}, *polls;
	struct poller poller;
	u64 bin;

	if (device->nd_net.net->ns.inum != NETNS || !is_watched(device->ifindex))
		return 0;
	poller.interface = device->ifindex;
	poller.id = napi->napi_id;
	polls = bpf_map_lookup_elem(&POLLS, &poller);
	if (!polls) {
		bpf_map_update_elem(&POLLS, &poller, &first, BPF_NOEXIST);
		polls = bpf_map_lookup_elem(&POLLS, &poller);
	}
	if (!polls) {
		count_in(&POLLS_UNCOUNTED, 0);
		return 0;
	}
	/* the next poll may be told on another processor while this one is told */
	__sync_fetch_and_add(&polls->polls, 1);
	__sync_fetch_and_add(&polls->packets, work);
	/* netpoll asks for nothing: a budget of 0 */
	if (budget && work >= budget)
		__sync_fetch_and_add(&polls->exhausted, 1);
	bin = work ? highest_bit(work) + 1 : 0;
	/* else the compiler, who knows how many bits there are, asks another question than the verifier */
	asm volatile("" : "+r"(bin));
	if (bin > WORKS - 1)
		bin = WORKS - 1;
	__sync_fetch_and_add(&polls->works[bin], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
