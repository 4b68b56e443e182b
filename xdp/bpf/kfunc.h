/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Kernel functions that hand over what a card knows of a packet (Linux 6.3,
 * net/core/xdp.c). They are called as helpers of numbers that no kernel has;
 * xdp/src/device_bound.rs puts the kernel's own identifiers in their place, and
 * a program that calls them can be loaded by it alone.
 */
#ifndef PATHLAB_KFUNC_H
#define PATHLAB_KFUNC_H

#include "kernel.h"

static int (*const bpf_xdp_metadata_rx_timestamp)(const struct xdp_md *context, u64 *timestamp) = (void *)0x7ff00001;

#endif
