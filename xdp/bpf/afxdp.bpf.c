// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Puts the datagrams to our port and addresses into the AF_XDP socket of the
 * queue on which they came, with a record before the packet of when that was.
 *
 *   not ours -> XDP_PASS, untouched    ours, no socket here -> XDP_PASS, counted
 *                                      ours                 -> XDP_REDIRECT
 */
#include "abi.h"
#include "addresses.h"
#include "parse.h"
#include "quirks.h"
#include "redirect.h"

/* Set before loading, read-only after. */
const volatile be16 PORT = cpu_to_be16(862);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct redirect_counters);
} COUNTERS SEC(".maps");

static INLINE bool ours(struct xdp_md *context, bool *tail)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct datagram d;

	if (!parse_datagram(&cursor, &d) || d.udp->destination != PORT || must_stay_with_the_stack(&d))
		return false;
	*tail = has_tail(context, &d);
	return addressed_to_us(&d);
}

static INLINE enum xdp_action redirect(struct xdp_md *context, bool bound)
{
	struct xsk_record record = { .xdp = bpf_ktime_get_tai_ns() };
	u32 queue = context->rx_queue_index;
	struct redirect_counters *counters;
	bool tail = false;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (!counters)
		return XDP_PASS; /* cannot be: it has entry 0 */
	if (!ours(context, &tail)) {
		counters->count[REDIRECT_PASSED]++;
		return XDP_PASS;
	}
	if (!has_socket(queue)) {
		counters->count[REDIRECT_NO_SOCKET]++;
		return XDP_PASS;
	}
	ask_the_card(context, &record, bound, tail);
	counters->count[write_record(context, &record) ? REDIRECT_REDIRECTED : REDIRECT_REDIRECTED_BARE]++;
	return to_socket(queue, tail);
}

/* For every driver and mode. */
SEC("xdp")
int afxdp(struct xdp_md *context)
{
	return redirect(context, false);
}

/* Bound to one device, whose driver answers for the card. */
SEC("xdp")
int afxdp_bound(struct xdp_md *context)
{
	return redirect(context, true);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
