/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs share that watch the threads of chosen processes.
 */
#ifndef PATHLAB_CHOSEN_H
#define PATHLAB_CHOSEN_H

#include "watch.h"

enum {
	MOST_PROCESSES = 8,
};

/* By the kernel's own numbers; the first zero ends them. */
volatile const u32 PROCESSES[MOST_PROCESSES] = {};

static INLINE bool is_chosen(u32 process)
{
	/* 0 is the idle task */
	if (!process)
		return false;
#pragma unroll
	for (u32 i = 0; i < MOST_PROCESSES; i++)
		if (PROCESSES[i] == process)
			return true;
	return false;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} EVENTS_LEFT_OUT SEC(".maps");

/* An event of a thread for which a map had no room. */
static INLINE void leave_out(void)
{
	count_in(&EVENTS_LEFT_OUT, 0);
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} NOW SEC(".maps");

/*
 * Attached to nothing and run by the reader itself, for which no system call
 * tells the time by the clock of the programs without unsafe code.
 */
SEC("raw_tp/sys_enter")
int tell_time(void *context)
{
	u32 place = 0;
	u64 *now = bpf_map_lookup_elem(&NOW, &place);

	(void)context;
	if (now)
		*now = bpf_ktime_get_ns();
	return 0;
}

#endif
