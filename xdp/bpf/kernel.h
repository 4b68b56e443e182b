/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the kernel promises to a BPF program, as far as we use it: types, helper
 * numbers and map attributes from include/uapi/linux/bpf.h. Written out so that
 * clang alone builds the programs, without kernel or libbpf headers.
 */
#ifndef PATHLAB_KERNEL_H
#define PATHLAB_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed short s16;
typedef signed long long s64;
typedef u16 be16;
typedef u32 be32;
typedef _Bool bool;

#define NULL ((void *)0)
#define true 1
#define false 0

#define SEC(name) __attribute__((section(name), used))
#define INLINE inline __attribute__((always_inline))
/* For what is rare: its registers are its own, and the way past it stays short. */
#define NOINLINE __attribute__((noinline))

/* A map is described to the loader by the types of its members (BTF). */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_XSKMAP = 17,
};

enum xdp_action {
	XDP_ABORTED,
	XDP_DROP,
	XDP_PASS,
	XDP_TX,
	XDP_REDIRECT,
};

/* map_flags: what a trie must be made with. */
#define BPF_F_NO_PREALLOC 1

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*const bpf_xdp_adjust_meta)(struct xdp_md *context, int delta) = (void *)54;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *context, int delta) = (void *)65;
static u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *context) = (void *)188;	/* since 5.18, as the next */
static long (*const bpf_xdp_load_bytes)(struct xdp_md *context, u32 offset, void *to, u32 length) = (void *)189;
static u64 (*const bpf_ktime_get_tai_ns)(void) = (void *)208; /* since 6.1 */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16_to_cpu(x) __builtin_bswap16(x)
#define be32_to_cpu(x) __builtin_bswap32(x)
#define be64_to_cpu(x) __builtin_bswap64(x)
#define le64_to_cpu(x) (x)
#else
#define be16_to_cpu(x) (x)
#define be32_to_cpu(x) (x)
#define be64_to_cpu(x) (x)
#define le64_to_cpu(x) __builtin_bswap64(x)
#endif
#define cpu_to_be16(x) be16_to_cpu(x)
#define cpu_to_be32(x) be32_to_cpu(x)
#define cpu_to_be64(x) be64_to_cpu(x)

#endif
