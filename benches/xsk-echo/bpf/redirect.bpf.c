// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * As little as puts test packets into the socket of their queue: IPv4 without
 * options, UDP to port 862. All else passes.
 */
#include "../../../xdp/bpf/kernel.h"

#define PORT 862

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u32);
} XSKS SEC(".maps");

SEC("xdp")
int redirect(struct xdp_md *context)
{
	u8 *packet = (void *)(long)context->data;

	if (packet + 42 > (u8 *)(long)context->data_end)
		return XDP_PASS;
	if (*(be16 *)(packet + 12) != cpu_to_be16(0x0800) || packet[14] != 0x45 || packet[23] != 17)
		return XDP_PASS;
	if (*(be16 *)(packet + 36) != cpu_to_be16(PORT))
		return XDP_PASS;
	return bpf_redirect_map(&XSKS, context->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
