// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * When the threads of a game server look at their UDP sockets: a server that
 * works in ticks does so once a tick, in a burst of receive calls, whether
 * anything came or not. From when to when it did not look is what is told.
 *
 *   calls   |||      |||      ||                       |||      |||
 *   ticks   ^        ^        ^                        ^        ^
 *                               `------ a stall ------'
 *
 * What is kept of a thread is changed in its own calls alone.
 */
#include "chosen.h"
#include "histogram.h"

/* Nanoseconds. A longer time without a call parts two ticks. */
volatile const u32 PAUSE = 0;
/* A longer one is a stall. */
volatile const u32 STALL = 0;
/* The one port that is looked at; 0: each. */
volatile const u32 PORT = 0;
/* Numbers of the system calls where the kernel has no tracepoint behind them. */
volatile const u32 RECVFROM = 0;
volatile const u32 RECVMSG = 0;
volatile const u32 RECVMMSG = 0;

enum {
	MOST_SERVERS = 256,
	LAST_STALLS = 64,
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_UDP = 17,
	MSG_ERRQUEUE = 0x2000,
};

struct server {
	u32 thread;
	u16 port; /* 0: not told */
	u16 spare;
};

struct stall {
	u64 began;
	u64 lasted;
};

struct cadence {
	u32 process;
	u32 stalled; /* how often */
	u64 called_at;
	u64 ticked_at;
	u64 calls;
	struct histogram ticks; /* from one's first call to that of the next */
	struct histogram stalls;
	struct stall last[LAST_STALLS]; /* the n-th is at n modulo their number */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_SERVERS);
	__type(key, struct server);
	__type(value, struct cadence);
} SERVERS SEC(".maps");

/* Too large for a program's stack. */
static volatile const struct cadence FRESH = {};

static INLINE int received(u64 current, u16 port)
{
	struct server key = { current, port, 0 };
	struct cadence *cadence = bpf_map_lookup_elem(&SERVERS, &key);
	struct stall *stall;
	u64 now, gap;

	if (!cadence) {
		bpf_map_update_elem(&SERVERS, &key, (const void *)&FRESH, BPF_NOEXIST);
		cadence = bpf_map_lookup_elem(&SERVERS, &key);
		if (!cadence) {
			leave_out();
			return 0;
		}
		cadence->process = current >> 32;
	}
	now = bpf_ktime_get_ns();
	cadence->calls++;
	gap = now - cadence->called_at;
	if (!cadence->called_at) {
		cadence->ticked_at = now;
	} else if (gap > PAUSE) {
		histogram_add(&cadence->ticks, now - cadence->ticked_at);
		cadence->ticked_at = now;
		if (gap > STALL) {
			stall = &cadence->last[cadence->stalled++ % LAST_STALLS];
			stall->began = cadence->called_at;
			stall->lasted = gap;
			histogram_add(&cadence->stalls, gap);
		}
	}
	cadence->called_at = now;
	return 0;
}

/* Behind every receive call on a socket, by whichever way it came (since 6.3). */
SEC("tp_btf/sock_recv_length")
int received_from(u64 *context)
{
	struct sock *socket = (void *)context[0];
	u32 flags = context[2];
	u64 current = bpf_get_current_pid_tgid();
	u16 family, protocol, port;

	/* The error queue has what became of own packets. */
	if (!is_chosen(current >> 32) || !socket || flags & MSG_ERRQUEUE)
		return 0;
	bpf_probe_read_kernel(&family, sizeof(family), ADDRESS_OF(socket->__sk_common.skc_family));
	bpf_probe_read_kernel(&protocol, sizeof(protocol), ADDRESS_OF(socket->sk_protocol));
	bpf_probe_read_kernel(&port, sizeof(port), ADDRESS_OF(socket->__sk_common.skc_num));
	if ((family != AF_INET && family != AF_INET6) || protocol != IPPROTO_UDP || (PORT && port != PORT))
		return 0;
	return received(current, port);
}

/* In front of every system call, on kernels that have no other place. */
SEC("tp_btf/sys_enter")
int receives(u64 *context)
{
	u64 current = bpf_get_current_pid_tgid();
	u32 call = context[1];

	if (!is_chosen(current >> 32) || (call != RECVFROM && call != RECVMSG && call != RECVMMSG))
		return 0;
	return received(current, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
