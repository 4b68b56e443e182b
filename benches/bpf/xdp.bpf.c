// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What one reply costs, beside less than a reply. A test run repeats a program on
 * the packet as the last run left it, so every program here first writes the
 * request back, by the widths in which it is read, and counts the XDP_TX.
 *
 *   restore   writes the request back and nothing else: the floor of all others
 *   swap      turns both ends round
 *   baseline  swap, one reading of the TAI clock into 8 octets, their checksum
 *   ours      the whole Session-Reflector, as it is attached
 */
#include "../../xdp/bpf/reflect.h"

/* Set before loading: the request. */
const volatile u8 REQUEST[112] = { 0 };
const volatile u8 IPV6 = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} REPLIES SEC(".maps");

/* False for a packet that is shorter: then nothing is measured. */
static INLINE bool restore_request(struct xdp_md *context)
{
	u8 *packet = (void *)(long)context->data;

	if (packet + 86 > (u8 *)(long)context->data_end)
		return false;
	*(u32 *)packet = *(const volatile u32 *)REQUEST;
	*(u16 *)(packet + 4) = *(const volatile u16 *)(REQUEST + 4);
	*(u32 *)(packet + 6) = *(const volatile u32 *)(REQUEST + 6);
	*(u16 *)(packet + 10) = *(const volatile u16 *)(REQUEST + 10);
	*(u16 *)(packet + 12) = *(const volatile u16 *)(REQUEST + 12);
	if (!IPV6) {
#pragma unroll
		for (u32 at = 14; at + 4 <= 86; at += 4)
			*(u32 *)(packet + at) = *(const volatile u32 *)(REQUEST + at);
		return true;
	}
	if (packet + 106 > (u8 *)(long)context->data_end)
		return false;
	*(u32 *)(packet + 14) = *(const volatile u32 *)(REQUEST + 14);
	*(u32 *)(packet + 18) = *(const volatile u32 *)(REQUEST + 18);
#pragma unroll
	for (u32 at = 22; at < 54; at += 8)
		*(u64 *)(packet + at) = *(const volatile u64 *)(REQUEST + at);
#pragma unroll
	for (u32 at = 54; at + 4 <= 106; at += 4)
		*(u32 *)(packet + at) = *(const volatile u32 *)(REQUEST + at);
	return true;
}

static INLINE int counted(enum xdp_action action)
{
	u64 *replies;
	u32 zero = 0;

	replies = bpf_map_lookup_elem(&REPLIES, &zero);
	if (replies && action == XDP_TX)
		(*replies)++;
	return action;
}

SEC("xdp")
int restore(struct xdp_md *context)
{
	return counted(restore_request(context) ? XDP_TX : XDP_ABORTED);
}

/* What any reflector must do: no parsing beyond the bounds. */
static INLINE struct udp *swapped(struct xdp_md *context)
{
	struct cursor cursor = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct datagram d = { 0 };

	d.ethernet = take(&cursor, sizeof(*d.ethernet));
	if (!d.ethernet)
		return NULL;
	if (IPV6) {
		d.v6 = take(&cursor, sizeof(*d.v6));
		if (!d.v6)
			return NULL;
	} else {
		d.v4 = take(&cursor, sizeof(*d.v4));
		if (!d.v4)
			return NULL;
	}
	d.udp = take(&cursor, sizeof(*d.udp));
	if (!d.udp)
		return NULL;
	turn_round(&d);
	return d.udp;
}

SEC("xdp")
int swap(struct xdp_md *context)
{
	if (!restore_request(context))
		return counted(XDP_ABORTED);
	return counted(swapped(context) ? XDP_TX : XDP_ABORTED);
}

SEC("xdp")
int baseline(struct xdp_md *context)
{
	struct udp *udp;
	u32 *stamp;
	u64 tai;

	if (!restore_request(context))
		return counted(XDP_ABORTED);
	udp = swapped(context);
	if (!udp)
		return counted(XDP_ABORTED);
	stamp = (void *)(udp + 1);
	if ((void *)(stamp + 2) > (void *)(long)context->data_end)
		return counted(XDP_ABORTED);
	tai = bpf_ktime_get_tai_ns();
	udp->check = csum_finish_udp((u64)(u16)~udp->check + (u32)~stamp[0] + (u32)~stamp[1] + (u32)tai + (tai >> 32));
	stamp[0] = tai;
	stamp[1] = tai >> 32;
	return counted(XDP_TX);
}

SEC("xdp")
int ours(struct xdp_md *context)
{
	if (!restore_request(context))
		return counted(XDP_ABORTED);
	return counted(reflect(context, false));
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
