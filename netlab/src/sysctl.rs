//! Kernel parameters of a namespace, written through `/proc/sys/net`, which shows each thread the namespace that it is in.

use std::fs;

use crate::{
    error::{Error, Result},
    netns::Namespace,
};

/// Sets `key`, spelled as for `sysctl`, such as `net.ipv4.ip_forward`.
///
/// # Errors
/// No such key, a value that the kernel refuses, or missing privilege.
pub fn set(namespace: &Namespace, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    namespace.run(|| fs::write(path, value))?.map_err(|source| Error::Sysctl {
        namespace: namespace.name().to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}
