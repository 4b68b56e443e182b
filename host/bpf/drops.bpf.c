// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Counts the packets that the kernel gives up, by its own reason, and those
 * among them that a UDP socket had no room for, by socket.
 */
#include "watch.h"

/*
 * Since 6.11 the tracepoint tells whose receive queue it was. Before, a packet
 * that did not fit may have lost its device already (net/ipv4/udp.c keeps a
 * length in that place): where it came from is set aside, and such a packet is
 * counted when the socket refuses it, which the kernel tells next. Sockets of
 * IPv6 tell since 6.6.
 */
volatile const u32 HAS_RX_SK = 0;
/* The kernel's numbers of these two reasons. */
volatile const u32 SOCKET_RCVBUFF = 0;
volatile const u32 PROTO_MEM = 0;

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	ENOMEM = 12,
};

struct dropped {
	u32 reason;
	u32 interface; /* 0: on none */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct dropped);
	__type(value, u64);
} DROPS SEC(".maps");

struct receiver {
	u8 address[16]; /* an IPv4 one as its IPv4-mapped IPv6 address */
	u16 port;
	u16 spare;
};

struct refused {
	u64 full; /* over the socket's own buffer */
	u64 memory; /* over what all UDP sockets may have */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct receiver);
	__type(value, struct refused);
} RECEIVERS SEC(".maps");

enum count {
	/* Packets that belong to no device and no socket any more: of any namespace. */
	UNPLACED,
	/* Drops for which a map had no room. */
	NO_ROOM,
	COUNTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} DROPS_COUNTED SEC(".maps");

/* A packet that has lost its device: its skb_iif, above this bit. */
#define SET_ASIDE (1ull << 32)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} ASIDE SEC(".maps");

/* Puts `packet` aside, or none by 0, and takes out what was there. */
static INLINE u64 set_aside(u64 packet)
{
	u32 first = 0;
	u64 *place = bpf_map_lookup_elem(&ASIDE, &first), before;

	if (!place)
		return 0;
	before = *place;
	*place = packet;
	return before;
}

static INLINE void count_drop(u32 reason, u32 interface)
{
	struct dropped key = { reason, interface };
	u64 *counter, one = 1;

	counter = bpf_map_lookup_elem(&DROPS, &key);
	if (counter)
		++*counter;
	else if (bpf_map_update_elem(&DROPS, &key, &one, 0))
		count_in(&DROPS_COUNTED, NO_ROOM);
}

SEC("tp_btf/kfree_skb")
int dropped(u64 *context)
{
	struct sk_buff *skb = (void *)context[0];
	u32 reason = context[2], interface = 0, netns = 0;
	struct sock *receiver = NULL;
	struct net_device *device;
	u64 lost;

	if (HAS_RX_SK)
		receiver = (void *)context[3];
	if (receiver) {
		netns = netns_of(receiver);
		interface = skb->skb_iif;
	} else {
		device = skb->dev;
		netns = device->nd_net.net->ns.inum;
		if (netns)
			interface = device->ifindex;
		else
			netns = netns_of(skb->sk);
	}
	if (!HAS_RX_SK && (reason == SOCKET_RCVBUFF || reason == PROTO_MEM)) {
		lost = netns ? 0 : SET_ASIDE | (u32)skb->skb_iif;
		/* Nobody refused the one before. */
		if (set_aside(lost))
			count_in(&DROPS_COUNTED, UNPLACED);
		if (lost)
			return 0;
	}
	if (!netns) {
		count_in(&DROPS_COUNTED, UNPLACED);
		return 0;
	}
	if (netns == NETNS && is_watched(interface))
		count_drop(reason, interface);
	return 0;
}

SEC("tp_btf/udp_fail_queue_rcv_skb")
int refused(u64 *context)
{
	bool full = (int)context[0] == -ENOMEM;
	struct sock *socket = (void *)context[1];
	struct receiver key = {};
	struct refused first = {}, *refused;
	u64 lost = HAS_RX_SK ? 0 : set_aside(0);

	if (netns_of(socket) != NETNS)
		return 0;
	if (lost && is_watched((u32)lost))
		count_drop(full ? SOCKET_RCVBUFF : PROTO_MEM, (u32)lost);
	key.port = socket->__sk_common.skc_num;
	if (socket->__sk_common.skc_family == AF_INET6) {
		bpf_probe_read_kernel(key.address, 16, ADDRESS_OF(socket->__sk_common.skc_v6_rcv_saddr));
	} else {
		key.address[10] = key.address[11] = 0xff;
		*(be32 *)&key.address[12] = socket->__sk_common.skc_rcv_saddr;
	}
	refused = bpf_map_lookup_elem(&RECEIVERS, &key);
	if (!refused) {
		if (bpf_map_update_elem(&RECEIVERS, &key, &first, BPF_NOEXIST))
			count_in(&DROPS_COUNTED, NO_ROOM);
		refused = bpf_map_lookup_elem(&RECEIVERS, &key);
	}
	if (!refused)
		return 0;
	if (full)
		refused->full++;
	else
		refused->memory++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
