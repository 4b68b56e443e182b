// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * How long the threads of chosen processes wait for a processor: from the
 * wake-up, or from being taken off it while they could still run, to the switch
 * to them.
 *
 * A thread's wake-ups and switches happen under its run queue's lock, one after
 * the other, so that what is kept of it needs no other.
 */
#include "chosen.h"
#include "histogram.h"

enum {
	MOST_THREADS = 1024,
};

struct thread {
	u32 process;
	u32 halfway; /* it was preempted on its way to sleep, and so it waits */
	u64 runnable_since; /* 0: it runs, or sleeps */
	u64 runs; /* switches to it */
	u64 preempted; /* switches from it while it could still run */
	struct histogram wait;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_THREADS);
	__type(key, u32);
	__type(value, struct thread);
} THREADS SEC(".maps");

/* A thread that is seen for the first time: too large for a program's stack. */
static volatile const struct thread FRESH = {};

static INLINE struct thread *thread_of(const struct task_struct *task)
{
	u32 number = task->pid;
	struct thread *thread = bpf_map_lookup_elem(&THREADS, &number);

	if (thread)
		return thread;
	bpf_map_update_elem(&THREADS, &number, (const void *)&FRESH, BPF_NOEXIST);
	thread = bpf_map_lookup_elem(&THREADS, &number);
	if (thread) {
		thread->process = task->tgid;
		return thread;
	}
	leave_out();
	return NULL;
}

static INLINE int woken(const struct task_struct *task)
{
	struct thread *thread;

	if (!is_chosen(task->tgid))
		return 0;
	thread = thread_of(task);
	/* One that still runs on its way to sleep does not wait: the switch from it says what is true. */
	if (thread && !thread->halfway)
		thread->runnable_since = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sched_wakeup")
int woke_up(u64 *context)
{
	return woken((void *)context[0]);
}

SEC("tp_btf/sched_wakeup_new")
int woke_up_new(u64 *context)
{
	return woken((void *)context[0]);
}

SEC("tp_btf/sched_switch")
int switched(u64 *context)
{
	struct task_struct *from = (void *)context[1], *to = (void *)context[2];
	/* It stays on the run queue if it was preempted, in whatever state, or is TASK_RUNNING. */
	bool preempted = (u8)context[0], running = !(u32)context[3], runnable = preempted || running;
	struct thread *thread;
	u64 now;

	if (is_chosen(from->tgid)) {
		thread = thread_of(from);
		if (thread) {
			thread->runnable_since = runnable ? bpf_ktime_get_ns() : 0;
			thread->halfway = preempted && !running;
			thread->preempted += runnable;
		}
	}
	if (is_chosen(to->tgid)) {
		thread = thread_of(to);
		if (thread) {
			now = bpf_ktime_get_ns();
			thread->runs++;
			if (thread->runnable_since && now > thread->runnable_since)
				histogram_add(&thread->wait, now - thread->runnable_since);
			thread->runnable_since = 0;
			thread->halfway = false;
		}
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
