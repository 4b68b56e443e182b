//! The plain echo over a socket, as a process: `recvmmsg-echo ADDR:PORT`, until it is killed.

use std::{env, net::UdpSocket, sync::atomic::AtomicBool};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let address = env::args().nth(1).context("recvmmsg-echo ADDR:PORT")?;
    let socket = UdpSocket::bind(&address).context(address)?;
    pathlab_benches::echo::recvmmsg_echo(&socket, &AtomicBool::new(false))?;
    Ok(())
}
