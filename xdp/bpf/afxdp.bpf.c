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
#include "kfunc.h"
#include "parse.h"

/* Set before loading, read-only after. */
const volatile u16 PORT = 862;

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, XSKS_MAX);
	__type(key, u32);
	__type(value, u32);
} XSKS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct redirect_counters);
} COUNTERS SEC(".maps");

static INLINE bool ours(struct xdp_md *context)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct datagram d;

	return parse_datagram(&cursor, &d) && d.udp->destination == cpu_to_be16(PORT) && addressed_to_us(&d);
}

/* False, and the packet as it was, where the driver leaves no room. */
static INLINE bool write_record(struct xdp_md *context, const struct xsk_record *record)
{
	struct xsk_record *place;

	if (bpf_xdp_adjust_meta(context, -(int)sizeof(*record)))
		return false;
	place = (void *)(long)context->data_meta;
	if ((void *)(place + 1) > (void *)(long)context->data)
		return false; /* cannot be: the helper made the room */
	*place = *record;
	return true;
}

static INLINE enum xdp_action redirect(struct xdp_md *context, struct xsk_record *record)
{
	u32 queue = context->rx_queue_index;
	struct redirect_counters *counters;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (!counters)
		return XDP_PASS; /* cannot be: it has entry 0 */
	if (!bpf_map_lookup_elem(&XSKS, &queue)) {
		counters->count[REDIRECT_NO_SOCKET]++;
		return XDP_PASS;
	}
	record->queue = queue;
	record->magic = XSK_RECORD_MAGIC;
	counters->count[write_record(context, record) ? REDIRECT_REDIRECTED : REDIRECT_REDIRECTED_BARE]++;
	/* XDP_PASS should the socket have gone since. */
	return bpf_redirect_map(&XSKS, queue, XDP_PASS);
}

static INLINE enum xdp_action pass(void)
{
	struct redirect_counters *counters;
	u32 zero = 0;

	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (counters)
		counters->count[REDIRECT_PASSED]++;
	return XDP_PASS;
}

#define EOPNOTSUPP 95

/* For every driver and mode. */
SEC("xdp")
int afxdp(struct xdp_md *context)
{
	struct xsk_record record = {
		.xdp = bpf_ktime_get_tai_ns(),
		.nic_rc = -EOPNOTSUPP,
		.hash_rc = -EOPNOTSUPP,
	};

	return ours(context) ? redirect(context, &record) : pass();
}

/* Bound to one device, whose driver answers for the card. */
SEC("xdp")
int afxdp_bound(struct xdp_md *context)
{
	struct xsk_record record = {
		.xdp = bpf_ktime_get_tai_ns(),
	};

	if (!ours(context))
		return pass();
	record.nic_rc = bpf_xdp_metadata_rx_timestamp(context, &record.nic);
	record.hash_rc = bpf_xdp_metadata_rx_hash(context, &record.hash, &record.hash_type);
	return redirect(context, &record);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
