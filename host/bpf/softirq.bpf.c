// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * How long softirqs wait, from the first raise that is not yet served to the
 * entry that serves it, and how long each runs, by vector and processor.
 *
 * A softirq is raised, entered and left on one processor, and raised with
 * interrupts off: a raise may come between two instructions of the other two
 * programs, and they of none.
 */
#include "histogram.h"
#include "watch.h"

enum {
	VECTORS = 10,
};

struct vector {
	u64 exits; /* before the entries, so that a reader never sees more of them */
	u64 entries;
	u64 raises;
	u64 raised_at; /* 0: served */
	u64 entered_at; /* 0: not running */
	struct histogram wait;
	struct histogram run;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VECTORS);
	__type(key, u32);
	__type(value, struct vector);
} SOFTIRQS SEC(".maps");

SEC("tp_btf/softirq_raise")
int raised(u64 *context)
{
	u32 number = context[0];
	struct vector *vector = bpf_map_lookup_elem(&SOFTIRQS, &number);

	if (!vector)
		return 0;
	vector->raises++;
	if (!vector->raised_at)
		vector->raised_at = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_entry")
int entered(u64 *context)
{
	u32 number = context[0];
	struct vector *vector = bpf_map_lookup_elem(&SOFTIRQS, &number);
	u64 now, raised_at;

	if (!vector)
		return 0;
	now = bpf_ktime_get_ns();
	/* in one step: an interrupt may raise it again */
	raised_at = __sync_lock_test_and_set(&vector->raised_at, 0);
	vector->entries++;
	vector->entered_at = now;
	/* An interrupt between the two lines above may have raised it later than `now`. */
	if (raised_at)
		histogram_add(&vector->wait, now > raised_at ? now - raised_at : 0);
	return 0;
}

SEC("tp_btf/softirq_exit")
int left(u64 *context)
{
	u32 number = context[0];
	struct vector *vector = bpf_map_lookup_elem(&SOFTIRQS, &number);

	/* absent where it was entered before the programs were there */
	if (!vector || !vector->entered_at)
		return 0;
	histogram_add(&vector->run, bpf_ktime_get_ns() - vector->entered_at);
	vector->entered_at = 0;
	vector->exits++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
