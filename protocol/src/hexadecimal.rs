//! Bytes as text.

/// Two digits for each byte.
///
/// ```
/// use context_manager_protocol::hexadecimal::hexadecimal;
///
/// assert_eq!(hexadecimal(&[0, 0xAB]), "00ab");
/// ```
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
