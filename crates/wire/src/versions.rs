//! Which versions of each kind of request are spoken. What each version holds is left to `thalweg.proto`.

use thalweg_api::{ApiError, ErrorCode, FrameKind, VersionRange};

/// Versions of every request kind that this build speaks; version 1 is all there is.
pub fn versions() -> Vec<VersionRange> {
    FrameKind::ALL.iter().map(|k| VersionRange { kind: *k as u32, min: 1, max: 1 }).collect()
}

/// The versions that both sides speak.
///
/// # Errors
/// Names the first kind of ours that the other side knows in no common version.
pub fn agree(theirs: &[VersionRange]) -> Result<(), ApiError> {
    for ours in versions() {
        if let Some(other) = theirs.iter().find(|v| v.kind == ours.kind)
            && (other.min > ours.max || other.max < ours.min)
        {
            return Err(ApiError::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "request kind {} is spoken in versions {}..={} there and {}..={} here; upgrade the older side",
                    ours.kind, other.min, other.max, ours.min, ours.max
                ),
            ));
        }
    }
    Ok(())
}
