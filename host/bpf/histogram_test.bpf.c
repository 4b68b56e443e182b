// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* Adds what it is given, so that a test can look whether C and Rust agree. */
#include "histogram.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct histogram);
} HISTOGRAM SEC(".maps");

SEC("raw_tp/sys_enter")
int add(u64 *context)
{
	u32 place = 0;
	struct histogram *histogram = bpf_map_lookup_elem(&HISTOGRAM, &place);

	if (histogram)
		histogram_add(histogram, context[0]);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
