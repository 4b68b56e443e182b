/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the watching programs share: the kernel's structures as far as they are
 * read, and whose packets are looked at.
 *
 * Structures name only the members that are used; the loader puts in where the
 * running kernel has them (CO-RE).
 */
#ifndef PATHLAB_WATCH_H
#define PATHLAB_WATCH_H

#include "../../xdp/bpf/kernel.h"

enum {
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_LRU_HASH = 9,
};

/* map update: only where there is no such key. */
#define BPF_NOEXIST 1

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

#define KERNEL __attribute__((preserve_access_index))
#define ADDRESS_OF(member) __builtin_preserve_access_index(&(member))

struct ns_common {
	unsigned int inum;
} KERNEL;

struct net {
	struct ns_common ns;
} KERNEL;

typedef struct {
	struct net *net;
} KERNEL possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} KERNEL;

struct in6_addr {
	u8 octets[16];
};

struct sock_common {
	be32 skc_rcv_saddr;
	u16 skc_num;
	unsigned short skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_rcv_saddr;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
} KERNEL;

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	int skb_iif;
	u16 queue_mapping;
} KERNEL;

struct task_struct {
	int pid; /* of the thread */
	int tgid; /* of its process */
} KERNEL;

/* Inode of the one network namespace that is watched. */
volatile const u32 NETNS = 0;

enum {
	MOST_INTERFACES = 8,
};

/* Their indices; the first zero ends them, and none at all means every one. */
volatile const u32 INTERFACES[MOST_INTERFACES] = {};

static INLINE bool is_watched(u32 interface)
{
	if (!INTERFACES[0])
		return true;
#pragma unroll
	for (u32 i = 0; i < MOST_INTERFACES; i++)
		if (interface && INTERFACES[i] == interface)
			return true;
	return false;
}

/* One more at a place of a per-CPU array: an interrupt may come in between, and run another program. */
static INLINE void count_in(void *map, u32 place)
{
	u64 *counter = bpf_map_lookup_elem(map, &place);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/*
 * A socket that a tracepoint gives may be absent. A verifier that does not know
 * that (6.12) takes the question away: so it is read as memory that may not be
 * there.
 */
static INLINE u32 netns_of(const struct sock *socket)
{
	const struct net *net = NULL;
	u32 inode = 0;

	if (!socket)
		return 0;
	bpf_probe_read_kernel(&net, sizeof(net), ADDRESS_OF(socket->__sk_common.skc_net.net));
	bpf_probe_read_kernel(&inode, sizeof(inode), ADDRESS_OF(net->ns.inum));
	return inode;
}

#endif
