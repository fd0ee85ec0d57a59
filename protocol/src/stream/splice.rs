//! Cuts a value out of an encoded map, and appends one, without decoding it.

use serde::{Deserialize as _, de::IgnoredAny};

use crate::codec::Format;

/// The bytes of the value of `key` in a `MessagePack` map that was decoded before, so that its depth is bounded.
pub(super) fn value<'a>(map: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let (mut rest, entries) = entries(map)?;
    for _ in 0..entries {
        let name = take(&mut rest)?;
        let value = take(&mut rest)?;
        if rmp_serde::from_slice::<&str>(name).is_ok_and(|name| name == key) {
            return Some(value);
        }
    }
    None
}

/// A map's length, and what follows it (the `MessagePack` specification, "map format family").
fn entries(map: &[u8]) -> Option<(&[u8], usize)> {
    match *map {
        [first @ 0x80..=0x8f, ref rest @ ..] => Some((rest, usize::from(first & 0x0f))),
        [0xde, a, b, ref rest @ ..] => Some((rest, usize::from(u16::from_be_bytes([a, b])))),
        [0xdf, a, b, c, d, ref rest @ ..] => Some((rest, u32::from_be_bytes([a, b, c, d]).try_into().ok()?)),
        _ => None,
    }
}

/// The bytes of the next value.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let before = *rest;
    IgnoredAny::deserialize(&mut rmp_serde::Deserializer::new(&mut *rest)).ok()?;
    before.get(..before.len() - rest.len())
}

/// A map with one more entry, whose value is already encoded. The map is one of ours: not empty, and of fewer than 15 entries.
pub(super) fn append(format: Format, mut map: Vec<u8>, key: &str, value: &[u8]) -> Vec<u8> {
    map.reserve(value.len() + key.len() + 8);
    match format {
        Format::Json => {
            map.pop();
            map.push(b',');
            map.extend(Format::Json.encode(&key));
            map.push(b':');
            map.extend_from_slice(value);
            map.push(b'}');
        }
        Format::MessagePack => {
            if let Some(length) = map.first_mut() {
                *length += 1;
            }
            map.extend(Format::MessagePack.encode(&key));
            map.extend_from_slice(value);
        }
    }
    map
}
