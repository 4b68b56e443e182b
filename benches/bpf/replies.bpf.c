// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Counts the replies at the client's end, each sequence number once, and takes
 * them off the wire: the same few nanoseconds whoever replied.
 */
#include "ends.h"

#define PORT 862
#define SEQUENCES (1 << 22)

enum { REPLIES, DUPLICATES, STRAYS, COUNTERS };

/* Of the trial that runs: its first sequence number, and how many. */
struct trial {
	u32 first;
	u32 count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct trial);
} TRIAL SEC(".maps");

struct counts {
	u64 count[COUNTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counts);
} COUNTS SEC(".maps");

/* The last sequence number seen at each place, plus one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEQUENCES);
	__type(key, u32);
	__type(value, u32);
} SEEN SEC(".maps");

SEC("xdp")
int replies(struct xdp_md *context)
{
	struct wire_datagram *d = wire_datagram(context);
	u32 zero = 0, place, sequence, *seen;
	struct counts *counts;
	struct trial *trial;

	if (!d || d->source != cpu_to_be16(PORT))
		return XDP_PASS;
	sequence = be32_to_cpu(d->head);
	place = sequence & (SEQUENCES - 1);
	trial = bpf_map_lookup_elem(&TRIAL, &zero);
	counts = bpf_map_lookup_elem(&COUNTS, &zero);
	seen = bpf_map_lookup_elem(&SEEN, &place);
	if (!trial || !counts || !seen)
		return XDP_PASS; /* cannot be: arrays have every entry */
	if (sequence - trial->first >= trial->count) {
		counts->count[STRAYS]++;
	} else if (*seen == sequence + 1) {
		counts->count[DUPLICATES]++;
	} else {
		*seen = sequence + 1;
		counts->count[REPLIES]++;
	}
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
