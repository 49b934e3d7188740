//! Tokens, by which a producer proves that its id was given to it.
//!
//! Any broker can tell whether a batch comes from the producer that got its id, although nobody keeps a list of the ids
//! given out: the token is a keyed hash of the id under a secret that only brokers know (ADR 15). Which sequences a
//! producer has written is left to `commit-log`.

use std::fmt;

use sha2::{Digest, Sha256};
use thalweg_model::{ProducerId, ProducerToken};

/// The cluster's secret behind the tokens of its producers: HMAC-SHA-256, keyed once.
#[derive(Clone)]
pub struct ProducerSecret {
    secret: [u8; 32],
    inner: Sha256,
    outer: Sha256,
}

impl ProducerSecret {
    /// Makes the secret of 32 random bytes.
    pub fn new(secret: [u8; 32]) -> ProducerSecret {
        let keyed = |pad: u8| {
            let mut block = [pad; BLOCK_BYTES];
            block.iter_mut().zip(secret).for_each(|(b, s)| *b ^= s);
            Sha256::new().chain_update(block)
        };
        ProducerSecret { secret, inner: keyed(0x36), outer: keyed(0x5c) }
    }

    /// The 32 random bytes that the secret was made of.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The token of the producer with this id: the first half of HMAC-SHA-256 over the id's bytes, little-endian.
    pub fn token(&self, id: ProducerId) -> ProducerToken {
        let hash = self.hash(&id.0.to_le_bytes());
        ProducerToken(*hash.first_chunk().expect("a hash is longer than its half"))
    }

    /// True if `token` is the token of `id`. The comparison takes the same time for a wrong token as for the right one.
    pub fn proves(&self, id: ProducerId, token: &[u8]) -> bool {
        let right = self.token(id).0;
        token.len() == right.len() && token.iter().zip(right).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    fn hash(&self, message: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(message).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

impl PartialEq for ProducerSecret {
    fn eq(&self, other: &ProducerSecret) -> bool {
        self.secret == other.secret
    }
}

impl Eq for ProducerSecret {}

impl fmt::Debug for ProducerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProducerSecret(…)")
    }
}

/// Bytes of SHA-256's block, to which HMAC pads its key (RFC 2104).
const BLOCK_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_hmac_sha_256() {
        // RFC 4231, test case 1; its key of 20 bytes and ours of 32 are both padded with zeros.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let hash = ProducerSecret::new(key).hash(b"Hi There");
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn a_token_proves_its_own_id_under_its_own_secret_only() {
        let (ours, other) = (ProducerSecret::new([1; 32]), ProducerSecret::new([2; 32]));
        let token = ours.token(ProducerId(7)).0;
        assert!(ours.proves(ProducerId(7), &token));
        assert!(!ours.proves(ProducerId(8), &token) && !other.proves(ProducerId(7), &token));
        assert!(!ours.proves(ProducerId(7), &token[..15]) && !ours.proves(ProducerId(7), &[]));
        let mut flipped = token;
        flipped[15] ^= 1;
        assert!(!ours.proves(ProducerId(7), &flipped));
        assert_eq!(format!("{:?} {:?}", ours, ours.token(ProducerId(7))), "ProducerSecret(…) ProducerToken(…)");
    }
}
