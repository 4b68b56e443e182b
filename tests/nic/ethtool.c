// SPDX-License-Identifier: GPL-2.0
/* What ethtool(8) shows and sets. */
#include <linux/ethtool.h>

#include "testnic.h"

static const char counters[COUNTERS][ETH_GSTRING_LEN] = {
	[COUNT_RING_FULL] = "rx_ring_full",
	[COUNT_TX_STAMPS] = "tx_hwtstamp",
	[COUNT_TX_STAMPS_SKIPPED] = "tx_hwtstamp_skipped",
	[COUNT_TX_STAMPS_LOST] = "tx_hwtstamp_lost",
	[COUNT_RX_STAMPS] = "rx_hwtstamp",
	[COUNT_RX_STAMPS_LATCHED_OUT] = "rx_hwtstamp_latched_out",
	[COUNT_XDP_TX] = "xdp_tx",
	[COUNT_XDP_REDIRECT] = "xdp_redirect",
	[COUNT_XDP_DROP] = "xdp_drop",
};

static void get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "testnic", sizeof(info->driver));
}

static int get_ts_info(struct net_device *dev, struct kernel_ethtool_ts_info *info)
{
	struct testnic_port *port = netdev_priv(dev);

	info->so_timestamping = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
				SOF_TIMESTAMPING_TX_HARDWARE | SOF_TIMESTAMPING_RX_HARDWARE | SOF_TIMESTAMPING_RAW_HARDWARE;
	info->phc_index = ptp_clock_index(port->clock.ptp);
	info->tx_types = BIT(HWTSTAMP_TX_OFF) | BIT(HWTSTAMP_TX_ON);
	info->rx_filters = BIT(HWTSTAMP_FILTER_NONE) | BIT(HWTSTAMP_FILTER_PTP_V2_EVENT) | BIT(HWTSTAMP_FILTER_PTP_V2_L4_EVENT);
	if (port->knobs[KNOB_RECEIVE_ALL])
		info->rx_filters |= BIT(HWTSTAMP_FILTER_ALL);
	return 0;
}

static void get_ringparam(struct net_device *dev, struct ethtool_ringparam *ring, struct kernel_ethtool_ringparam *kernel,
			  struct netlink_ext_ack *extack)
{
	struct testnic_port *port = netdev_priv(dev);

	ring->rx_max_pending = TESTNIC_RING_MAX;
	ring->rx_pending = port->ring_size;
	/* What leaves is on the wire at once. */
	ring->tx_max_pending = TESTNIC_RING_MAX;
	ring->tx_pending = TESTNIC_RING_MAX;
}

static int set_ringparam(struct net_device *dev, struct ethtool_ringparam *ring, struct kernel_ethtool_ringparam *kernel,
			 struct netlink_ext_ack *extack)
{
	if (!ring->rx_pending || ring->tx_pending != TESTNIC_RING_MAX)
		return -EINVAL;
	((struct testnic_port *)netdev_priv(dev))->ring_size = ring->rx_pending;
	return 0;
}

static void get_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	channels->max_combined = TESTNIC_QUEUES;
	channels->combined_count = dev->real_num_rx_queues;
}

static int set_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	int error = netif_set_real_num_rx_queues(dev, channels->combined_count);

	return error ?: netif_set_real_num_tx_queues(dev, channels->combined_count);
}

static int get_sset_count(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? COUNTERS : -EOPNOTSUPP;
}

static void get_strings(struct net_device *dev, u32 set, u8 *strings)
{
	if (set == ETH_SS_STATS)
		memcpy(strings, counters, sizeof(counters));
}

static void get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *values)
{
	struct testnic_port *port = netdev_priv(dev);

	for (int i = 0; i < COUNTERS; i++)
		values[i] = atomic64_read(&port->counters[i]);
}

static int get_link_ksettings(struct net_device *dev, struct ethtool_link_ksettings *settings)
{
	settings->base.speed = SPEED_10000;
	settings->base.duplex = DUPLEX_FULL;
	settings->base.port = PORT_OTHER;
	return 0;
}

const struct ethtool_ops testnic_ethtool_ops = {
	.get_drvinfo = get_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_link_ksettings = get_link_ksettings,
	.get_ts_info = get_ts_info,
	.get_ringparam = get_ringparam,
	.set_ringparam = set_ringparam,
	.get_channels = get_channels,
	.set_channels = set_channels,
	.get_sset_count = get_sset_count,
	.get_strings = get_strings,
	.get_ethtool_stats = get_ethtool_stats,
};
