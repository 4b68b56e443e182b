//! `[passive]` of `canary.toml`: where the game's own header says what is measured, and how its sessions are labelled.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// `[passive]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passive {
    /// The number that the server gives to each packet to a client. With `acknowledgement` it makes round trips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Field>,
    /// The newest such number that a client says to have, in the client's packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<Field>,
    /// The number that a client gives to each of its packets: needed where it repeats an acknowledgement in several, so that
    /// the loss of the first does not lengthen the round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_sequence: Option<Field>,
    /// Most sessions at a time: about 4 KiB of kernel memory each.
    #[serde(default = "default_max_sessions")]
    pub max_sessions: u32,
    /// What the label `server` is.
    #[serde(default)]
    pub server: ServerId,
    /// Names of servers by their UDP port; these ports are measured, and only these. `steer.server_port` when empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<Port, String>,
    /// Table of networks as the judge reads it, for the label `isp` by the longest prefix that holds a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isps: Option<PathBuf>,
}

/// A UDP port as the key of a table, where TOML has text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(pub u16);

impl Serialize for Port {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let port = text.parse().ok().filter(|port| *port != 0);
        port.map(Self).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no UDP port: write 1 to 65535")))
    }
}

/// A whole number in the UDP payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// First byte after the UDP header.
    pub offset: u16,
    /// 1, 2, 4 or 8.
    pub bytes: u8,
    /// Which byte comes first.
    #[serde(default)]
    pub order: Order,
}

/// Byte order of a [`Field`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The most significant: network byte order.
    #[default]
    Big,
    /// The least significant.
    Little,
}

/// What tells servers apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerId {
    /// The local UDP port, by its name in `servers`.
    #[default]
    Port,
    /// The control group of the process that sends: last part of its path, such as `game-7.service`. Host mode only.
    Cgroup,
}

/// Names of servers, so that metrics stay small.
const MOST_SERVERS: usize = 64;
/// A field lies in a packet that passes every path unfragmented.
const MAX_OFFSET: u16 = 1_200;
/// 4 GiB of kernel memory.
const MOST_SESSIONS: u32 = 1 << 20;

fn default_max_sessions() -> u32 {
    20_000
}

impl Passive {
    /// What is out of range, as a sentence that names the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fields = [
            ("sequence", self.sequence),
            ("acknowledgement", self.acknowledgement),
            ("client_sequence", self.client_sequence),
        ];
        for (name, field) in fields {
            let Some(Field { offset, bytes, .. }) = field else { continue };
            if !matches!(bytes, 1 | 2 | 4 | 8) {
                return Err(format!("passive.{name}.bytes {bytes}: write 1, 2, 4 or 8"));
            }
            if offset > MAX_OFFSET {
                return Err(format!("passive.{name}.offset {offset} is outside 0 to {MAX_OFFSET}"));
            }
        }
        match (self.sequence, self.acknowledgement) {
            (Some(sequence), Some(acknowledgement)) if sequence.bytes != acknowledgement.bytes => {
                return Err("passive.acknowledgement.bytes must be those of passive.sequence, which it repeats".into());
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(
                    "passive.sequence and passive.acknowledgement go together: write both, or neither for residence"
                        .into(),
                );
            }
            (None, None) if self.client_sequence.is_some() => {
                return Err("passive.client_sequence is of use with passive.sequence alone: remove it".into());
            }
            _ => {}
        }
        if !(1..=MOST_SESSIONS).contains(&self.max_sessions) {
            return Err(format!("passive.max_sessions {} is outside 1 to {MOST_SESSIONS}", self.max_sessions));
        }
        if self.servers.len() > MOST_SERVERS {
            return Err(format!("passive.servers names {} servers: at most {MOST_SERVERS}", self.servers.len()));
        }
        Ok(())
    }
}
