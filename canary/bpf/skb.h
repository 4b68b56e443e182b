/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the kernel promises to a traffic control program, beside kernel.h: from
 * include/uapi/linux/bpf.h.
 */
#ifndef PATHLAB_SKB_H
#define PATHLAB_SKB_H

#include "../../xdp/bpf/kernel.h"

enum {
	BPF_MAP_TYPE_LRU_HASH = 9,
};

/* On to the next program, and then to the device. */
#define TCX_NEXT (-1)

#define BPF_HDR_START_NET 1

struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol; /* network byte order */
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex; /* 0: made on this host */
	u32 ifindex;
};

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_skb_load_bytes_relative)(const struct __sk_buff *skb, u32 offset, void *to, u32 length,
						 u32 start) = (void *)68;
/* Of the socket that sends; 0 where there is none. */
static u64 (*const bpf_skb_cgroup_id)(const struct __sk_buff *skb) = (void *)79;

#endif
