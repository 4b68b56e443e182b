// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Notes when each datagram came out of the wire at the reflector's end. On a veth
 * that is on the sender's CPU, in its system call: what the sender's own clock
 * readings say is not needed.
 */
#include "ends.h"

#define ARRIVALS_MAX (1 << 16)

/* Set before loading. */
const volatile u16 PORT = 862;

struct arrival {
	u64 at; /* CLOCK_MONOTONIC */
	be32 head;
	u32 length; /* UDP payload */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ARRIVALS_MAX);
	__type(key, u32);
	__type(value, struct arrival);
} ARRIVALS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} COUNT SEC(".maps");

SEC("xdp")
int arrivals(struct xdp_md *context)
{
	u64 now = bpf_ktime_get_ns(), *count;
	struct wire_datagram *d = wire_datagram(context);
	struct arrival *arrival;
	u32 zero = 0, place;

	if (!d || d->destination != cpu_to_be16(PORT))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&COUNT, &zero);
	if (!count)
		return XDP_PASS; /* cannot be: it has entry 0 */
	place = __sync_fetch_and_add(count, 1);
	arrival = bpf_map_lookup_elem(&ARRIVALS, &place);
	if (arrival) {
		arrival->at = now;
		arrival->head = d->head;
		arrival->length = be16_to_cpu(d->length) - 8;
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
