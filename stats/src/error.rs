//! What a caller can get wrong: numbers outside the range in which a method means anything.

/// A refused argument.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A quantile level outside (0, 1).
    #[error("quantile level {0} is outside 0 to 1, both exclusive: write such as 0.95")]
    Level(f64),
    /// A confidence outside (0, 1).
    #[error("confidence {0} is outside 0 to 1, both exclusive: write such as 0.95")]
    Confidence(f64),
}
