//! ChaCha20-Poly1305 by `ring`, as noise uses it: what encryption alone costs on this machine.

use std::io;
use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// A message with its tag. Noise has room for 65535 bytes.
pub const MESSAGE: usize = 64 * 1024 - 1;
/// Of these, what was sealed.
pub const PAYLOAD: usize = MESSAGE - TAG;

const TAG: usize = 16;

/// One direction of a sealed pipe. The key is known to all: this protects nothing.
#[derive(Debug)]
pub struct Cipher {
    key: LessSafeKey,
    next: u64,
}

impl Default for Cipher {
    fn default() -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]);
        Self {
            key: LessSafeKey::new(key.expect("a key has 32 bytes")),
            next: 0,
        }
    }
}

impl Cipher {
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals all of `message` but the room for its tag.
    pub fn seal(&mut self, message: &mut [u8; MESSAGE]) -> io::Result<()> {
        let nonce = self.nonce();
        let (payload, room) = message.split_at_mut(PAYLOAD);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), payload);
        let tag = tag.map_err(io::Error::other)?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens what the other side's [`Cipher::seal`] gave, in the same order.
    pub fn open(&mut self, message: &mut [u8; MESSAGE]) -> io::Result<()> {
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::empty(), message);
        opened.map(|_| ()).map_err(io::Error::other)
    }
}

/// What one core seals, and what one core opens, in bytes a second.
pub fn rates(time: Duration) -> [f64; 2] {
    let mut message = Box::new([0; MESSAGE]);
    let mut sealing = Cipher::default();
    let seal = rate(time, || sealing.seal(&mut message));
    // Opening in place leaves the plain text behind, so that a sealed copy is opened each time. The
    // copy takes a few per cent of the time.
    let mut sealed = Box::new([0; MESSAGE]);
    let sealed_once = Cipher::default().seal(&mut sealed);
    sealed_once.expect("it fits");
    let open = rate(time, || {
        message.copy_from_slice(&*sealed);
        Cipher::default().open(&mut message)
    });
    [seal, open]
}

fn rate(time: Duration, mut work: impl FnMut() -> io::Result<()>) -> f64 {
    let start = Instant::now();
    let mut messages = 0_u32;
    while start.elapsed() < time {
        work().expect("the cipher works");
        messages += 1;
    }
    f64::from(messages) * f64::from(u16::try_from(PAYLOAD).unwrap_or(u16::MAX))
        / start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_seals_the_other_opens_in_order() {
        let (mut near, mut far) = (Cipher::default(), Cipher::default());
        for number in 0..3 {
            let mut message = Box::new([number; MESSAGE]);
            near.seal(&mut message).unwrap();
            assert_ne!(message[0], number);
            far.open(&mut message).unwrap();
            assert_eq!(message[..PAYLOAD], [number; PAYLOAD]);
        }
    }
}
