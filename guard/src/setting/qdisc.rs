//! The root qdisc of a port: the kernel's own tree can be replaced by one of ours and comes back when ours is deleted; a tree that somebody
//! made cannot be written back to the octet and is left alone.

use std::{fs, io};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use crate::Rtnetlink;

/// Major number of our handles, as of the tag of our rules: `222:`.
const MAJOR: u16 = 0x222;
/// How the text of the kernel's own tree begins.
const DEFAULT: &str = "default";

/// All of a port's qdiscs as the kernel tells them, the root first; the invisible parts of the kernel's default `mq` are left out as `tc qdisc`
/// does.
///
/// # Errors
/// As the kernel gave it.
pub fn qdiscs(index: u32) -> io::Result<Vec<TcMessage>> {
    let index = index.cast_signed();
    let mut request = TcMessage::default();
    request.header.index = index;
    let mut rtnetlink = Rtnetlink::open(None).map_err(io::Error::other)?;
    let answers = rtnetlink.dump(RouteNetlinkMessage::GetQueueDiscipline(request))?;
    let mut qdiscs: Vec<TcMessage> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) if qdisc.header.index == index => Some(qdisc),
            _ => None,
        })
        .collect();
    qdiscs.sort_by_key(|qdisc| qdisc.header.parent != TcHandle::ROOT);
    Ok(qdiscs)
}

fn index(port: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{port}/ifindex"))?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Handle and kind of each qdisc of the egress tree, the root first.
fn tree(port: &str) -> io::Result<Vec<(u16, String)>> {
    let kind = |message: &TcMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })
    };
    let all = qdiscs(index(port)?)?;
    let told = all.iter().filter_map(|message| Some((message.header.handle.major, kind(message)?)));
    Ok(told.filter(|(_, kind)| kind != "ingress" && kind != "clsact").collect())
}

pub(super) fn read(port: &str) -> io::Result<String> {
    let tree = tree(port)?;
    let Some((root, _)) = tree.first() else { return Err(io::ErrorKind::Unsupported.into()) };
    let kinds: Vec<&str> = tree.iter().map(|(_, kind)| kind.as_str()).collect();
    Ok(match *root {
        0 => format!("{DEFAULT} {}", kinds.join(" ")),
        MAJOR => kinds.join(" "),
        other => format!("{other:x}: {}", kinds.join(" ")),
    })
}

pub(super) fn write(port: &str, value: &str) -> io::Result<()> {
    let mut rtnetlink = Rtnetlink::open(None).map_err(io::Error::other)?;
    let mut message = TcMessage::default();
    message.header.index = index(port)?.cast_signed();
    message.header.parent = TcHandle::ROOT;
    let kinds: Vec<&str> = value.split_whitespace().collect();
    match kinds.as_slice() {
        [DEFAULT, ..] => rtnetlink.change(RouteNetlinkMessage::DelQueueDiscipline(message)),
        [root, children @ ..] if is_name(root) && children.iter().all(|kind| is_name(kind)) => {
            message.header.handle = TcHandle { major: MAJOR, minor: 0 };
            message.attributes = vec![TcAttribute::Kind((*root).to_owned())];
            rtnetlink.replace(RouteNetlinkMessage::NewQueueDiscipline(message.clone()))?;
            for (minor, kind) in (1..).zip(children) {
                message.header.parent = TcHandle { major: MAJOR, minor };
                message.header.handle = TcHandle { major: 0, minor: 0 };
                message.attributes = vec![TcAttribute::Kind((*kind).to_owned())];
                rtnetlink.replace(RouteNetlinkMessage::NewQueueDiscipline(message.clone()))?;
            }
            Ok(())
        }
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

pub(super) fn check(port: &str, wanted: &str) -> Result<(), String> {
    let tree = tree(port).map_err(|error| format!("the qdiscs of {port}: {error}"))?;
    let Some((root, kind)) = tree.first() else { return Err(format!("{port} has no qdisc")) };
    if *root != 0 {
        return Err(format!(
            "root {kind} {root:x}: was put there by somebody, and could not be written back to the octet: see who, then delete it"
        ));
    }
    if let Some((handle, kind)) = tree.iter().find(|(handle, _)| *handle != 0) {
        return Err(format!("{kind} {handle:x}: was put below the root by somebody, and would be lost"));
    }
    if !wanted.split_whitespace().all(is_name) || wanted.is_empty() || wanted.starts_with(DEFAULT) {
        return Err(format!("{wanted:?} is no kind of qdisc"));
    }
    // What comes back is what the kernel would make now, which need not be what it made when the port came up.
    let own = fs::read_to_string("/proc/sys/net/core/default_qdisc");
    let remade = |kind: &str| matches!(kind, "noqueue" | "mq") || own.as_ref().is_ok_and(|own| own.trim() == kind);
    match tree.iter().find(|(_, kind)| !remade(kind)) {
        None => Ok(()),
        Some((_, kind)) => Err(format!(
            "the kernel would bring back {} instead of {kind}: net.core.default_qdisc was changed since, or cannot be read here",
            own.as_deref().map_or("another", str::trim)
        )),
    }
}

/// The kernel's kinds are short words of small letters.
fn is_name(kind: &str) -> bool {
    !kind.is_empty() && kind.len() < 16 && kind.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}
