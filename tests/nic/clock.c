// SPDX-License-Identifier: GPL-2.0
/* The PHC: the kernel's raw clock, with an offset of its own and a rate that is wrong by the oscillator's error until it is adjusted. */
#include "testnic.h"

static s64 ppb(const struct testnic_clock *clock)
{
	return clock->oscillator_ppb + clock->adjusted_ppb;
}

/* What the clock shows when the raw clock shows `raw`. Caller holds the lock. */
static u64 at(const struct testnic_clock *clock, u64 raw)
{
	s64 passed = raw - clock->raw;
	s64 rate = ppb(clock);
	u64 error = mul_u64_u64_div_u64(abs(passed), abs(rate), NSEC_PER_SEC);

	return clock->time + passed + ((passed < 0) == (rate < 0) ? error : -error);
}

u64 testnic_clock_at(struct testnic_clock *clock, u64 raw)
{
	unsigned long flags;
	u64 time;

	spin_lock_irqsave(&clock->lock, flags);
	time = at(clock, raw);
	spin_unlock_irqrestore(&clock->lock, flags);
	return time;
}

/* From now on by other parameters, without a step. Caller holds the lock. */
static void rebase(struct testnic_clock *clock)
{
	u64 raw = ktime_get_raw_ns();

	clock->time = at(clock, raw);
	clock->raw = raw;
}

void testnic_clock_oscillator(struct testnic_clock *clock, s64 oscillator_ppb)
{
	unsigned long flags;

	spin_lock_irqsave(&clock->lock, flags);
	rebase(clock);
	clock->oscillator_ppb = oscillator_ppb;
	spin_unlock_irqrestore(&clock->lock, flags);
}

static struct testnic_clock *of(struct ptp_clock_info *info)
{
	return container_of(info, struct testnic_clock, info);
}

static int adjfine(struct ptp_clock_info *info, long scaled_ppm)
{
	struct testnic_clock *clock = of(info);
	unsigned long flags;

	spin_lock_irqsave(&clock->lock, flags);
	rebase(clock);
	clock->adjusted_ppb = scaled_ppm_to_ppb(scaled_ppm);
	spin_unlock_irqrestore(&clock->lock, flags);
	return 0;
}

static int adjtime(struct ptp_clock_info *info, s64 delta)
{
	struct testnic_clock *clock = of(info);
	unsigned long flags;

	spin_lock_irqsave(&clock->lock, flags);
	clock->time += delta;
	spin_unlock_irqrestore(&clock->lock, flags);
	return 0;
}

static int gettimex64(struct ptp_clock_info *info, struct timespec64 *time, struct ptp_system_timestamp *between)
{
	u64 raw;

	ptp_read_system_prets(between);
	raw = ktime_get_raw_ns();
	ptp_read_system_postts(between);
	*time = ns_to_timespec64(testnic_clock_at(of(info), raw));
	return 0;
}

static int settime64(struct ptp_clock_info *info, const struct timespec64 *time)
{
	struct testnic_clock *clock = of(info);
	unsigned long flags;

	spin_lock_irqsave(&clock->lock, flags);
	clock->raw = ktime_get_raw_ns();
	clock->time = timespec64_to_ns(time);
	spin_unlock_irqrestore(&clock->lock, flags);
	return 0;
}

int testnic_clock_register(struct testnic_port *port)
{
	struct testnic_clock *clock = &port->clock;

	spin_lock_init(&clock->lock);
	clock->raw = ktime_get_raw_ns();
	/* As cards do that nobody has set: time since they were switched on. */
	clock->time = clock->raw;
	clock->info = (struct ptp_clock_info){
		.owner = THIS_MODULE,
		.name = "testnic",
		.max_adj = 500000000,
		.adjfine = adjfine,
		.adjtime = adjtime,
		.gettimex64 = gettimex64,
		.settime64 = settime64,
	};
	clock->ptp = ptp_clock_register(&clock->info, port->dev->dev.parent);
	return PTR_ERR_OR_ZERO(clock->ptp);
}

void testnic_clock_unregister(struct testnic_port *port)
{
	if (!IS_ERR_OR_NULL(port->clock.ptp))
		ptp_clock_unregister(port->clock.ptp);
}
