/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * A packet for the AF_XDP socket of its queue, with a record before it of when it
 * came.
 */
#ifndef PATHLAB_REDIRECT_H
#define PATHLAB_REDIRECT_H

#include "abi.h"
#include "kfunc.h"
#include "quirks.h"

#define EOPNOTSUPP 95

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, XSKS_MAX);
	__type(key, u32);
	__type(value, u32);
} XSKS SEC(".maps");

static INLINE bool has_socket(u32 queue)
{
	return bpf_map_lookup_elem(&XSKS, &queue) != NULL;
}

/*
 * What the driver knows of the packet; `bound` is whether it can be asked. `tail`:
 * the card's stamp is behind the frame, and comes off here.
 */
static INLINE void ask_the_card(struct xdp_md *context, struct xsk_record *record, bool bound, bool tail)
{
	if (tail) {
		record->nic = take_tail(context);
		record->nic_rc = record->nic ? XSK_NIC_TAIL : -EOPNOTSUPP;
	} else if (bound) {
		record->nic_rc = bpf_xdp_metadata_rx_timestamp(context, &record->nic);
	} else {
		record->nic_rc = -EOPNOTSUPP;
	}
}

/* False, and the packet as it was, where the driver leaves no room. */
static INLINE bool write_record(struct xdp_md *context, struct xsk_record *record)
{
	struct xsk_record *place;

	record->cpu = bpf_get_smp_processor_id();
	record->queue = context->rx_queue_index;
	record->magic = XSK_RECORD_MAGIC;
	if (bpf_xdp_adjust_meta(context, -(int)sizeof(*record)))
		return false;
	place = (void *)(long)context->data_meta;
	if ((void *)(place + 1) > (void *)(long)context->data)
		return false; /* cannot be: the helper made the room */
	*place = *record;
	return true;
}

/*
 * XDP_PASS should the socket have gone since; but without its tail the frame is no
 * more what the driver thinks it is.
 */
static INLINE enum xdp_action to_socket(u32 queue, bool tail)
{
	return bpf_redirect_map(&XSKS, queue, tail ? XDP_DROP : XDP_PASS);
}

#endif
